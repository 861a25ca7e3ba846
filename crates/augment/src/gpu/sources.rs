//! Images that stay on the device.

use super::{Gpu, GpuError};
use crate::cpu::{Source, Values};
use bytemuck::{Pod, Zeroable};

/// A source as the shader sees it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(in crate::gpu) struct Entry {
    start: u32,
    height: u32,
    width: u32,
    floats: u32,
}

/// Images that one binding holds.
pub(super) struct Page {
    pub pixels: wgpu::Buffer,
    pub entries: wgpu::Buffer,
}

/// Where an image lies.
pub(super) struct Place {
    /// Height and width.
    pub size: [u32; 2],
    pub page: usize,
    /// Within the page.
    pub number: u32,
}

/// Images that stay on the device until this is dropped.
pub struct Sources {
    pub(super) pages: Vec<Page>,
    pub(super) places: Vec<Place>,
}

impl Sources {
    /// How many images.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// The last images of a stream, all of one size: a new one takes the place of the oldest.
pub struct Ring {
    sources: Sources,
    size: [u32; 2],
    next: u32,
}

impl Ring {
    /// What a [`gabion_spec::Draw`] indexes by the numbers that [`Gpu::push`] gives.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Height and width of its images.
    pub fn size(&self) -> [u32; 2] {
        self.size
    }
}

/// Bytes of an image of bytes, in whole words.
fn padded(size: [u32; 2]) -> u64 {
    (3 * u64::from(size[0]) * u64::from(size[1])).next_multiple_of(4)
}

impl Gpu {
    /// Copies images to the device.
    ///
    /// # Errors
    /// When a source has not its size's length, is larger than a binding, or memory runs out.
    pub fn upload(&self, sources: &[Source<'_>]) -> Result<Sources, GpuError> {
        let most = self.page_bytes();
        let (mut pages, mut places) = (Vec::new(), Vec::with_capacity(sources.len()));
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for (source_number, source) in sources.iter().enumerate() {
            let [height, width] = source.size;
            let need = 3 * height as usize * width as usize;
            let have = source.values.len();
            if have != need || need == 0 {
                return Err(GpuError::SourceLength { source_number, height, width, have, need });
            }
            let (length, floats) = match source.values {
                Values::Bytes(_) => (padded(source.size), 0),
                Values::Floats(_) => (4 * need as u64, 1),
            };
            if length > most {
                return Err(GpuError::Limit { limit: "bytes a storage binding", have: most, need: length });
            }
            if bytes.len() as u64 + length > most {
                pages.push(self.page(&mut bytes, &mut entries)?);
            }
            let number = u32::try_from(entries.len()).expect("a page's bytes fit a u32");
            places.push(Place { size: source.size, page: pages.len(), number });
            let start = u32::try_from(bytes.len()).expect("a binding's bytes fit a u32");
            // Floats are found by their word.
            entries.push(Entry { start: if floats == 1 { start / 4 } else { start }, height, width, floats });
            match source.values {
                Values::Bytes(pixels) => bytes.extend_from_slice(pixels),
                Values::Floats(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        if !entries.is_empty() {
            pages.push(self.page(&mut bytes, &mut entries)?);
        }
        Ok(Sources { pages, places })
    }

    /// Room for the last `slots` images of a stream.
    ///
    /// # Errors
    /// When an image has no pixels or is larger than a binding, or memory runs out.
    pub fn ring(&self, size: [u32; 2], slots: u32) -> Result<Ring, GpuError> {
        let [height, width] = size;
        let (bytes, most) = (padded(size), self.page_bytes());
        if bytes == 0 || slots == 0 {
            return Err(GpuError::Size { height, width });
        }
        if bytes > most {
            return Err(GpuError::Limit { limit: "bytes a storage binding", have: most, need: bytes });
        }
        let a_page = u32::try_from(most / bytes).unwrap_or(u32::MAX).min(slots);
        let places = (0..slots).map(|slot| Place { size, page: (slot / a_page) as usize, number: slot % a_page });
        let mut sources = Sources { pages: Vec::new(), places: places.collect() };
        for first in (0..slots).step_by(a_page as usize) {
            let count = a_page.min(slots - first);
            let start = |slot: u32| u32::try_from(u64::from(slot) * bytes).expect("a binding's bytes fit a u32");
            let entries: Vec<Entry> =
                (0..count).map(|slot| Entry { start: start(slot), height, width, floats: 0 }).collect();
            sources.pages.push(self.checked(|| Page {
                pixels: self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("frames"),
                    size: u64::from(count) * bytes,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }),
                entries: self.storage("frame sizes", bytemuck::cast_slice(&entries)),
            })?);
        }
        Ok(Ring { sources, size, next: 0 })
    }

    /// Puts `[height, width, 3]` bytes in the place of the ring's oldest image and says which that is. Views that were
    /// asked for before this are of the image that was there.
    ///
    /// # Errors
    /// When there are not as many bytes as an image of the ring has.
    pub fn push(&self, ring: &mut Ring, pixels: &[u8]) -> Result<u32, GpuError> {
        let [height, width] = ring.size;
        let need = 3 * height as usize * width as usize;
        if pixels.len() != need {
            let source_number = ring.next as usize;
            return Err(GpuError::SourceLength { source_number, height, width, have: pixels.len(), need });
        }
        let slot = ring.next;
        let place = &ring.sources.places[slot as usize];
        let start = u64::from(place.number) * padded(ring.size);
        let (words, rest) = pixels.split_at(need - need % 4);
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        let buffer = &ring.sources.pages[place.page].pixels;
        self.checked(|| {
            self.queue.write_buffer(buffer, start, words);
            if !rest.is_empty() {
                self.queue.write_buffer(buffer, start + words.len() as u64, &last);
            }
        })?;
        ring.next = (slot + 1) % u32::try_from(ring.sources.len()).expect("slots are a u32");
        Ok(slot)
    }

    fn page_bytes(&self) -> u64 {
        // A page's bytes are counted in a u32.
        self.limits.max_storage_buffer_binding_size.min(u64::from(u32::MAX) / 2)
    }

    fn page(&self, bytes: &mut Vec<u8>, entries: &mut Vec<Entry>) -> Result<Page, GpuError> {
        let page = self.checked(|| Page {
            pixels: self.storage("sources", bytes),
            entries: self.storage("source sizes", bytemuck::cast_slice(entries)),
        })?;
        bytes.clear();
        entries.clear();
        Ok(page)
    }

    pub(super) fn storage(&self, label: &'static str, contents: &[u8]) -> wgpu::Buffer {
        self.filled(label, contents, wgpu::BufferUsages::STORAGE)
    }

    /// A buffer with contents, whole words. Through the queue: a buffer that is mapped when it is made panics where the
    /// device is lost or out of memory.
    pub(super) fn filled(&self, label: &'static str, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: contents.len() as u64,
            usage: usage | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, contents);
        buffer
    }
}
