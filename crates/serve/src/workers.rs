//! Threads that decode and classify, each at a seat of its own.

use crate::body::Share;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::refusal::Refusal;
use axum::body::Bytes;
use axum::http::StatusCode;
use gabion_runtime::{Classify, ClassifyError, PictureError, Prediction, Rgb};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;
use tokio::sync::oneshot;

/// A picture as it came.
pub enum Picture {
    /// A file of at most so many pixels.
    File(Bytes, u64),
    /// `[height, width, 3]`.
    Raw { height: usize, width: usize, pixels: Bytes },
}

/// A picture on its way through the queue.
pub struct Job {
    pub picture: Picture,
    pub options: Classify,
    /// Dropped without an answer where the worker broke; closed where the client has gone.
    pub answer: oneshot::Sender<Result<Answer, Refusal>>,
    /// The picture's share of the memory for bodies.
    pub share: Share,
}

/// What a worker says.
pub struct Answer {
    pub prediction: Prediction,
    pub generation: u64,
    /// Of the class, from the generation that answered.
    pub classes: Vec<String>,
}

/// What workers share.
pub struct Shop {
    pub queue: Queue<Job>,
    pub live: Live,
    pub metrics: Metrics,
}

/// Starts so many workers.
///
/// # Errors
/// When the system gives no thread.
pub fn hire(shop: &Arc<Shop>, workers: usize, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
    let hired = (0..workers).map(|number| {
        let shop = Arc::clone(shop);
        thread::Builder::new().name(format!("worker {number}")).spawn(move || work(&shop, threads))
    });
    let hired: io::Result<Vec<_>> = hired.collect();
    if hired.is_err() {
        shop.queue.close();
    }
    hired
}

fn work(shop: &Shop, threads: usize) {
    // The kernels share work with the pool that this thread belongs to: workers do not wait for each other's layers.
    // Without a pool of its own it shares the machine's.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    if let Err(error) = &pool {
        tracing::warn!(%error, "no threads for a worker");
    }
    let mut next = shop.queue.pop();
    while let Some(job) = next {
        // A seat that broke is left, with whatever state it is in; the job that broke it has dropped its answer.
        next = catch_unwind(AssertUnwindSafe(|| sit(shop, job))).unwrap_or_else(|panic| {
            shop.metrics.panics.add(1);
            let why = panic.downcast_ref::<&str>().map(ToString::to_string);
            let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(why, "a worker broke and was replaced");
            shop.queue.pop()
        });
    }
}

/// Works at one seat until the model changes; returns the first job that it did not do.
fn sit(shop: &Shop, first: Job) -> Option<Job> {
    let swaps = shop.live.swaps();
    let generation = shop.live.now();
    let mut seat = generation.model.seat();
    let mut next = Some(first);
    while let Some(job) = next {
        if shop.live.swaps() != swaps {
            return Some(job);
        }
        let Job { picture, options, answer, share } = job;
        if answer.is_closed() {
            shop.metrics.abandoned.add(1);
        } else {
            let busy = shop.metrics.busy.one();
            let start = Instant::now();
            let said = read(picture).and_then(|image| {
                let said = seat.classify(&image, options).map_err(refused)?;
                shop.metrics.images.add(1);
                shop.metrics.views.add(said.views.into());
                Ok(Answer {
                    prediction: said.clone(),
                    generation: generation.number,
                    classes: generation.model.classes().to_vec(),
                })
            });
            shop.metrics.worked.add(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
            drop((busy, share));
            // The client may have gone meanwhile.
            let _ = answer.send(said);
        }
        next = shop.queue.pop();
    }
    None
}

/// The client's fault, or the model's.
fn refused(error: ClassifyError) -> Refusal {
    let ours = matches!(error, ClassifyError::NotFinite);
    let status = if ours { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_REQUEST };
    Refusal::new(status, error.to_string())
}

fn read(picture: Picture) -> Result<Rgb, Refusal> {
    match picture {
        Picture::Raw { height, width, pixels } => Ok(Rgb { height, width, pixels: pixels.into() }),
        Picture::File(bytes, most) => Rgb::from_bytes(&bytes, most).map_err(|error| {
            let large = matches!(error, PictureError::TooLarge { .. });
            let status = if large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
            Refusal::new(status, error.to_string())
        }),
    }
}
