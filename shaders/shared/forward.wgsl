// A view up to any of its stages, by a whole workgroup.

var<workgroup> sums: array<f32, THREADS>;

fn view_pixel(pixel: u32) -> vec3<f32> {
    let area = params.height * params.width;
    return vec3(value_at(pixel), value_at(area + pixel), value_at(2u * area + pixel));
}

fn set_view_pixel(pixel: u32, value: vec3<f32>) {
    let area = params.height * params.width;
    keep(pixel, value.r);
    keep(area + pixel, value.g);
    keep(2u * area + pixel, value.b);
}

/// The sum of a value of each invocation, in an order that never changes.
fn total(value: f32, local: u32) -> f32 {
    sums[local] = value;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            sums[local] += sums[local + half];
        }
    }
    workgroupBarrier();
    let sum = sums[0];
    workgroupBarrier();
    return sum;
}

/// The mean of the view's gray image.
fn mean_gray(local: u32) -> f32 {
    let area = params.height * params.width;
    var sum = 0.0;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        sum += gray(view_pixel(pixel));
    }
    return total(sum, local) / f32(area);
}

/// Stages of a view after its crop: the four of the jitter, grayscale, blur, solarize.
const STAGES: u32 = 7u;
const BLUR_STAGE: u32 = 5u;

fn jitter_op(draw: Draw, stage: u32) -> u32 {
    return (draw.order >> (8u * stage)) & 0xffu;
}

/// Whether a stage changes anything.
fn happens(draw: Draw, stage: u32) -> bool {
    switch stage {
        case 4u: { return draw.grayscale != 0u; }
        case 5u: { return draw.blur_sigma > 0.0; }
        case 6u: { return draw.solarize < 2.0; }
        default: { return draw.jitter != 0u; }
    }
}

/// A stage that changes every pixel by itself; contrast is told the mean.
fn changed(draw: Draw, stage: u32, value: vec3<f32>, mean: f32) -> vec3<f32> {
    if stage == 4u {
        return grayscale(value);
    }
    if stage == 6u {
        return solarize(value, draw.solarize);
    }
    switch jitter_op(draw, stage) {
        case 0u: { return brightness(value, draw.brightness); }
        case 1u: { return contrast(value, draw.contrast, mean); }
        case 2u: { return saturation(value, draw.saturation); }
        default: { return hue(value, draw.hue); }
    }
}

/// The crop and the first `stages` stages.
fn forward(source: Source, draw: Draw, stages: u32, local: u32) {
    let area = params.height * params.width;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        set_view_pixel(pixel, resized_crop(source, draw, pixel / params.width, pixel % params.width));
    }
    for (var stage = 0u; stage < stages; stage++) {
        if !happens(draw, stage) {
            continue;
        }
        if stage == BLUR_STAGE {
            meet();
            if draw.blur_filter == 0u {
                gaussian_blur(draw.blur_sigma, local);
            } else {
                pil_box_blur(draw.blur_sigma, local);
            }
            for (var pixel = local; pixel < area; pixel += THREADS) {
                set_view_pixel(pixel, clamp(view_pixel(pixel), vec3(0.0), vec3(1.0)));
            }
            continue;
        }
        var mean = 0.0;
        if stage < 4u && jitter_op(draw, stage) == 1u {
            mean = mean_gray(local);
        }
        for (var pixel = local; pixel < area; pixel += THREADS) {
            set_view_pixel(pixel, changed(draw, stage, view_pixel(pixel), mean));
        }
    }
}
