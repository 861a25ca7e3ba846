//! Counters, and their text for Prometheus (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets, seconds.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, many: u64) {
        self.0.fetch_add(many, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more until what is returned is dropped.
    pub fn one(&self) -> One<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(self)
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of a [`Gauge`].
#[derive(Debug)]
pub struct One<'a>(&'a Gauge);

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Times by bucket.
#[derive(Clone, Debug, Default)]
struct Times {
    buckets: [u64; BUCKETS.len()],
    sum: f64,
    count: u64,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    times: Mutex<BTreeMap<&'static str, Times>>,
    /// Requests that are being answered.
    pub open: Gauge,
    pub connections: Gauge,
    pub busy: Gauge,
    pub images: Count,
    pub views: Count,
    /// Pictures whose clients had gone before their turn.
    pub abandoned: Count,
    pub panics: Count,
    /// Microseconds of workers at pictures.
    pub worked: Count,
    pub promoted: Count,
    pub rejected: Count,
}

/// What the metrics say beside the counters.
pub struct Now<'a> {
    pub name: &'a str,
    pub device: &'a str,
    pub fallen: bool,
    pub generation: u64,
    pub waiting: usize,
    pub queue: usize,
    pub workers: usize,
    pub adapting: bool,
}

impl Metrics {
    /// A request that ended with this status, 499 where the client had gone.
    pub fn request(&self, route: &'static str, status: u16, time: Duration) {
        *lock(&self.requests).entry((route, status)).or_default() += 1;
        let seconds = time.as_secs_f64();
        let mut times = lock(&self.times);
        let times = times.entry(route).or_default();
        times.sum += seconds;
        times.count += 1;
        if let Some(bucket) = BUCKETS.iter().position(|&most| seconds <= most) {
            times.buckets[bucket] += 1;
        }
    }

    /// Seconds until so many pictures are done by so many workers, at least 1.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn patience(&self, pictures: usize, workers: usize) -> u64 {
        let each = self.worked.get() as f64 / 1e6 / self.images.get().max(1) as f64;
        (each * pictures as f64 / workers as f64).ceil().clamp(1.0, 60.0) as u64
    }

    /// The page.
    pub fn text(&self, now: &Now<'_>) -> String {
        let mut page = Page(String::new());
        page.head(
            "gabion_requests_total",
            "counter",
            "Requests that ended, by route and status; 499 is a client that left.",
        );
        for ((route, status), count) in lock(&self.requests).iter() {
            page.line("gabion_requests_total", &format!("route=\"{route}\",status=\"{status}\""), *count);
        }
        page.head("gabion_request_seconds", "histogram", "From a request's head to its answer.");
        for (route, times) in lock(&self.times).iter() {
            let mut below = 0;
            for (most, count) in BUCKETS.iter().zip(times.buckets) {
                below += count;
                page.line("gabion_request_seconds_bucket", &format!("route=\"{route}\",le=\"{most}\""), below);
            }
            page.line("gabion_request_seconds_bucket", &format!("route=\"{route}\",le=\"+Inf\""), times.count);
            page.line("gabion_request_seconds_sum", &format!("route=\"{route}\""), times.sum);
            page.line("gabion_request_seconds_count", &format!("route=\"{route}\""), times.count);
        }
        let seconds = Duration::from_micros(self.worked.get()).as_secs_f64();
        page.one("gabion_images_total", "counter", "Pictures that were classified.", self.images.get());
        page.one("gabion_views_total", "counter", "Views of them.", self.views.get());
        page.one("gabion_worked_seconds_total", "counter", "Time of workers at pictures.", seconds);
        page.one("gabion_abandoned_total", "counter", "Pictures whose clients left first.", self.abandoned.get());
        page.one("gabion_worker_panics_total", "counter", "Workers that broke and were replaced.", self.panics.get());
        page.one("gabion_requests_open", "gauge", "Requests under way.", self.open.get());
        page.one("gabion_connections", "gauge", "Connections.", self.connections.get());
        page.one("gabion_queue_depth", "gauge", "Pictures that wait for a worker.", now.waiting);
        page.one("gabion_queue_length", "gauge", "Pictures that may wait.", now.queue);
        page.one("gabion_workers", "gauge", "Workers.", now.workers);
        page.one("gabion_workers_busy", "gauge", "Workers at a picture.", self.busy.get());
        page.one("gabion_generation", "gauge", "Of the model that answers.", now.generation);
        page.one("gabion_device_fallen", "gauge", "1 where the CPU took over from the device.", u8::from(now.fallen));
        page.one("gabion_adapting", "gauge", "1 during an adaptation.", u8::from(now.adapting));
        page.head("gabion_adaptations_total", "counter", "Adaptations by their end.");
        page.line("gabion_adaptations_total", "verdict=\"promoted\"", self.promoted.get());
        page.line("gabion_adaptations_total", "verdict=\"rejected\"", self.rejected.get());
        page.head("gabion_info", "gauge", "What answers, and where.");
        let [name, device] = [now.name, now.device].map(escaped);
        page.line("gabion_info", &format!("model=\"{name}\",device=\"{device}\""), 1);
        for (field, name, what) in [
            ("VmRSS:", "process_resident_memory_bytes", "Resident memory."),
            ("VmHWM:", "process_resident_memory_peak_bytes", "Its peak."),
        ] {
            if let Some(bytes) = resident(field) {
                page.one(name, "gauge", what, bytes);
            }
        }
        page.0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, what: &str) {
        let _ = write!(self.0, "# HELP {name} {what}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, what: &str, value: impl std::fmt::Display) {
        self.head(name, kind, what);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A field of /proc/self/status in bytes; none where there is no such file.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_labels_are_escaped() {
        let metrics = Metrics::default();
        for (status, millis) in [(200, 2), (200, 30), (503, 0), (200, 60_000)] {
            metrics.request("/classify", status, Duration::from_millis(millis));
        }
        let now = Now {
            name: "a\"b\\c",
            device: "CPU",
            fallen: false,
            generation: 3,
            waiting: 1,
            queue: 2,
            workers: 4,
            adapting: false,
        };
        let text = metrics.text(&now);
        for line in [
            "gabion_requests_total{route=\"/classify\",status=\"200\"} 3",
            "gabion_request_seconds_bucket{route=\"/classify\",le=\"0.0025\"} 2",
            "gabion_request_seconds_bucket{route=\"/classify\",le=\"10\"} 3",
            "gabion_request_seconds_bucket{route=\"/classify\",le=\"+Inf\"} 4",
            "gabion_info{model=\"a\\\"b\\\\c\",device=\"CPU\"} 1",
            "gabion_generation 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn patience_is_bounded() {
        let metrics = Metrics::default();
        assert_eq!(metrics.patience(10, 2), 1);
        metrics.images.add(1);
        metrics.worked.add(4_000_000);
        assert_eq!(metrics.patience(10, 2), 20);
        assert_eq!(metrics.patience(1000, 2), 60);
    }
}
