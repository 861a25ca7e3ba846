// A view in storage, `[3, height, width]`, twice: what is put goes into the other one. For views that workgroup memory
// does not hold; only one workgroup touches them.

@group(0) @binding(6) var<storage, read_write> stored: array<f32>;

var<private> front: u32;
var<private> back: u32;

fn open_view(number: u32) {
    let length = 3u * params.height * params.width;
    front = 2u * number * length;
    back = front + length;
}

fn value_at(place: u32) -> f32 {
    return stored[front + place];
}

fn keep(place: u32, value: f32) {
    stored[front + place] = value;
}

/// The value at `place` after the next turn.
fn put(slot: u32, place: u32, value: f32) {
    stored[back + place] = value;
}

/// What was put replaces the view.
fn turn(local: u32) {
    storageBarrier();
    workgroupBarrier();
    let kept = front;
    front = back;
    back = kept;
}

/// Every invocation sees what the others have set.
fn meet() {
    storageBarrier();
    workgroupBarrier();
}
