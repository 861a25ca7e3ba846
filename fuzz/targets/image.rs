#![no_main]

/// libFuzzer's own hook ends the process at every panic; those of the JPEG decoder are caught and become errors.
fn let_the_decoder_panic() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/zune-jpeg-")) {
            end(panic);
        }
    }));
}

libfuzzer_sys::fuzz_target!(init: let_the_decoder_panic(), |data: &[u8]| gabion_runtime::fuzz::image(data));
