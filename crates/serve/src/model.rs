//! What answers: a session, or in tests something that breaks.

use gabion_runtime::{Classify, ClassifyError, Prediction, Rgb, Session, Stream};

/// A classifier that many workers share.
pub trait Model: Send + Sync + 'static {
    /// Names of the classes, in the order of a prediction's probabilities.
    fn classes(&self) -> &[String];

    /// The memory of one worker, filled by its first picture.
    fn seat(&self) -> Box<dyn Seat + '_>;

    /// Why it computes elsewhere than it was meant to.
    fn fallen(&self) -> Option<&str> {
        None
    }
}

/// A worker's place at a model.
pub trait Seat {
    /// What the model says of a picture.
    ///
    /// # Errors
    /// When the options or the picture make no sense.
    fn classify(&mut self, image: &Rgb, options: Classify) -> Result<&Prediction, ClassifyError>;
}

impl Model for Session {
    fn classes(&self) -> &[String] {
        Self::classes(self)
    }

    fn seat(&self) -> Box<dyn Seat + '_> {
        Box::new(self.stream(Classify::default()).expect("the defaults make sense"))
    }

    fn fallen(&self) -> Option<&str> {
        Self::fallen(self)
    }
}

impl Seat for Stream<'_> {
    fn classify(&mut self, image: &Rgb, options: Classify) -> Result<&Prediction, ClassifyError> {
        self.set(options)?;
        Stream::classify(self, image)
    }
}
