//! The least program that classifies: `classify BUNDLE IMAGE [views]`. `xtask sizes` says how large it is.

use gabion_runtime::{Classify, Rgb, Session};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, image, views @ ..] = &words[..] else { return Err("usage: classify BUNDLE IMAGE [views]".into()) };
    let views = views.first().map_or(Ok(1), |views| views.parse())?;
    let session = Session::open(Path::new(bundle))?;
    let said = session.classify(&Rgb::open(Path::new(image))?, &Classify { views, ..Classify::default() })?;
    println!("{} {:.3}, {:.1} ms", session.classes()[said.label], said.probabilities[said.label], said.milliseconds);
    Ok(())
}
