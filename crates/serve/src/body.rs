//! Bodies of requests: within limits of size, time and memory, which is taken as bytes arrive and not as they are promised.

use crate::Settings;
use crate::refusal::Refusal;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a permit.
const GRAIN: usize = 1024;
/// A body that is too large is read on for so long, so that its sender sees the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Memory for bodies, in grains.
pub struct Memory(Arc<Semaphore>);

/// What holds a body's share of the memory.
pub type Share = OwnedSemaphorePermit;

impl Memory {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / GRAIN).clamp(1, Semaphore::MAX_PERMITS))))
    }

    fn take(&self, grains: usize) -> Result<Share, Refusal> {
        let share =
            u32::try_from(grains).ok().and_then(|grains| Arc::clone(&self.0).try_acquire_many_owned(grains).ok());
        share.ok_or_else(|| Refusal::busy("too many bodies are on their way: try again in 1 s", 1).closing())
    }
}

/// A body of at most so many bytes, in time, with its share of the memory.
///
/// # Errors
/// 413, 408 or 503, and 400 for one that was cut short.
pub async fn read(
    settings: &Settings,
    memory: &Memory,
    headers: &HeaderMap,
    mut body: Body,
    most: usize,
) -> Result<(Bytes, Share), Refusal> {
    let large = |what: String| {
        let what = format!("{what}, above the limit of {most}: send less");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, what).closing()
    };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|&length| length > most as u64) {
        // Who asks before sending has not sent.
        if !headers.contains_key(header::EXPECT) {
            linger(body).await;
        }
        return Err(large(format!("the body has {length} bytes")));
    }
    let start = Instant::now();
    let (mut bytes, mut share, mut held) = (Vec::new(), memory.take(0)?, 0);
    loop {
        let Ok(frame) = timeout_at(start + allowed(settings, bytes.len()), body.frame()).await else {
            let seconds = start.elapsed().as_secs_f64();
            let what =
                format!("the body is too slow, {} bytes in {seconds:.1} s: send it faster, or less", bytes.len());
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, what).closing());
        };
        let Some(frame) = frame else { return Ok((bytes.into(), share)) };
        let frame = frame.map_err(|_| Refusal::bad("the body was cut short: send it again").closing())?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            linger(body).await;
            return Err(large("the body goes on".into()));
        }
        let grains = (bytes.len() + data.len()).div_ceil(GRAIN);
        share.merge(memory.take(grains - held)?);
        held = grains;
        // The whole at once where it is known: it is memory only once it is written.
        let rest = length.map_or(data.len(), |length| usize::try_from(length).unwrap_or(most) - bytes.len());
        bytes.try_reserve(rest.max(data.len())).map_err(|_| Refusal::busy("no memory: try again", 1).closing())?;
        bytes.extend_from_slice(&data);
    }
}

/// How long a body of which so many bytes have come may take to its next one.
fn allowed(settings: &Settings, bytes: usize) -> Duration {
    let kept = Duration::from_secs_f64(bytes as f64 / settings.body_rate.max(1) as f64);
    settings.body_grace.saturating_add(kept).min(settings.body_time)
}

/// Reads on for a moment and keeps nothing: a connection that is closed with bytes unread takes its answer with it.
async fn linger(mut body: Body) {
    let _ = timeout(LINGER, async { while let Some(Ok(_)) = body.frame().await {} }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_grace_then_its_rate_and_no_more_than_its_time() {
        let seconds = Duration::from_secs;
        let settings =
            Settings { body_rate: 1000, body_grace: seconds(5), body_time: seconds(30), ..Settings::default() };
        let wanted = [(0, 5), (1000, 6), (25_000, 30), (1 << 40, 30)];
        assert!(wanted.iter().all(|&(bytes, time)| allowed(&settings, bytes) == seconds(time)));
        // No rate is the least.
        assert_eq!(allowed(&Settings { body_rate: 0, ..settings.clone() }, 3), seconds(8));
        let endless = Settings { body_grace: Duration::MAX, ..settings };
        assert_eq!(allowed(&endless, 1000), seconds(30));
    }
}
