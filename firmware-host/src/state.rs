//! What a screen shows, as plain data: no device, no clock, nothing owned.

use gabion_spec::Pixels;

/// 8-bit RGB, `[height, width, 3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture<'a> {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// `height * width * 3` bytes.
    pub pixels: &'a [u8],
}

/// Where a view was cut from the picture, and what it was taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Left, top, right and bottom as shares of the picture's sides.
    pub area: [f32; 4],
    /// The class that this view alone is taken for.
    pub class: usize,
    /// Whether that is the final class.
    pub agrees: bool,
}

/// What the picture was taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict<'a> {
    /// Classes with their probabilities, the most probable first; three are shown.
    pub classes: &'a [(String, f32)],
    /// Views that the answer rests on.
    pub views: u32,
    /// Share of the views that agree with the answer.
    pub agreement: f32,
    /// Probability of the first class less that of the second.
    pub margin: f32,
}

/// In what state the picture is that is classified.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Badge {
    /// As the source gave it.
    Clean,
    /// Perturbed within this budget.
    Attacked(Pixels),
    /// As the source gave it, while weights are being trained.
    Adapting,
}

/// How the source does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Feed {
    /// No frame yet.
    Starting,
    /// Frames come.
    Live,
    /// Stopped by the user.
    Paused,
    /// Open, and no frame for so many seconds.
    Stalled(u64),
    /// Cannot be opened or went away; tried again in so many seconds.
    Lost(u64),
    /// The last frames, so many, could not be decoded.
    Broken(u32),
    /// Gave its last frame.
    Ended,
}

/// A label before and after an attack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect<'a> {
    /// Class and probability of the picture as it was.
    pub before: (&'a str, f32),
    /// Class and probability of the perturbed one.
    pub after: (&'a str, f32),
}

/// A picture, the same perturbed, and what that does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Duel<'a> {
    /// The budget.
    pub epsilon: Pixels,
    /// The perturbed picture, once there is one.
    pub perturbed: Option<Picture<'a>>,
    /// On the whole picture as one view.
    pub one: Option<Effect<'a>>,
    /// On the mean over `views` crops.
    pub many: Option<Effect<'a>>,
    /// How many crops `many` rests on.
    pub views: u32,
    /// Why there is no attack.
    pub unavailable: Option<&'a str>,
}

/// Where an adaptation stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage<'a> {
    /// Labelled frames are collected: so many of so many.
    Collecting(u32, u32),
    /// Weights are trained; the share that is done.
    Training(f32),
    /// The guard let the new weights pass: they classify now.
    Promoted,
    /// The guard refused, or the user went back: the old weights classify.
    RolledBack,
    /// The guard let the new weights pass, but they could not take over, and why: the old weights classify.
    NotPromoted(&'a str),
    /// Why there is no adaptation.
    Unavailable(&'a str),
}

/// Shares of held-out frames classified rightly, before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guard {
    /// Clean frames.
    pub clean: [f32; 2],
    /// Perturbed frames.
    pub attacked: [f32; 2],
}

/// Weights on their way to a new state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptation<'a> {
    /// Where it stands.
    pub stage: Stage<'a>,
    /// Accuracy under attack after each round, in `[0, 1]`.
    pub curve: &'a [f32],
    /// What was found on the held-out frames, once it was.
    pub guard: Option<Guard>,
}

/// What the middle of the screen is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scene<'a> {
    /// Classification.
    Live,
    /// Attack.
    Attack(Duel<'a>),
    /// Adaptation.
    Adapt(Adaptation<'a>),
}

/// All that a screen shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewState<'a> {
    /// The newest classified frame.
    pub picture: Option<Picture<'a>>,
    /// Its crops; empty for the whole picture.
    pub views: &'a [View],
    /// What it was taken for, once it was.
    pub verdict: Option<Verdict<'a>>,
    /// In what state it is.
    pub badge: Badge,
    /// What the middle is about.
    pub scene: Scene<'a>,
    /// How the source does.
    pub feed: Feed,
    /// Time of one classification, where it was measured.
    pub milliseconds: Option<f64>,
    /// What computes.
    pub device: &'a str,
    /// Small print.
    pub status: &'a str,
}

#[cfg(test)]
impl<'a> ViewState<'a> {
    /// Words and a figure alone.
    pub(crate) fn saying(status: &'a str) -> Self {
        Self {
            picture: None,
            views: &[],
            verdict: None,
            badge: Badge::Clean,
            scene: Scene::Live,
            feed: Feed::Live,
            milliseconds: Some(1.0),
            device: "cpu",
            status,
        }
    }
}
