//! Buttons on GPIO lines, by the kernel's character device. A button pulls its line to ground.

use crate::command::Command;
use crate::work::Post;
use gpiocdev::line::{Bias, EdgeDetection};
use gpiocdev::{Error, Request};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Presses that follow sooner than this are the contact's bouncing.
const BOUNCE: Duration = Duration::from_millis(20);

/// Listens to lines of a chip in a thread of its own: line to key.
///
/// # Errors
/// When the chip or a line cannot be had.
pub fn listen(chip: &Path, keys: &BTreeMap<u32, char>, post: &Arc<Post>) -> Result<(), Error> {
    let offsets: Vec<u32> = keys.keys().copied().collect();
    let request = Request::builder()
        .on_chip(chip)
        .with_consumer("firmware-host")
        .with_lines(&offsets)
        .with_bias(Bias::PullUp)
        .with_edge_detection(EdgeDetection::FallingEdge)
        .with_debounce_period(BOUNCE)
        .request()?;
    let (keys, post) = (keys.clone(), Arc::clone(post));
    let body = move || {
        for event in request.edge_events() {
            match event {
                Ok(event) => {
                    if let Some(command) = keys.get(&event.offset).and_then(|key| Command::of_key(*key)) {
                        post.command(command);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "buttons are no longer heard");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("buttons".into()).spawn(body).expect("the system gives a thread");
    Ok(())
}
