//! Cutting the draws of a call into dispatches whose views one binding reaches.

use super::Target;
use gabion_spec::Draw;

/// What a dispatch has to stay within.
pub(super) struct Limits {
    /// Offsets of bindings are multiples of this.
    pub align: u64,
    /// Bytes of a binding.
    pub binding: u64,
    /// Views of a dispatch.
    pub views: u64,
}

/// The draws of one dispatch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chunk {
    /// With the number of the source within its page.
    pub draws: Vec<Draw>,
    /// The view of each draw, counted from the first.
    pub places: Vec<u32>,
    /// The binding's first byte and length in the target's buffer.
    pub offset: u64,
    pub bytes: u64,
    /// Values between the binding's first byte and the first view.
    pub shift: u32,
}

impl Chunk {
    /// The part of the target that its views lie in.
    pub fn binding<'a>(&self, buffer: &'a wgpu::Buffer) -> wgpu::BindingResource<'a> {
        let (offset, size) = (self.offset, std::num::NonZeroU64::new(self.bytes));
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
    }
}

/// Most draws of a dispatch: their bytes stay far below every limit.
const MOST_DRAWS: u64 = 1 << 20;

/// Cuts pairs of place and draw, places ascending.
pub(super) fn cut(
    draws: impl Iterator<Item = (u64, Draw)>,
    target: &Target<'_>,
    view_bytes: u64,
    limits: &Limits,
) -> Vec<Chunk> {
    cut_from(draws, target.offset, target.values.bytes(), target.buffer.size(), view_bytes, limits)
}

fn cut_from(
    draws: impl Iterator<Item = (u64, Draw)>,
    start: u64,
    value_bytes: u64,
    buffer_bytes: u64,
    view_bytes: u64,
    limits: &Limits,
) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut first = 0;
    for (place, draw) in draws {
        let end = start + (place + 1) * view_bytes;
        let fits = |chunk: &Chunk| {
            end.next_multiple_of(4) - chunk.offset <= limits.binding
                && (chunk.draws.len() as u64) < limits.views.min(MOST_DRAWS)
        };
        if !chunks.last().is_some_and(fits) {
            first = place;
            let at = start + place * view_bytes;
            let offset = at - at % limits.align;
            let shift = u32::try_from((at - offset) / value_bytes).expect("less than an alignment");
            chunks.push(Chunk { offset, shift, ..Chunk::default() });
        }
        let chunk = chunks.last_mut().expect("pushed where there was none");
        chunk.draws.push(draw);
        chunk.places.push(u32::try_from(place - first).expect("a binding's views fit a u32"));
        chunk.bytes = end.next_multiple_of(4).min(buffer_bytes) - chunk.offset;
    }
    chunks
}

/// Draws as the shader reads them.
pub(super) fn draw_bytes(draws: &[Draw]) -> Vec<u8> {
    let words = |draw: &Draw| {
        [
            draw.image,
            draw.top,
            draw.left,
            draw.height,
            draw.width,
            draw.flip,
            draw.jitter,
            draw.order,
            draw.brightness.to_bits(),
            draw.contrast.to_bits(),
            draw.saturation.to_bits(),
            draw.hue.to_bits(),
            draw.grayscale,
            draw.blur_sigma.to_bits(),
            draw.blur_filter,
            draw.solarize.to_bits(),
        ]
    };
    draws.iter().flat_map(words).flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_is_made_once_where_it_belongs() {
        let limits = Limits { align: 256, binding: 4096, views: 3 };
        let (start, view_bytes) = (300, 12 * 25);
        let draws = (0..40).filter(|place| place % 3 != 1).map(|place| (place, Draw { image: 7, ..Draw::default() }));
        let chunks = cut_from(draws, start, 4, 1 << 20, view_bytes, &limits);
        let mut made = Vec::new();
        for chunk in &chunks {
            assert!(
                chunk.offset.is_multiple_of(limits.align) && chunk.bytes <= limits.binding && chunk.draws.len() <= 3
            );
            for place in &chunk.places {
                let at = chunk.offset + 4 * u64::from(chunk.shift) + u64::from(*place) * view_bytes;
                assert!(at + view_bytes <= chunk.offset + chunk.bytes);
                made.push((at - start) / view_bytes);
            }
        }
        assert_eq!(made, (0..40).filter(|place| place % 3 != 1).collect::<Vec<_>>());
    }
}
