//! What can go wrong on a device.

/// Why views could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GpuError {
    #[error("the device has {have} {limit}, {need} are needed; use the CPU pipeline")]
    Limit { limit: &'static str, have: u64, need: u64 },
    #[error("the device is out of memory: {0}; make fewer views at once or use the CPU pipeline")]
    OutOfMemory(String),
    #[error("the device refused the work: {0}")]
    Refused(String),
    #[error("the device was lost: {0}")]
    Lost(String),
    #[error("source {source_number} is {height}x{width} and has {have} values, {need} are needed")]
    SourceLength { source_number: usize, height: u32, width: u32, have: usize, need: usize },
    #[error("draw {draw} is of source {source_number}, there are {sources}")]
    NoSource { draw: usize, source_number: u32, sources: usize },
    #[error("draw {draw} crops {crop:?} (top, left, height, width), the source is {height}x{width}")]
    Outside { draw: usize, crop: [u32; 4], height: u32, width: u32 },
    #[error(
        "views of {height}x{width} cannot be made; both sides are at least 1 and f16 needs an even number of values"
    )]
    Size { height: u32, width: u32 },
    #[error("gradients are f32, the target is not")]
    Halves,
    #[error("source {source_number} is {height}x{width} and the first is {}x{}; gradients are of sources of one size", first[0], first[1])]
    Sizes { source_number: usize, height: u32, width: u32, first: [u32; 2] },
    #[error("an offset of {offset} bytes is no multiple of 4")]
    Misaligned { offset: u64 },
    #[error("{draws} views of {view_bytes} bytes do not fit the {have} bytes after the target's offset {offset}")]
    Target { draws: usize, view_bytes: u64, offset: u64, have: u64 },
}
