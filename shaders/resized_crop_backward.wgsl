// The gradient with respect to f32 sources of one size from those with respect to their crops, as a gather: one
// invocation a source pixel, in the order of the draws. Put together with shared/bindings and resized_crop.
//
// `views` are the crops' gradients, `pixels` holds for each source its first draw and the one after its last.

@group(0) @binding(6) var<storage, read_write> gradients: array<f32>;

/// The first output that may look at an input, and the one after the last. Those that do not have weight 0.
fn lookers(place: u32, from_length: u32, to_length: u32) -> vec2<u32> {
    if from_length == to_length {
        return vec2(place, place + 1u);
    }
    let scale = f32(from_length) / f32(to_length);
    let support = max(scale, 1.0);
    let middle = f32(place) + 0.5;
    let first = max(floor((middle - support) / scale - 0.5) - 1.0, 0.0);
    let end = ceil((middle + support) / scale - 0.5) + 2.0;
    return vec2(u32(first), min(u32(end), to_length));
}

/// How much output `place` takes of input `tap`.
fn share(place: u32, tap: u32, from_length: u32, to_length: u32) -> f32 {
    let taps = taps_of(place, from_length, to_length);
    if tap < taps.first || tap >= taps.end {
        return 0.0;
    }
    return weight(taps, tap);
}

@compute @workgroup_size(THREADS)
fn resized_crop_backward(
    @builtin(global_invocation_id) invocation: vec3<u32>,
) {
    let area = params.source_height * params.source_width;
    let at = invocation.x;
    let source = invocation.y;
    if at >= area {
        return;
    }
    let y = at / params.source_width;
    let x = at % params.source_width;
    let view_area = params.height * params.width;
    var sum = vec3(0.0);
    for (var number = pixels[2u * source]; number < pixels[2u * source + 1u]; number++) {
        let draw = draws[number];
        if y < draw.top || y >= draw.top + draw.height || x < draw.left || x >= draw.left + draw.width {
            continue;
        }
        let start = params.shift + places[number] * 3u * view_area;
        let rows = lookers(y - draw.top, draw.height, params.height);
        let columns = lookers(x - draw.left, draw.width, params.width);
        for (var row = rows.x; row < rows.y; row++) {
            let of_row = share(row, y - draw.top, draw.height, params.height);
            if of_row == 0.0 {
                continue;
            }
            var line = vec3(0.0);
            for (var column = columns.x; column < columns.y; column++) {
                let of_column = share(column, x - draw.left, draw.width, params.width);
                let shown = select(column, params.width - 1u - column, draw.flip != 0u);
                let place = start + row * params.width + shown;
                line += of_column * vec3(
                    bitcast<f32>(views[place]),
                    bitcast<f32>(views[place + view_area]),
                    bitcast<f32>(views[place + 2u * view_area]),
                );
            }
            sum += line * of_row;
        }
    }
    let out = params.first + 3u * source * area + at;
    if params.add == 1u {
        sum += vec3(gradients[out], gradients[out + area], gradients[out + 2u * area]);
    }
    gradients[out] = sum.x;
    gradients[out + area] = sum.y;
    gradients[out + 2u * area] = sum.z;
}
