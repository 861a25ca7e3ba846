// Makes views: one workgroup a view, all operations in one dispatch. Put together with shared/bindings, held or stored,
// resized_crop, colour, blur and forward.

/// The f16 of a value in [0, 1], to nearest, ties to even; WGSL's own needs what not every device has.
fn half_bits(value: f32) -> u32 {
    if value < 6.103515625e-5 {
        return u32(round(value * 16777216.0));
    }
    let bits = bitcast<u32>(value) - (112u << 23u);
    return (bits + 0xfffu + ((bits >> 13u) & 1u)) >> 13u;
}

fn write_view(number: u32, local: u32) {
    let length = 3u * params.height * params.width;
    let start = params.shift + places[number] * length;
    if params.half == 1u {
        meet();
        for (var pair = local; pair < length / 2u; pair += THREADS) {
            views[start / 2u + pair] = half_bits(value_at(2u * pair)) | (half_bits(value_at(2u * pair + 1u)) << 16u);
        }
    } else {
        let area = params.height * params.width;
        for (var pixel = local; pixel < area; pixel += THREADS) {
            let value = view_pixel(pixel);
            views[start + pixel] = bitcast<u32>(value.r);
            views[start + area + pixel] = bitcast<u32>(value.g);
            views[start + 2u * area + pixel] = bitcast<u32>(value.b);
        }
    }
}

@compute @workgroup_size(THREADS)
fn apply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let number = group_number(group, grid);
    if number >= params.count {
        return;
    }
    let draw = draws[number];
    open_view(number);
    forward(sources[draw.image], draw, STAGES, local);
    write_view(number, local);
}
