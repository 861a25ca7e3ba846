// Operations on the colour of a pixel, as in gabion_augment::cpu: `factor * x + (1 - factor) * other`, clamped.

const GRAY: vec3<f32> = vec3(0.299, 0.587, 0.114);

fn gray(pixel: vec3<f32>) -> f32 {
    return GRAY.x * pixel.x + GRAY.y * pixel.y + GRAY.z * pixel.z;
}

fn brightness(pixel: vec3<f32>, factor: f32) -> vec3<f32> {
    return clamp(pixel * factor, vec3(0.0), vec3(1.0));
}

/// `mean` is that of the view's gray image.
fn contrast(pixel: vec3<f32>, factor: f32, mean: f32) -> vec3<f32> {
    return clamp(pixel * factor + (1.0 - factor) * mean, vec3(0.0), vec3(1.0));
}

fn saturation(pixel: vec3<f32>, factor: f32) -> vec3<f32> {
    return clamp(pixel * factor + (1.0 - factor) * gray(pixel), vec3(0.0), vec3(1.0));
}

fn hue(pixel: vec3<f32>, turns: f32) -> vec3<f32> {
    let shift = 6.0 * (turns - floor(turns));
    if shift == 0.0 {
        return pixel;
    }
    let value = max(max(pixel.r, pixel.g), pixel.b);
    let chroma = value - min(min(pixel.r, pixel.g), pixel.b);
    // Ties go to red, then to green. A gray pixel has difference 0, so its divisor only has to be above 0.
    var base = 4.0;
    var difference = pixel.r - pixel.g;
    if pixel.r >= max(pixel.g, pixel.b) {
        base = 0.0;
        difference = pixel.g - pixel.b;
    } else if pixel.g >= pixel.b {
        base = 2.0;
        difference = pixel.b - pixel.r;
    }
    var h = base + difference / max(chroma, 1e-30) + shift;
    h = select(h, h + 6.0, h < 0.0);
    h = select(h, h - 6.0, h >= 6.0);
    let distance = vec3(2.0 - abs(h - 3.0), abs(h - 2.0) - 1.0, abs(h - 4.0) - 1.0);
    return value - chroma * clamp(distance, vec3(0.0), vec3(1.0));
}

fn grayscale(pixel: vec3<f32>) -> vec3<f32> {
    return vec3(min(gray(pixel), 1.0));
}

fn solarize(pixel: vec3<f32>, threshold: f32) -> vec3<f32> {
    return select(pixel, 1.0 - pixel, pixel >= vec3(threshold));
}
