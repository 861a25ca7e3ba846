//! Our own two ways to views, and what the memory of a device would allow.

use super::augment::Error;
use super::peers::Round;
use super::stages::Stage;
use crate::data::Images;
use burn::Tensor;
use burn::tensor::{Device, TensorData};
use gabion_augment::cpu::{Source, apply_batch};
use gabion_augment::{Augment, Draw, ViewId, sample};
use gabion_runtime::pipeline::{Pipeline, Sources};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::time::Instant;

/// Draws of one task: some microseconds of work.
const DRAWS_PER_TASK: usize = 64;

/// The views of one pass: of every image as many, view by view, as a minibatch has them.
pub(super) struct Batch<'a> {
    pub images: &'a Images,
    pub views: u32,
    pub augment: Augment,
}

impl<'a> Batch<'a> {
    /// Views of a pass.
    pub fn len(&self) -> usize {
        self.images.len() * self.views as usize
    }

    /// Bytes that one view reads of its source and writes.
    pub fn bytes_per_view(&self) -> usize {
        let [height, width] = self.augment.size;
        self.images.stride() + 4 * 3 * (height * width) as usize
    }

    pub fn sources(&self) -> Vec<Source<'a>> {
        let images = self.images;
        (0..images.len()).map(|image| Source::bytes(images.image(image), self.source())).collect()
    }

    /// Height and width of an image.
    fn source(&self) -> [u32; 2] {
        [self.images.height, self.images.width].map(|side| u32::try_from(side).expect("images are small"))
    }

    /// Draws the views of pass `epoch`, on the current pool.
    pub fn draw(&self, augment: &Augment, epoch: u32, draws: &mut [Draw]) {
        let (count, source) = (self.images.len(), self.source());
        let id = |number: usize| u32::try_from(number).expect("images and views are counted in a u32");
        draws.par_iter_mut().enumerate().with_min_len(DRAWS_PER_TASK).for_each(|(number, draw)| {
            let (image, view) = (id(number % count), id(number / count));
            *draw = Draw { image, ..sample(augment, ViewId { seed: 0, epoch, image, view }, source) };
        });
    }
}

/// Repeats passes of `views` views for about `seconds`, at least one.
#[allow(clippy::cast_precision_loss)]
fn timed<E>(seconds: f64, views: usize, mut pass: impl FnMut() -> Result<(), E>) -> Result<Round, E> {
    let (start, mut done) = (Instant::now(), 0);
    loop {
        pass()?;
        done += views as u64;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return Ok(Round { views: done, seconds: elapsed });
        }
    }
}

fn pool(threads: usize) -> Result<ThreadPool, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|source| Error::Threads { threads, source })
}

/// The CPU, into a buffer that stays.
pub(super) struct Cpu<'a> {
    batch: &'a Batch<'a>,
    pool: ThreadPool,
    sources: Vec<Source<'a>>,
    draws: Vec<Draw>,
    views: Vec<f32>,
    epoch: u32,
}

impl<'a> Cpu<'a> {
    pub fn new(batch: &'a Batch<'a>, threads: usize) -> Result<Self, Error> {
        let [height, width] = batch.augment.size;
        let values = batch.len() * 3 * (height * width) as usize;
        let mut views = Vec::new();
        views.try_reserve_exact(values).map_err(|source| Error::Memory { views: batch.len(), source })?;
        views.resize(values, 0.0);
        let draws = vec![Draw::default(); batch.len()];
        let mut cpu = Self { batch, pool: pool(threads)?, sources: batch.sources(), draws, views, epoch: 0 };
        cpu.round(0.0);
        Ok(cpu)
    }

    /// Draws and makes views.
    pub fn round(&mut self, seconds: f64) -> Round {
        let Self { batch, pool, sources, draws, views, epoch } = self;
        let pass = || {
            *epoch += 1;
            pool.install(|| {
                batch.draw(&batch.augment, *epoch, draws);
                apply_batch(sources, draws, batch.augment.size, views);
            });
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(round) = timed(seconds, batch.len(), pass);
        round
    }

    /// Makes views of one stage that were drawn before.
    pub fn stage(&mut self, stage: Stage, seconds: f64) -> Round {
        let Self { batch, pool, sources, draws, views, .. } = self;
        pool.install(|| stage.draw(batch, draws));
        let pass = || {
            pool.install(|| apply_batch(sources, draws, batch.augment.size, views));
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(round) = timed(seconds, batch.len(), pass);
        round
    }
}

/// A GPU: sources stay on it, all views of a pass are one dispatch and stay there too.
pub(super) struct Gpu<'a> {
    batch: &'a Batch<'a>,
    pipeline: Pipeline,
    pool: ThreadPool,
    sources: Sources<'a>,
    draws: Vec<Draw>,
    epoch: u32,
}

impl<'a> Gpu<'a> {
    /// `threads` of the CPU draw the numbers.
    pub fn new(batch: &'a Batch<'a>, device: Device, threads: usize) -> Result<Self, String> {
        let pool = pool(threads).map_err(|error| error.to_string())?;
        let pipeline = Pipeline::gpu(device).map_err(|error| error.to_string())?;
        let sources = pipeline.sources(&batch.sources()).map_err(|error| error.to_string())?;
        let draws = vec![Draw::default(); batch.len()];
        let mut gpu = Self { batch, pipeline, pool, sources, draws, epoch: 0 };
        gpu.round(0.0)?;
        Ok(gpu)
    }

    /// Draws and makes views, and waits for them.
    pub fn round(&mut self, seconds: f64) -> Result<Round, String> {
        let batch = self.batch;
        timed(seconds, batch.len(), || {
            self.epoch += 1;
            let Self { pool, draws, epoch, .. } = &mut *self;
            pool.install(|| batch.draw(&batch.augment, *epoch, draws));
            self.make()
        })
    }

    /// Makes views of one stage that were drawn before, and waits for them.
    pub fn stage(&mut self, stage: Stage, seconds: f64) -> Result<Round, String> {
        let Self { batch, pool, draws, .. } = &mut *self;
        pool.install(|| stage.draw(batch, draws));
        timed(seconds, self.batch.len(), || self.make())
    }

    fn make(&self) -> Result<(), String> {
        let made = self.pipeline.views(&self.sources, &self.draws, self.batch.augment.size);
        let _views = made.map_err(|error| error.to_string())?;
        // Views of the CPU are not what this row is about.
        if let Some(why) = self.pipeline.fallen() {
            return Err(format!("the device gave up ({why}): try again with fewer --images or --views"));
        }
        self.pipeline
            .device()
            .sync()
            .map_err(|error| format!("the device failed ({error}): try again, or use --device cpu"))
    }
}

/// Values of the arrays whose traffic is timed, 128 MiB: more than a cache, and no more than every GPU binds.
const VALUES: usize = if cfg!(test) { 1 << 16 } else { 32 << 20 };

/// Passes over them; the fastest counts.
const PASSES: usize = 8;

/// Bytes a second of the fastest pass that reads and writes all values.
#[allow(clippy::cast_precision_loss)]
fn fastest(mut pass: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    pass()?;
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        pass()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok((2 * 4 * VALUES) as f64 / best)
}

/// Bytes a second that some threads read and write when they add 1 to an array into another.
pub(super) fn cpu_bandwidth(threads: usize) -> Result<f64, String> {
    const PIECE: usize = 1 << 16;
    let pool = pool(threads).map_err(|error| error.to_string())?;
    let (from, mut to) = (vec![0.5f32; VALUES], vec![0.0f32; VALUES]);
    fastest(|| {
        pool.install(|| {
            to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = from + 1.0;
                }
            });
        });
        std::hint::black_box(&mut to);
        Ok(())
    })
}

/// Bytes a second that a device reads and writes when it adds 1 to a tensor into another.
pub(super) fn device_bandwidth(device: &Device) -> Result<f64, String> {
    let from = Tensor::<1>::from_data(TensorData::new(vec![0.5f32; VALUES], [VALUES]), device);
    fastest(|| {
        let _to = from.clone() + 1.0;
        device.sync().map_err(|error| format!("the device failed ({error})"))
    })
}
