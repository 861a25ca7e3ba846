// Crop, resize, flip: PIL's triangle filter, as gabion_augment::cpu::resized_crop.

/// Where one place of an axis looks.
struct Taps {
    first: u32,
    end: u32,
    center: f32,
    support: f32,
    /// 1 over the sum of the triangle's values; 0 where the axis is copied.
    norm: f32,
}

fn triangle(taps: Taps, tap: u32) -> f32 {
    return max(1.0 - abs((f32(tap) - taps.center + 0.5) / taps.support), 0.0);
}

fn weight(taps: Taps, tap: u32) -> f32 {
    if taps.norm == 0.0 {
        return 1.0;
    }
    return triangle(taps, tap) * taps.norm;
}

/// Taps of output `place` where `from` pixels become `to`.
fn taps_of(place: u32, from_length: u32, to_length: u32) -> Taps {
    if from_length == to_length {
        return Taps(place, place + 1u, 0.0, 1.0, 0.0);
    }
    let scale = f32(from_length) / f32(to_length);
    let support = max(scale, 1.0);
    let center = (f32(place) + 0.5) * scale;
    let first = u32(max(center - support + 0.5, 0.0));
    let end = min(u32(center + support + 0.5), from_length);
    var taps = Taps(first, end, center, support, 1.0);
    var sum = 0.0;
    for (var tap = first; tap < end; tap++) {
        sum += triangle(taps, tap);
    }
    taps.norm = 1.0 / sum;
    return taps;
}

fn byte_at(place: u32) -> f32 {
    let byte = (pixels[place / 4u] >> (8u * (place % 4u))) & 0xffu;
    return params.unit[byte / 4u][byte % 4u];
}

/// The pixel of a source.
fn pixel_at(source: Source, y: u32, x: u32) -> vec3<f32> {
    let place = y * source.width + x;
    if source.floats == 1u {
        let area = source.height * source.width;
        let start = source.start + place;
        return vec3(bitcast<f32>(pixels[start]), bitcast<f32>(pixels[start + area]), bitcast<f32>(pixels[start + 2u * area]));
    }
    let start = source.start + 3u * place;
    return vec3(byte_at(start), byte_at(start + 1u), byte_at(start + 2u));
}

/// One pixel of a view.
fn resized_crop(source: Source, draw: Draw, y: u32, x: u32) -> vec3<f32> {
    let column = select(x, params.width - 1u - x, draw.flip != 0u);
    let across = taps_of(column, draw.width, params.width);
    let down = taps_of(y, draw.height, params.height);
    var sum = vec3(0.0);
    for (var row = down.first; row < down.end; row++) {
        var line = vec3(0.0);
        for (var tap = across.first; tap < across.end; tap++) {
            line += pixel_at(source, draw.top + row, draw.left + tap) * weight(across, tap);
        }
        sum += line * weight(down, row);
    }
    // Rounded weights can sum to a little more than one.
    return min(sum, vec3(1.0));
}
