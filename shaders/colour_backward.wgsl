// The gradient with respect to the crop from that with respect to the view, in place in `views`: one workgroup a view.
// What a stage saw is made again from the crop, so that nothing of the forward pass has to be kept. Put together with
// shared/bindings, held or stored, resized_crop, colour, blur and forward.

fn gradient(start: u32, pixel: u32) -> vec3<f32> {
    let area = params.height * params.width;
    return vec3(
        bitcast<f32>(views[start + pixel]),
        bitcast<f32>(views[start + area + pixel]),
        bitcast<f32>(views[start + 2u * area + pixel]),
    );
}

fn set_gradient(start: u32, pixel: u32, value: vec3<f32>) {
    let area = params.height * params.width;
    views[start + pixel] = bitcast<u32>(value.r);
    views[start + area + pixel] = bitcast<u32>(value.g);
    views[start + 2u * area + pixel] = bitcast<u32>(value.b);
}

/// 1 where a blend passed its clamp.
fn passed(value: vec3<f32>) -> vec3<f32> {
    return select(vec3(0.0), vec3(1.0), value >= vec3(0.0) & value <= vec3(1.0));
}

fn brightness_backward(x: vec3<f32>, factor: f32, g: vec3<f32>) -> vec3<f32> {
    return g * factor * passed(x * factor);
}

fn saturation_backward(x: vec3<f32>, factor: f32, g: vec3<f32>) -> vec3<f32> {
    let masked = g * passed(x * factor + (1.0 - factor) * gray(x));
    return masked * factor + GRAY * ((1.0 - factor) * (masked.r + masked.g + masked.b));
}

/// See gabion_augment::cpu::hue_backward.
fn hue_backward(x: vec3<f32>, turns: f32, g: vec3<f32>) -> vec3<f32> {
    let shift = 6.0 * (turns - floor(turns));
    if shift == 0.0 {
        return g;
    }
    var base = 4.0;
    var plus = 0u;
    var minus = 1u;
    var largest = 2u;
    if x.r >= max(x.g, x.b) {
        base = 0.0;
        plus = 1u;
        minus = 2u;
        largest = 0u;
    } else if x.g >= x.b {
        base = 2.0;
        plus = 2u;
        minus = 0u;
        largest = 1u;
    }
    var out = array<f32, 3>(0.0, 0.0, 0.0);
    var xs = array<f32, 3>(x.r, x.g, x.b);
    let smallest = select(minus, plus, xs[plus] < xs[minus]);
    let chroma = xs[largest] - xs[smallest];
    let dv = g.r + g.g + g.b;
    if chroma <= 0.0 {
        out[largest] = dv;
        return vec3(out[0], out[1], out[2]);
    }
    let difference = xs[plus] - xs[minus];
    var h = base + difference / chroma + shift;
    h = select(h, h + 6.0, h < 0.0);
    h = select(h, h - 6.0, h >= 6.0);
    let ramp = vec3(2.0 - abs(h - 3.0), abs(h - 2.0) - 1.0, abs(h - 4.0) - 1.0);
    let rising = vec3(select(1.0, -1.0, h >= 3.0), select(-1.0, 1.0, h >= 2.0), select(-1.0, 1.0, h >= 4.0));
    let sloped = select(vec3(0.0), rising, ramp > vec3(0.0) & ramp < vec3(1.0));
    let dh = -dot(g, sloped);
    let dc = -dot(g, clamp(ramp, vec3(0.0), vec3(1.0))) - dh * difference / chroma;
    out[plus] += dh;
    out[minus] -= dh;
    out[largest] += dv + dc;
    out[smallest] -= dc;
    return vec3(out[0], out[1], out[2]);
}

fn solarize_backward(x: vec3<f32>, threshold: f32, g: vec3<f32>) -> vec3<f32> {
    return select(g, -g, x >= vec3(threshold));
}

fn contrast_backward(start: u32, draw: Draw, local: u32) {
    let area = params.height * params.width;
    let factor = draw.contrast;
    let offset = (1.0 - factor) * mean_gray(local);
    var sum = 0.0;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        let masked = gradient(start, pixel) * passed(view_pixel(pixel) * factor + offset);
        set_gradient(start, pixel, masked);
        sum += masked.r + masked.g + masked.b;
    }
    let shared_part = (1.0 - factor) * total(sum, local) / f32(area);
    for (var pixel = local; pixel < area; pixel += THREADS) {
        set_gradient(start, pixel, gradient(start, pixel) * factor + GRAY * shared_part);
    }
}

/// What the pixels along a line took of the one at `place`, if a view stood at `place` as it does at `seen`.
fn taken(blur: Blur, seen: i32, line: u32, stride: u32, count: u32) -> vec3<f32> {
    let area = params.height * params.width;
    var sum = vec3(0.0);
    for (var from_place = max(seen - blur.radius, 0); from_place <= min(seen + blur.radius, i32(count) - 1); from_place++) {
        let pixel = line + u32(from_place) * stride;
        let value = vec3(value_at(pixel), value_at(area + pixel), value_at(2u * area + pixel));
        sum += value * blur_weight(blur, seen - from_place);
    }
    return sum;
}

fn blur_pass_backward(blur: Blur, rows: bool, local: u32) {
    let area = params.height * params.width;
    let count = select(params.height, params.width, rows);
    let stride = select(params.width, 1u, rows);
    let mirrored = blur.sigma > 0.0;
    var slot = 0u;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        let y = pixel / params.width;
        let x = pixel % params.width;
        let line = select(x, y * params.width, rows);
        let place = select(y, x, rows);
        // The order of the places is that of the CPU's loop.
        var sum = vec3(0.0);
        for (var beyond = -blur.radius; beyond < 0; beyond++) {
            if select(repeated(beyond, count), reflected(beyond, count), mirrored) == place {
                sum += taken(blur, beyond, line, stride, count);
            }
        }
        sum += taken(blur, i32(place), line, stride, count);
        for (var beyond = i32(count); beyond < i32(count) + blur.radius; beyond++) {
            if select(repeated(beyond, count), reflected(beyond, count), mirrored) == place {
                sum += taken(blur, beyond, line, stride, count);
            }
        }
        for (var channel = 0u; channel < 3u; channel++) {
            put(slot, channel * area + pixel, sum[channel]);
            slot++;
        }
    }
    turn(local);
}

/// The gradient takes the view's place for as long.
fn blur_backward(start: u32, draw: Draw, local: u32) {
    let area = params.height * params.width;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        set_view_pixel(pixel, gradient(start, pixel));
    }
    meet();
    if draw.blur_filter == 0u {
        let blur = gaussian(draw.blur_sigma);
        blur_pass_backward(blur, false, local);
        blur_pass_backward(blur, true, local);
    } else {
        let blur = pil_box(draw.blur_sigma);
        for (var pass_number = 0u; pass_number < 2u * BOX_PASSES; pass_number++) {
            blur_pass_backward(blur, pass_number >= BOX_PASSES, local);
        }
    }
    for (var pixel = local; pixel < area; pixel += THREADS) {
        set_gradient(start, pixel, view_pixel(pixel));
    }
}

@compute @workgroup_size(THREADS)
fn colour_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let number = group_number(group, grid);
    if number >= params.count {
        return;
    }
    let draw = draws[number];
    let area = params.height * params.width;
    let start = params.shift + places[number] * 3u * area;
    open_view(number);
    for (var back_stage = STAGES; back_stage > 0u; back_stage--) {
        let stage = back_stage - 1u;
        if !happens(draw, stage) {
            continue;
        }
        if stage == BLUR_STAGE {
            blur_backward(start, draw, local);
            continue;
        }
        if stage != 4u {
            meet();
            forward(sources[draw.image], draw, stage, local);
        }
        if stage < 4u && jitter_op(draw, stage) == 1u {
            contrast_backward(start, draw, local);
            continue;
        }
        for (var pixel = local; pixel < area; pixel += THREADS) {
            let g = gradient(start, pixel);
            var found = g;
            if stage == 4u {
                found = GRAY * (g.r + g.g + g.b);
            } else {
                let x = view_pixel(pixel);
                if stage == 6u {
                    found = solarize_backward(x, draw.solarize, g);
                } else {
                    switch jitter_op(draw, stage) {
                        case 0u: { found = brightness_backward(x, draw.brightness, g); }
                        case 2u: { found = saturation_backward(x, draw.saturation, g); }
                        default: { found = hue_backward(x, draw.hue, g); }
                    }
                }
            }
            set_gradient(start, pixel, found);
        }
    }
}
