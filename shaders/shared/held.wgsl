// A view in workgroup memory, `[3, height, width]`. HELD is set when the shader is put together: how many values fit.

var<workgroup> held: array<f32, HELD>;
/// The values that this invocation writes when the view turns.
var<private> next: array<f32, HELD / THREADS>;

fn open_view(number: u32) {}

fn value_at(place: u32) -> f32 {
    return held[place];
}

fn keep(place: u32, value: f32) {
    held[place] = value;
}

/// The `slot`th value of this invocation after the next turn.
fn put(slot: u32, place: u32, value: f32) {
    next[slot] = value;
}

/// What was put replaces the view.
fn turn(local: u32) {
    workgroupBarrier();
    let area = params.height * params.width;
    var slot = 0u;
    for (var pixel = local; pixel < area; pixel += THREADS) {
        for (var channel = 0u; channel < 3u; channel++) {
            held[channel * area + pixel] = next[slot];
            slot++;
        }
    }
    workgroupBarrier();
}

/// Every invocation sees what the others have set.
fn meet() {
    workgroupBarrier();
}
