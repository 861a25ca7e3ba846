//! Images classified one after another.

use super::vote::{Ballot, FEWEST};
use super::{Classify, ClassifyError, Prediction, Seen, Session};
use crate::Rgb;
use gabion_augment::Draw;
use gabion_augment::cpu::Source;
use std::time::Instant;

/// Classifies images one after another in memory that it keeps.
#[derive(Debug)]
pub struct Stream<'a> {
    pub(super) session: &'a Session,
    pub(super) options: Classify,
    pub(super) batch: u32,
    pub(super) draws: Vec<Draw>,
    pub(super) pixels: Vec<f32>,
    pub(super) ballot: Ballot,
    pub(super) said: Prediction,
}

impl Stream<'_> {
    /// Classifies in another way from the next image on, in the memory that is there.
    ///
    /// # Errors
    /// When views or confidence make no sense; then nothing changes.
    pub fn set(&mut self, options: Classify) -> Result<(), ClassifyError> {
        options.check()?;
        self.options = options;
        Ok(())
    }

    /// See [`Session::classify`]; what is returned is overwritten by the next image.
    ///
    /// # Errors
    /// When the image makes no sense, or the answer to it is not finite.
    pub fn classify(&mut self, image: &Rgb) -> Result<&Prediction, ClassifyError> {
        let start = Instant::now();
        let Rgb { height, width, ref pixels } = *image;
        let bytes = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(3));
        let size = u32::try_from(height).ok().zip(u32::try_from(width).ok());
        let (Some((rows, columns)), Some(true)) = (size, bytes.map(|bytes| bytes > 0 && bytes == pixels.len())) else {
            return Err(ClassifyError::Pixels { width, height, bytes: pixels.len() });
        };
        self.ballot.begin(self.session.manifest.classes.len());
        let Classify { views, confidence, seed } = self.options;
        if views == 1 {
            self.whole(image);
            self.session.logits(Seen::Pixels, &mut self.pixels, self.ballot.room(1))?;
            self.count()?;
        } else {
            let source = Source::bytes(pixels, [rows, columns]);
            let step = if confidence < 1.0 { self.batch.min(FEWEST) } else { self.batch };
            let looks = views.div_ceil(step);
            while self.ballot.views() < views {
                let from = self.ballot.views();
                let session = self.session;
                self.draws.clear();
                let draw = |view| session.draw([rows, columns], seed, view);
                self.draws.extend((from..views.min(from + step)).map(draw));
                let room = self.ballot.room(self.draws.len() as u32);
                session.logits(Seen::Crops(source, &self.draws), &mut self.pixels, room)?;
                self.count()?;
                if self.ballot.settled(views, confidence, looks) {
                    break;
                }
            }
        }
        let said = &mut self.said;
        said.label = self.ballot.first();
        self.ballot.probabilities(&mut said.probabilities);
        said.views = self.ballot.views();
        said.agreement = self.ballot.agreement();
        let others = said.probabilities.iter().enumerate().filter(|(class, _)| *class != said.label);
        let next = others.map(|(_, &probability)| probability).fold(0.0, f32::max);
        said.margin = said.probabilities[said.label] - next;
        said.milliseconds = start.elapsed().as_secs_f64() * 1e3;
        Ok(&self.said)
    }

    /// Takes the logits that were written into account.
    fn count(&mut self) -> Result<(), ClassifyError> {
        self.ballot.counted();
        if self.ballot.is_finite() { Ok(()) } else { Err(ClassifyError::NotFinite) }
    }

    /// The largest centred part of the input's shape, `[3, height, width]` in `[0, 1]`, into the memory for pixels.
    fn whole(&mut self, image: &Rgb) {
        let input = self.session.manifest.input;
        let (height, width) = (input.height as usize, input.width as usize);
        let fitted;
        let bytes = if (image.height, image.width) == (height, width) {
            &image.pixels
        } else {
            fitted = image.centre(height, width);
            &fitted.pixels
        };
        self.pixels.resize(3 * height * width, 0.0);
        for (channel, plane) in self.pixels.chunks_exact_mut(height * width).enumerate() {
            let values = bytes.iter().skip(channel).step_by(3);
            plane.iter_mut().zip(values).for_each(|(to, &value)| *to = f32::from(value) / 255.0);
        }
    }
}
