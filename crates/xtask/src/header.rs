//! The C header, made from the sources of `gabion-capi`.

use anyhow::{Context, Result};
use cbindgen::{Config, DocumentationStyle, Language, Style};
use std::path::Path;

/// Where the header lies, from the root.
const HEADER: &str = "crates/capi/include/gabion.h";

const TOP: &str = "/**
 * Gabion in C: a bundle opened, images classified, adapted to local images, rolled back.
 *
 * Strings are UTF-8 and end with a NUL. Functions that can fail return a `gabion_status`, and `gabion_last_error` says in
 * words what was wrong; nothing is written to standard streams but what a fault of the library leaves on standard error.
 * Structs that begin with `size` may grow: set all bytes to zero, then `size` to the struct's own, then what is wanted.
 * Any number of threads may use one session at once, for everything but `gabion_close`. A session does not survive `fork`.
 *
 * Made by `cargo run -p xtask --release -- header` from crates/capi/src; changes belong there.
 */";

/// The header's text.
///
/// # Errors
/// When the sources cannot be read as Rust.
fn text(root: &Path) -> Result<String> {
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        documentation_style: DocumentationStyle::Doxy,
        header: Some(TOP.into()),
        include_guard: Some("GABION_H".into()),
        no_includes: true,
        sys_includes: ["stddef.h", "stdint.h"].map(String::from).into(),
        usize_is_size_t: true,
        line_length: 120,
        ..Config::default()
    };
    // In the order of reading. Asking cargo for the sources would take its lock.
    let mut builder = cbindgen::Builder::new().with_config(config);
    for part in ["version", "status", "plain", "session", "classify", "adapt"] {
        builder = builder.with_src(root.join(format!("crates/capi/src/{part}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().context("crates/capi/src")?.write(&mut bytes);
    Ok(String::from_utf8(bytes)?)
}

/// Writes the header.
///
/// # Errors
/// When the sources cannot be read as Rust or the system refuses.
pub fn write(root: &Path) -> Result<()> {
    let path = root.join(HEADER);
    std::fs::write(&path, text(root)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_sources() {
        let root = crate::tree::root().unwrap();
        let found = std::fs::read_to_string(root.join(HEADER)).unwrap();
        assert!(found == text(&root).unwrap(), "{HEADER} is old: cargo run -p xtask --release -- header");
    }
}
