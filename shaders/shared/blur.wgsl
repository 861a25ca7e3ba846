// Gaussian blur, sampled or PIL's three boxes, over the whole view. All invocations of a workgroup come here together.

const BOX_PASSES: u32 = 3u;

/// The pixel that stands at `place` of `n`, with the edges reflected and not repeated.
fn reflected(place: i32, n: u32) -> u32 {
    let period = 2u * max(n - 1u, 1u);
    let within = u32(abs(place)) % period;
    return min(min(within, period - within), n - 1u);
}

/// The same with the edges repeated.
fn repeated(place: i32, n: u32) -> u32 {
    return u32(clamp(place, 0, i32(n) - 1));
}

/// An odd kernel: a Gaussian of deviation `sigma`, or `inner` with `outer` at its two ends where `sigma` is 0.
struct Blur {
    radius: i32,
    sigma: f32,
    inner: f32,
    outer: f32,
}

fn blur_weight(blur: Blur, tap: i32) -> f32 {
    if blur.sigma > 0.0 {
        let distance = f32(tap) / blur.sigma;
        return exp(-0.5 * distance * distance) * blur.inner;
    }
    return select(blur.inner, blur.outer, abs(tap) == blur.radius);
}

fn gaussian(sigma: f32) -> Blur {
    var blur = Blur(i32(ceil(3.0 * sigma)), sigma, 1.0, 0.0);
    var sum = 0.0;
    for (var tap = -blur.radius; tap <= blur.radius; tap++) {
        sum += blur_weight(blur, tap);
    }
    blur.inner = 1.0 / sum;
    return blur;
}

/// Equations 7, 11 and 14 of Gwosdek et al.
fn pil_box(sigma: f32) -> Blur {
    let variance = sigma * sigma / f32(BOX_PASSES);
    let length = sqrt(12.0 * variance + 1.0);
    let whole = floor((length - 1.0) / 2.0);
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    let inner = 1.0 / (2.0 * (whole + fraction) + 1.0);
    return Blur(i32(whole) + 1, 0.0, inner, (1.0 - (2.0 * whole + 1.0) * inner) / 2.0);
}

/// Convolves every row, or every column.
fn blur_pass(blur: Blur, rows: bool, local: u32) {
    let area = params.height * params.width;
    var slot = 0u;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        let y = pixel / params.width;
        let x = pixel % params.width;
        var sum = vec3(0.0);
        for (var tap = -blur.radius; tap <= blur.radius; tap++) {
            let place = select(i32(y), i32(x), rows) + tap;
            let length = select(params.height, params.width, rows);
            let there = select(repeated(place, length), reflected(place, length), blur.sigma > 0.0);
            let from_pixel = select(there * params.width + x, y * params.width + there, rows);
            sum += vec3(value_at(from_pixel), value_at(area + from_pixel), value_at(2u * area + from_pixel)) * blur_weight(blur, tap);
        }
        for (var channel = 0u; channel < 3u; channel++) {
            put(slot, channel * area + pixel, sum[channel]);
            slot++;
        }
    }
    turn(local);
}

fn gaussian_blur(sigma: f32, local: u32) {
    let blur = gaussian(sigma);
    blur_pass(blur, true, local);
    blur_pass(blur, false, local);
}

fn pil_box_blur(sigma: f32, local: u32) {
    let blur = pil_box(sigma);
    for (var pass_number = 0u; pass_number < 2u * BOX_PASSES; pass_number++) {
        blur_pass(blur, pass_number < BOX_PASSES, local);
    }
}
