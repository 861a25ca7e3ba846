//! What can be asked of the program, by key and by line.
//!
//! | key | line | what it does |
//! |---|---|---|
//! | `l` | `mode live` | classification |
//! | `a` | `mode attack` | attack every frame |
//! | `d` | `mode adapt` | collect labelled frames, train, judge; again when it is done |
//! | space | `pause`, `resume` | the source rests |
//! | `+` `-` | `epsilon 8/255` | the budget of attacks |
//! | `v` | `views 16` | the number of crops: 1, 4, 8, 16, 32 |
//! | `1`..`9` | `label NAME` | the frame that is seen shows this class: an example to adapt to |
//! | `r` | `rollback` | the weights before the last promotion |
//! | `s` | `snapshot PATH` | the screen as a PNG |
//! | `i` | `status` | one line of JSON on the standard output; in the log, where a terminal is drawn on there |
//! | `q` | `quit` | |

use gabion_spec::Pixels;
use std::path::PathBuf;
use std::str::FromStr;

/// What the program is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Classification.
    #[default]
    Live,
    /// Every frame is attacked.
    Attack,
    /// Labelled frames are collected and trained on.
    Adapt,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Another mode; `adapt` anew, when one is done.
    Mode(Mode),
    /// The source rests, or goes on.
    Pause(bool),
    /// The other of the two.
    TogglePause,
    /// The budget of attacks.
    Epsilon(Pixels),
    /// The budget, larger or smaller by 1/255.
    Nudge(i8),
    /// The number of crops.
    Views(u32),
    /// The next of 1, 4, 8, 16 and 32.
    MoreViews,
    /// The frame that is seen shows the class of this index.
    LabelAt(usize),
    /// The frame that is seen shows the class of this name.
    Label(String),
    /// The weights before the last promotion.
    RollBack,
    /// The screen as a PNG; by default a name with the time.
    Snapshot(Option<PathBuf>),
    /// One line of JSON on the standard output, or in the log.
    Status,
    /// The end.
    Quit,
}

impl Command {
    /// What a key asks for.
    pub fn of_key(key: char) -> Option<Self> {
        Some(match key {
            'l' => Self::Mode(Mode::Live),
            'a' => Self::Mode(Mode::Attack),
            'd' => Self::Mode(Mode::Adapt),
            ' ' => Self::TogglePause,
            '+' | '=' => Self::Nudge(1),
            '-' => Self::Nudge(-1),
            'v' => Self::MoreViews,
            '1'..='9' => Self::LabelAt(key as usize - '1' as usize),
            'r' => Self::RollBack,
            's' => Self::Snapshot(None),
            'i' => Self::Status,
            // Ctrl-C and Ctrl-D, which a raw terminal passes on.
            'q' | '\u{3}' | '\u{4}' => Self::Quit,
            _ => return None,
        })
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()));
        let command = match (word, rest) {
            ("mode", "live") => Self::Mode(Mode::Live),
            ("mode", "attack") => Self::Mode(Mode::Attack),
            ("mode", "adapt") => Self::Mode(Mode::Adapt),
            ("pause", "") => Self::Pause(true),
            ("resume", "") => Self::Pause(false),
            ("epsilon", rest) if !rest.is_empty() => {
                Self::Epsilon(rest.parse().map_err(|error: gabion_spec::ParsePixelsError| error.to_string())?)
            }
            ("views", rest) => match rest.parse() {
                Ok(views @ 1..=4096) => Self::Views(views),
                _ => return Err(format!("`{rest}` is no number of views: use 1 to 4096")),
            },
            ("label", rest) if !rest.is_empty() => Self::Label(rest.into()),
            ("rollback", "") => Self::RollBack,
            ("snapshot", rest) => Self::Snapshot((!rest.is_empty()).then(|| rest.into())),
            ("status", "") => Self::Status,
            ("quit", "") => Self::Quit,
            _ => {
                return Err(format!(
                    "`{line}` is no command: use mode live|attack|adapt, pause, resume, epsilon 8/255, views 16, \
                     label NAME, rollback, snapshot PATH, status or quit"
                ));
            }
        };
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(" mode  attack\n".parse(), Ok(Command::Mode(Mode::Attack)));
        assert_eq!("epsilon 8/255".parse(), Ok(Command::Epsilon(Pixels::of_255(8.0))));
        assert_eq!("label fire truck".parse(), Ok(Command::Label("fire truck".into())));
        assert_eq!("snapshot".parse(), Ok(Command::Snapshot(None)));
        for wrong in ["", "mode", "mode x", "epsilon", "epsilon 2", "views 0", "views", "pause now", "label"] {
            wrong.parse::<Command>().unwrap_err();
        }
        assert_eq!(Command::of_key('3'), Some(Command::LabelAt(2)));
        assert_eq!(Command::of_key('x'), None);
    }
}
