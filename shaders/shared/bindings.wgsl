// What every kernel of the patch pipeline is given. `Draw` is gabion_spec::Draw, field by field.

struct Draw {
    image: u32,
    top: u32,
    left: u32,
    height: u32,
    width: u32,
    flip: u32,
    jitter: u32,
    order: u32,
    brightness: f32,
    contrast: f32,
    saturation: f32,
    hue: f32,
    grayscale: u32,
    blur_sigma: f32,
    blur_filter: u32,
    solarize: f32,
}

/// A source image: `[height, width, 3]` bytes from byte `start` of `pixels`, or `[3, height, width]` f32 from word
/// `start` where `floats` is 1.
struct Source {
    start: u32,
    height: u32,
    width: u32,
    floats: u32,
}

struct Params {
    /// Of a view.
    height: u32,
    width: u32,
    /// Draws of this dispatch.
    count: u32,
    /// Values before the first view in `views`.
    shift: u32,
    /// 1 where views are written as f16.
    half: u32,
    /// Of a source, and whether gradients are added to what is there: for resized_crop_backward.
    source_height: u32,
    source_width: u32,
    add: u32,
    /// Values before the first source's gradient.
    first: u32,
    /// byte / 255, rounded as IEEE 754 says: a shader's own division may be off by units in the last place.
    unit: array<vec4<f32>, 64>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> draws: array<Draw>;
/// Which of the views each draw makes, counted from the first in `views`.
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read> sources: array<Source>;
@group(0) @binding(4) var<storage, read> pixels: array<u32>;
@group(0) @binding(5) var<storage, read_write> views: array<u32>;

/// Invocations of a workgroup. Each owns the pixels `local`, `local + THREADS`, ... of its view.
const THREADS: u32 = 256u;

/// The number of a workgroup in a grid that is `grid.x` wide.
fn group_number(group: vec3<u32>, grid: vec3<u32>) -> u32 {
    return group.y * grid.x + group.x;
}
