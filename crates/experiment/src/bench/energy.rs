//! Energy, where the machine says: RAPL's counters of processor packages, or the INA3221 of a Jetson's supply rails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two readings of a power.
const PERIOD: Duration = Duration::from_millis(20);

/// Joules since the meter was found, of everything that runs.
#[derive(Debug)]
pub struct Meter {
    source: Source,
    /// What is read, in words.
    pub name: String,
}

#[derive(Debug)]
enum Source {
    /// Files that count microjoules and begin anew, each with its range.
    Counters(Mutex<Vec<Counter>>),
    /// A thread that adds up powers.
    Powers { joules: Arc<Mutex<f64>>, stop: Arc<AtomicBool>, thread: Option<JoinHandle<()>> },
}

#[derive(Debug)]
struct Counter {
    file: PathBuf,
    range: u64,
    last: u64,
    total: u64,
}

impl Meter {
    /// One of this machine's, below `/sys`; none where it exposes none or lets only the superuser read.
    pub fn find() -> Option<Self> {
        Self::below(Path::new("/sys"))
    }

    fn below(sys: &Path) -> Option<Self> {
        Self::counters(&sys.join("class/powercap")).or_else(|| Self::powers(&sys.join("class/hwmon")))
    }

    /// Packages alone: `intel-rapl:0`, not its parts `intel-rapl:0:1`.
    fn counters(folder: &Path) -> Option<Self> {
        let zones = folders(folder).into_iter().filter(|zone| {
            let name = zone.file_name().unwrap_or_default().to_string_lossy();
            name.matches(':').count() == 1 && text(&zone.join("name")).is_some_and(|name| name.starts_with("package"))
        });
        let counters: Vec<Counter> = zones
            .filter_map(|zone| {
                let (file, range) = (zone.join("energy_uj"), number(&zone.join("max_energy_range_uj"))?);
                Some(Counter { last: number(&file)?, file, range, total: 0 })
            })
            .collect();
        let name = format!("RAPL, {} package(s)", counters.len());
        (!counters.is_empty()).then(|| Self { source: Source::Counters(Mutex::new(counters)), name })
    }

    /// The rail of the whole board where it is named, else all of them together.
    fn powers(folder: &Path) -> Option<Self> {
        let chips =
            folders(folder).into_iter().filter(|chip| text(&chip.join("name")).is_some_and(|name| name == "ina3221"));
        let mut rails: Vec<(String, [PathBuf; 2])> = Vec::new();
        for chip in chips {
            for rail in 1..=3 {
                let files = ["in", "curr"].map(|what| chip.join(format!("{what}{rail}_input")));
                if files.iter().all(|file| number(file).is_some()) {
                    let label = text(&chip.join(format!("in{rail}_label"))).unwrap_or_default();
                    rails.push((label, files));
                }
            }
        }
        if let Some(whole) = rails.iter().position(|(label, _)| label.contains("VDD_IN") || label.contains("POM_5V_IN"))
        {
            rails = vec![rails.swap_remove(whole)];
        }
        if rails.is_empty() {
            return None;
        }
        let labels: Vec<String> = rails.iter().map(|(label, _)| label.clone()).collect();
        let (joules, stop) = (Arc::new(Mutex::new(0.0)), Arc::new(AtomicBool::new(false)));
        let (sum, end) = (Arc::clone(&joules), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut last = Instant::now();
            while !end.load(Ordering::Relaxed) {
                thread::sleep(PERIOD);
                // Millivolts by milliamperes are microwatts.
                let watts: f64 = rails.iter().map(|(_, [volts, amperes])| milli(volts) * milli(amperes) / 1e6).sum();
                let now = Instant::now();
                *sum.lock().unwrap_or_else(PoisonError::into_inner) += watts * (now - last).as_secs_f64();
                last = now;
            }
        });
        let source = Source::Powers { joules, stop, thread: Some(thread) };
        Some(Self { source, name: format!("INA3221, {}", labels.join(" + ")) })
    }

    /// Joules so far. Within a minute of the last call, or a counter may have gone round twice.
    #[allow(clippy::cast_precision_loss)]
    pub fn joules(&self) -> f64 {
        match &self.source {
            Source::Powers { joules, .. } => *joules.lock().unwrap_or_else(PoisonError::into_inner),
            Source::Counters(counters) => {
                let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
                let each = counters.iter_mut().map(|counter| {
                    if let Some(now) = number(&counter.file) {
                        let gone =
                            if now >= counter.last { now - counter.last } else { counter.range - counter.last + now };
                        counter.total += gone;
                        counter.last = now;
                    }
                    counter.total
                });
                each.sum::<u64>() as f64 / 1e6
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Source::Powers { stop, thread, .. } = &mut self.source {
            stop.store(true, Ordering::Relaxed);
            // It cannot have broken.
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_string())
}

fn number(file: &Path) -> Option<u64> {
    text(file)?.parse().ok()
}

#[allow(clippy::cast_precision_loss)]
fn milli(file: &Path) -> f64 {
    number(file).unwrap_or(0) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn packages_are_counted_and_go_round() {
        let sys = tempfile::tempdir().unwrap();
        let zone = |name: &str| sys.path().join("class/powercap").join(name);
        let range = ("max_energy_range_uj", "10000000");
        put(&zone("intel-rapl:0"), &[("name", "package-0"), ("energy_uj", "9000000"), range]);
        put(&zone("intel-rapl:0:0"), &[("name", "core"), ("energy_uj", "5"), range]);
        let meter = Meter::below(sys.path()).unwrap();
        assert_eq!(meter.joules(), 0.0);
        put(&zone("intel-rapl:0"), &[("energy_uj", "9500000")]);
        assert_eq!(meter.joules(), 0.5);
        put(&zone("intel-rapl:0"), &[("energy_uj", "1500000")]);
        assert_eq!(meter.joules(), 2.5);
    }

    #[test]
    fn a_board_s_rail_is_added_up() {
        let sys = tempfile::tempdir().unwrap();
        let rails = [("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "2000"), ("in2_label", "VDD_CPU")];
        put(&sys.path().join("class/hwmon/hwmon1"), &[("name", "cpu_thermal")]);
        put(&sys.path().join("class/hwmon/hwmon3"), &rails);
        put(&sys.path().join("class/hwmon/hwmon3"), &[("name", "ina3221"), ("in2_input", "9"), ("curr2_input", "9")]);
        let start = Instant::now();
        let meter = Meter::below(sys.path()).unwrap();
        assert!(meter.name.contains("VDD_IN") && !meter.name.contains("CPU"));
        thread::sleep(Duration::from_millis(300));
        let (joules, most) = (meter.joules(), 10.0 * start.elapsed().as_secs_f64());
        assert!(joules > 1.0 && joules <= most, "{joules} of at most {most}");
    }

    #[test]
    fn a_machine_may_expose_nothing() {
        assert!(Meter::below(tempfile::tempdir().unwrap().path()).is_none());
    }
}
