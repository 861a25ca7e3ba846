#![no_main]
//! The file of the recipes without its room, so that Burn is not built for a sanitizer.

#[allow(dead_code)]
#[path = "../../crates/experiment/src/recipe.rs"]
mod recipe;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        recipe::fuzz(text);
    }
});
