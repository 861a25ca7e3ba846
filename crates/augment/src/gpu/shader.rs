//! The shader's text, put together from the pieces in shaders/.

/// Invocations of a workgroup, as in shaders/shared/bindings.wgsl.
pub(super) const THREADS: u32 = 256;

/// Bytes of workgroup memory that sums take.
const SUMS: u32 = 4 * THREADS;

/// Values come in threes of a pixel, and every invocation has the same number.
const STEP: u64 = 3 * THREADS as u64;

/// Most values that are held: 16 pixels of 3 channels an invocation, 64x64. Their next values are in registers.
const MOST_HELD: u64 = 16 * STEP;

/// Workgroup memory for a view of 32x32.
pub(super) const LEAST_MEMORY: u32 = 4 * 4 * STEP as u32 + SUMS;

/// Where a view is while it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    /// In workgroup memory, with room for so many values.
    Held(u64),
    /// In a buffer, twice.
    Stored,
}

/// Where a view of `length` values is made on a device with `workgroup` bytes of workgroup memory.
pub(super) fn memory(length: u64, workgroup: u32) -> Memory {
    let held = length.next_multiple_of(STEP);
    if held <= MOST_HELD && 4 * held + u64::from(SUMS) <= u64::from(workgroup) {
        Memory::Held(held)
    } else {
        Memory::Stored
    }
}

const BINDINGS: &str = include_str!("../../../../shaders/shared/bindings.wgsl");
const RESIZED_CROP: &str = include_str!("../../../../shaders/shared/resized_crop.wgsl");

/// A compute kernel of shaders/.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Apply(Memory),
    ColourBackward(Memory),
    ResizedCropBackward,
}

impl Kernel {
    pub(super) fn entry_point(self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::ColourBackward(_) => "colour_backward",
            Self::ResizedCropBackward => "resized_crop_backward",
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Apply(memory) => of_view(memory, include_str!("../../../../shaders/apply.wgsl")),
            Self::ColourBackward(memory) => of_view(memory, include_str!("../../../../shaders/colour_backward.wgsl")),
            Self::ResizedCropBackward => {
                let crop = include_str!("../../../../shaders/resized_crop_backward.wgsl");
                [BINDINGS, RESIZED_CROP, crop].concat()
            }
        }
    }
}

/// A kernel that makes a view, with the pieces that it needs.
fn of_view(memory: Memory, kernel: &str) -> String {
    let (room, held) = match memory {
        Memory::Held(values) => {
            (format!("const HELD: u32 = {values}u;\n"), include_str!("../../../../shaders/shared/held.wgsl"))
        }
        Memory::Stored => (String::new(), include_str!("../../../../shaders/shared/stored.wgsl")),
    };
    let colour = include_str!("../../../../shaders/shared/colour.wgsl");
    let blur = include_str!("../../../../shaders/shared/blur.wgsl");
    let forward = include_str!("../../../../shaders/shared/forward.wgsl");
    [BINDINGS, &room, held, RESIZED_CROP, colour, blur, forward, kernel].concat()
}
