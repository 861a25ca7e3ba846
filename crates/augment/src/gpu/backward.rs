//! From gradients with respect to views to those with respect to their sources.

use super::chunks::{self, Chunk};
use super::shader::{Kernel, THREADS};
use super::{Gpu, GpuError, Params, Sources, Target, Values, Work};
use gabion_spec::Draw;
use std::num::NonZeroU64;
use std::ops::Range;
use wgpu::{BindingResource, BufferBinding, CommandEncoder};

impl Gpu {
    /// The gradient with respect to every source from those with respect to the views, as a gather in the order of the
    /// draws: the same bytes every time. A source without draws gets zeros.
    ///
    /// # Shapes
    /// `gradients` `[draws, 3, height, width]`, in whose place the gradients with respect to the crops are left; `out`
    /// `[sources, 3, h, w]`. Both f32; all sources have one size.
    ///
    /// # Errors
    /// As [`Gpu::apply`]; when sources differ in size or a target is not f32.
    pub fn backward(
        &self,
        sources: &Sources,
        draws: &[Draw],
        size: [u32; 2],
        gradients: Target<'_>,
        out: Target<'_>,
    ) -> Result<(), GpuError> {
        let Some(first) = sources.places.first() else { return Ok(()) };
        let source_size @ [height, width] = first.size;
        if let Some(source_number) = sources.places.iter().position(|place| place.size != source_size) {
            let [height, width] = sources.places[source_number].size;
            return Err(GpuError::Sizes { source_number, height, width, first: source_size });
        }
        if [gradients, out].iter().any(|target| target.values != Values::F32) {
            return Err(GpuError::Halves);
        }
        let groups = u64::from((height * width).div_ceil(THREADS));
        let most = u64::from(self.limits.max_compute_workgroups_per_dimension);
        if groups > most {
            return Err(GpuError::Limit { limit: "workgroups a dispatch", have: most, need: groups });
        }
        let work = Work::new(self, sources, draws, size, gradients)?;
        let each = 4 * 3 * u64::from(height) * u64::from(width);
        let ranges = self.ranges(sources, &out, each)?;
        // Colours first, for all views: a failure for want of memory must not find them half done.
        self.colours_backward(&work, draws)?;
        let work = Work { limits: chunks::Limits { views: u64::MAX, ..work.limits }, ..work };
        self.checked(|| {
            let mut encoder = self.encoder();
            for (page, range) in &ranges {
                let within = |number: u32| range.contains(&number).then(|| number - range.start);
                let mut chunks = work.chunks(draws, |place| within(place.number).filter(|_| place.page == *page));
                if chunks.is_empty() {
                    chunks.push(Chunk { draws: vec![Draw::default()], places: vec![0], bytes: 4, ..Chunk::default() });
                }
                let before = sources.places.iter().take_while(|place| place.page < *page).count() as u64;
                let start = out.offset + (before + u64::from(range.start)) * each;
                let target = Gradients { start, each, source_size, count: range.end - range.start };
                for (number, chunk) in chunks.into_iter().enumerate() {
                    self.crops_backward(&mut encoder, &work, chunk, &out, &target, number > 0);
                }
            }
            self.queue.submit([encoder.finish()]);
        })
    }

    fn colours_backward(&self, work: &Work<'_>, draws: &[Draw]) -> Result<(), GpuError> {
        let coloured = |draw: &Draw| {
            draw.jitter != 0 || draw.grayscale != 0 || draw.blur_sigma > 0.0 || draw.solarize < Draw::NO_SOLARIZE
        };
        for page in 0..work.sources.pages.len() {
            for mut chunk in work.chunks(draws, |place| (place.page == page).then_some(place.number)) {
                let keep: Vec<bool> = chunk.draws.iter().map(coloured).collect();
                let mut kept = keep.iter();
                chunk.draws.retain(|_| *kept.next().expect("one a draw"));
                let mut kept = keep.iter();
                chunk.places.retain(|_| *kept.next().expect("one a place"));
                if !chunk.draws.is_empty() {
                    self.colour_chunk_backward(work, page, &chunk)?;
                }
            }
        }
        Ok(())
    }

    /// In halves for as long as memory runs out: what was refused has not been done.
    fn colour_chunk_backward(&self, work: &Work<'_>, page: usize, chunk: &Chunk) -> Result<(), GpuError> {
        let encoded = || {
            let mut encoder = self.encoder();
            self.dispatch_views(&mut encoder, Kernel::ColourBackward, work, &work.sources.pages[page], chunk);
            encoder.finish()
        };
        let done = self.shortage(chunk.draws.len() as u64).map_or_else(|| self.checked(encoded), Err);
        match done {
            Ok(commands) => {
                self.queue.submit([commands]);
                Ok(())
            }
            Err(GpuError::OutOfMemory(_)) if chunk.draws.len() > 1 => {
                let middle = chunk.draws.len() / 2;
                for part in [0..middle, middle..chunk.draws.len()] {
                    let draws = chunk.draws[part.clone()].to_vec();
                    let part = Chunk { draws, places: chunk.places[part].to_vec(), ..*chunk };
                    self.colour_chunk_backward(work, page, &part)?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sources of each page, counted within it, whose gradients one binding and one dispatch reach.
    fn ranges(&self, sources: &Sources, out: &Target<'_>, each: u64) -> Result<Vec<(usize, Range<u32>)>, GpuError> {
        if !out.offset.is_multiple_of(4) {
            return Err(GpuError::Misaligned { offset: out.offset });
        }
        let have = out.buffer.size().saturating_sub(out.offset);
        if sources.len() as u64 * each > have {
            return Err(GpuError::Target { draws: sources.len(), view_bytes: each, offset: out.offset, have });
        }
        let binding = self.limits.max_storage_buffer_binding_size;
        let align = u64::from(self.limits.min_storage_buffer_offset_alignment);
        let room = binding.saturating_sub(align) / each;
        if room == 0 {
            return Err(GpuError::Limit { limit: "bytes a storage binding", have: binding, need: each + align });
        }
        let most = u32::try_from(room).unwrap_or(u32::MAX).min(self.limits.max_compute_workgroups_per_dimension);
        let mut ranges = Vec::new();
        for page in 0..sources.pages.len() {
            let count = sources.places.iter().filter(|place| place.page == page).count();
            let count = u32::try_from(count).expect("a page's sources are a u32");
            ranges.extend((0..count).step_by(most as usize).map(|first| (page, first..count.min(first + most))));
        }
        Ok(ranges)
    }

    fn crops_backward(
        &self,
        encoder: &mut CommandEncoder,
        work: &Work<'_>,
        mut chunk: Chunk,
        out: &Target<'_>,
        gradients: &Gradients,
        add: bool,
    ) {
        let per_source = by_source(&mut chunk, gradients.count);
        let align = u64::from(self.limits.min_storage_buffer_offset_alignment);
        let offset = gradients.start - gradients.start % align;
        let params = self.uniform(&Params {
            source_height: gradients.source_size[0],
            source_width: gradients.source_size[1],
            add: add.into(),
            first: u32::try_from((gradients.start - offset) / 4).expect("less than an alignment"),
            ..Params::new(work.size, &chunk)
        });
        let draws = self.storage("draws", &chunks::draw_bytes(&chunk.draws));
        let places = self.storage("places", bytemuck::cast_slice(&chunk.places));
        let per_source = self.storage("draws of each source", bytemuck::cast_slice(&per_source));
        let end = gradients.start + u64::from(gradients.count) * gradients.each;
        let size = NonZeroU64::new(end - offset);
        let bindings = vec![
            (0, params.as_entire_binding()),
            (1, draws.as_entire_binding()),
            (2, places.as_entire_binding()),
            (4, per_source.as_entire_binding()),
            (5, chunk.binding(work.target.buffer)),
            (6, BindingResource::Buffer(BufferBinding { buffer: out.buffer, offset, size })),
        ];
        let [height, width] = gradients.source_size;
        let across = (height * width).div_ceil(THREADS);
        self.dispatch(encoder, Kernel::ResizedCropBackward, bindings, [across, gradients.count]);
    }
}

/// The gradients of some sources in the buffer that holds those of all.
struct Gradients {
    /// Bytes before the first.
    start: u64,
    /// Bytes of one.
    each: u64,
    source_size: [u32; 2],
    count: u32,
}

/// Sorts the draws by source, in order within each; returns each source's first draw and the one after its last.
fn by_source(chunk: &mut Chunk, sources: u32) -> Vec<[u32; 2]> {
    let mut pairs: Vec<(Draw, u32)> = chunk.draws.iter().copied().zip(chunk.places.iter().copied()).collect();
    pairs.sort_by_key(|(draw, _)| draw.image);
    let mut ranges = vec![[0, 0]; sources as usize];
    // The draw that stands where there is none crops nothing.
    for (at, (draw, _)) in (0u32..).zip(&pairs).filter(|(_, (draw, _))| draw.height > 0) {
        let range = &mut ranges[draw.image as usize];
        if range[1] == 0 {
            range[0] = at;
        }
        range[1] = at + 1;
    }
    (chunk.draws, chunk.places) = pairs.into_iter().unzip();
    ranges
}
