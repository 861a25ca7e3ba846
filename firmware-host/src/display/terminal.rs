//! A terminal: two pixels a character cell by half blocks in 24-bit colour, with a column of text that stays legible
//! where the terminal is smaller than the screen; or sixels, where asked for.

use super::reduced::{indices, palette};
use super::{Kept, Shape, Target, TargetError};
use crate::canvas::Canvas;
use crate::screen::{budget, draw_picture, duration, percent};
use crate::state::{Badge, Feed, Scene, Stage, ViewState};
use embedded_graphics::pixelcolor::{Rgb565, RgbColor};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use image::RgbImage;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Columns of text beside the picture.
const COLUMN: u32 = 36;
/// What keys do, each line within a column.
const KEYS: [&str; 4] = [
    "l live  a attack  d adapt",
    "space pause  +/- epsilon  v views",
    "1-9 label  r rollback  s shot",
    "i status  q quit",
];
/// Shortest time between two sixel pictures: each is the whole screen.
const SIXEL_PAUSE: Duration = Duration::from_millis(200);

/// How pixels become characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Half blocks.
    Blocks,
    /// Sixels.
    Sixels,
}

/// A character with its colours.
type Cell = ([u8; 3], [u8; 3]);

/// A terminal that is drawn on.
pub struct Terminal<W> {
    out: W,
    style: Style,
    screen: Kept,
    /// Rows and columns, asked each time.
    size: fn() -> (u32, u32),
    shown: (u32, u32),
    cells: Vec<Cell>,
    /// Columns of the picture.
    left: u32,
    lines: Vec<String>,
    sixel_at: Option<Duration>,
    /// Whether a picture came too soon after the last one to be drawn.
    owes: bool,
    text: String,
}

/// Rows and columns of the terminal on the standard output, 24x80 where it does not say.
pub fn terminal_size() -> (u32, u32) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}

impl Terminal<std::io::Stdout> {
    /// The terminal on the standard output.
    ///
    /// # Errors
    /// When the standard output is none.
    pub fn open(style: Style, shape: Shape) -> Result<Self, TargetError> {
        if !std::io::stdout().is_terminal() {
            return Err(TargetError::new("terminal", "the standard output is none: use png:PATH or gif:PATH"));
        }
        Ok(Self::new(std::io::stdout(), style, shape, terminal_size))
    }
}

impl<W: Write> Terminal<W> {
    /// A terminal that `out` leads to.
    pub fn new(out: W, style: Style, shape: Shape, size: fn() -> (u32, u32)) -> Self {
        let screen = Kept::new(shape);
        let (cells, lines, text) = (Vec::new(), Vec::new(), String::new());
        Self { out, style, screen, size, shown: (0, 0), cells, left: 0, lines, sixel_at: None, owes: false, text }
    }

    /// What of the screen there is room for: all of it, or only the classified picture.
    fn reduced(&self, state: &ViewState<'_>, (rows, columns): (u32, u32)) -> RgbImage {
        let image = self.screen.image();
        let room = (columns.saturating_sub(COLUMN).max(8), 2 * rows.saturating_sub(1).max(4));
        if image.width() <= room.0 && image.height() <= room.1 {
            return image;
        }
        // Letters survive halving, roughly, and no more.
        if image.width() <= 2 * room.0 && image.height() <= 2 * room.1 {
            let share = f64::from(room.0) / f64::from(image.width());
            let share = share.min(f64::from(room.1) / f64::from(image.height()));
            let scaled = |side: u32| ((f64::from(side) * share) as u32).max(2) / 2 * 2;
            return image::imageops::thumbnail(&image, scaled(image.width()), scaled(image.height()));
        }
        let side = room.0.min(room.1) / 2 * 2;
        let mut canvas = Canvas::new(Size::new_equal(side), Rgb565::BLACK);
        if state.picture.is_some() {
            draw_picture(&mut canvas, state, Rectangle::new(Point::zero(), Size::new_equal(side)));
        }
        canvas.to_image()
    }

    fn blocks(&mut self, image: &RgbImage, fresh: bool) {
        let (columns, rows) = (image.width(), image.height() / 2);
        let cell = |x: u32, y: u32| (image.get_pixel(x, 2 * y).0, image.get_pixel(x, 2 * y + 1).0);
        let cells: Vec<Cell> =
            (0..rows).flat_map(|y| (0..columns).map(move |x| (x, y))).map(|(x, y)| cell(x, y)).collect();
        let fresh = fresh || cells.len() != self.cells.len();
        // Where the cursor would be, and the colours that are set.
        let mut place = None;
        let mut colours = None;
        for (at, &(upper, lower)) in cells.iter().enumerate() {
            if !fresh && self.cells[at] == (upper, lower) {
                continue;
            }
            let (y, x) = (at / columns as usize, at % columns as usize);
            if place != Some((y, x)) {
                let _ = write!(self.text, "\x1b[{};{}H", y + 1, x + 1);
            }
            if colours != Some((upper, lower)) {
                let ([r, g, b], [s, t, u]) = (upper, lower);
                let _ = write!(self.text, "\x1b[38;2;{r};{g};{b};48;2;{s};{t};{u}m");
                colours = Some((upper, lower));
            }
            self.text.push('\u{2580}');
            place = Some((y, x + 1)).filter(|_| x + 1 < columns as usize);
        }
        if colours.is_some() {
            self.text.push_str("\x1b[0m");
        }
        (self.cells, self.left) = (cells, columns);
    }

    /// Lines beside the picture, those that changed.
    fn beside(&mut self, state: &ViewState<'_>, (rows, columns): (u32, u32), fresh: bool) {
        let left = self.left;
        let (rows, room) = (rows as usize, columns.saturating_sub(left + 2) as usize);
        let mut lines = lines(state);
        if lines.len() > rows {
            lines.retain(|line| !line.is_empty());
            // A row below the last one would be the last one.
            lines.truncate(rows);
        }
        for (row, line) in lines.iter().enumerate() {
            if fresh || self.lines.get(row) != Some(line) {
                let shown = shortened(line, room);
                let _ = write!(self.text, "\x1b[{};{}H{shown}\x1b[K", row + 1, left + 2);
            }
        }
        for row in lines.len()..if fresh { 0 } else { self.lines.len() } {
            let _ = write!(self.text, "\x1b[{};{}H\x1b[K", row + 1, left + 2);
        }
        self.lines = lines;
    }
}

/// At most `room` characters, the last ones `...` when some are missing.
fn shortened(text: &str, room: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= room {
        return plain.collect();
    }
    plain.take(room.saturating_sub(3)).collect::<String>().trim_end().to_owned() + &"..."[..room.min(3)]
}

/// A bar of `#` that is full at 1.
fn bar(share: f32) -> String {
    const LONG: usize = 20;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
    let full = (if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) } * 20.0).round() as usize;
    format!("{}{}", "#".repeat(full), "-".repeat(LONG - full))
}

/// What the screen says, in words.
fn lines(state: &ViewState<'_>) -> Vec<String> {
    let badge = match state.badge {
        Badge::Clean => "CLEAN".to_owned(),
        Badge::Attacked(epsilon) => format!("ATTACKED {}", &*budget(epsilon)),
        Badge::Adapting => "ADAPTING".to_owned(),
    };
    let feed = match state.feed {
        Feed::Starting => "starting".to_owned(),
        Feed::Live => "live".to_owned(),
        Feed::Paused => "paused".to_owned(),
        Feed::Stalled(seconds) => format!("no frame for {seconds} s"),
        Feed::Lost(seconds) => format!("lost, retry in {seconds} s"),
        Feed::Broken(frames) => format!("broken frames: {frames}"),
        Feed::Ended => "ended".to_owned(),
    };
    let mut lines = vec![format!("{badge}   {feed}"), String::new()];
    if let Some(verdict) = &state.verdict {
        for (name, probability) in verdict.classes.iter().take(3) {
            lines.push(format!("{:>5} {}", &*percent(*probability), name));
            lines.push(format!("      {}", bar(*probability)));
        }
        lines.push(String::new());
        lines.push(format!("{} of {} views agree", &*percent(verdict.agreement), verdict.views));
        lines.push(format!("margin {}", &*percent(verdict.margin)));
    }
    lines.push(format!("{} {}", &*duration(state.milliseconds), state.device));
    lines.push(String::new());
    match &state.scene {
        Scene::Live => {}
        Scene::Attack(duel) => {
            if let Some(why) = duel.unavailable {
                lines.push(why.to_owned());
            }
            let many = format!("{} views", duel.views);
            for (title, effect) in [("1 view", &duel.one), (many.as_str(), &duel.many)] {
                let Some(effect) = effect else {
                    lines.push(format!("{title}: computing"));
                    continue;
                };
                let held = if effect.before.0 == effect.after.0 { "holds" } else { "FOOLED" };
                lines.push(format!("{title}: {held}"));
                lines.push(format!("  {} -> {} {}", effect.before.0, effect.after.0, &*percent(effect.after.1)));
            }
        }
        Scene::Adapt(adaptation) => {
            lines.push(match adaptation.stage {
                Stage::Collecting(have, want) => format!("labelled frames {have}/{want}"),
                Stage::Training(share) => format!("training {} {}", bar(share), &*percent(share)),
                Stage::Promoted => "PROMOTED: new weights classify".to_owned(),
                Stage::RolledBack => "ROLLED BACK: old weights classify".to_owned(),
                Stage::NotPromoted(why) => format!("NOT PROMOTED: {why}"),
                Stage::Unavailable(why) => why.to_owned(),
            });
            if let Some(latest) = adaptation.curve.last() {
                lines.push(format!("right under attack {}", &*percent(*latest)));
            }
            if let Some(guard) = adaptation.guard {
                for (name, [before, after]) in [("clean", guard.clean), ("attacked", guard.attacked)] {
                    lines.push(format!("{name} {} -> {}", &*percent(before), &*percent(after)));
                }
            }
        }
    }
    lines.extend([state.status.to_owned(), String::new()]);
    lines.extend(KEYS.map(str::to_owned));
    lines
}

/// A picture as sixels: six rows at once, each colour that occurs in them as one run-length coded line.
pub fn sixels(image: &RgbImage) -> String {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let indices = indices(image);
    let mut text = format!("\x1bP0;1;0q\"1;1;{width};{height}");
    let mut named = [false; 256];
    let palette = palette();
    for top in (0..height).step_by(6) {
        let mut first = true;
        for (colour, rgb) in palette.iter().enumerate() {
            let bits = |x: usize| {
                let rows = (top..height.min(top + 6)).enumerate();
                rows.filter(|&(_, y)| usize::from(indices[y * width + x]) == colour)
                    .fold(0u8, |bits, (row, _)| bits | 1 << row)
            };
            let line: Vec<u8> = (0..width).map(bits).collect();
            if line.iter().all(|bits| *bits == 0) {
                continue;
            }
            if !first {
                text.push('$');
            }
            first = false;
            if !std::mem::replace(&mut named[colour], true) {
                let [r, g, b] = rgb.map(|value| (u32::from(value) * 100 + 127) / 255);
                let _ = write!(text, "#{colour};2;{r};{g};{b}");
            } else {
                let _ = write!(text, "#{colour}");
            }
            for run in line.chunk_by(|a, b| a == b) {
                let character = char::from(b'?' + run[0]);
                if run.len() > 3 {
                    let _ = write!(text, "!{}{character}", run.len());
                } else {
                    text.extend(std::iter::repeat_n(character, run.len()));
                }
            }
        }
        text.push('-');
    }
    text.push_str("\x1b\\");
    text
}

impl<W: Write> Target for Terminal<W> {
    fn show(&mut self, state: &ViewState<'_>, time: Duration) -> Result<(), TargetError> {
        let owed = std::mem::take(&mut self.owes);
        let changed = self.screen.update(state).is_some() || owed;
        let size = (self.size)();
        let fresh = size != self.shown;
        self.text.clear();
        if fresh {
            // Hidden cursor, cleared; the size may have changed under us.
            self.text.push_str("\x1b[?25l\x1b[2J");
            self.shown = size;
        }
        match self.style {
            Style::Blocks => {
                if changed || fresh {
                    let image = self.reduced(state, size);
                    self.blocks(&image, fresh);
                }
                // It says more than the smallest screen.
                self.beside(state, size, fresh);
            }
            Style::Sixels if (changed || fresh) && self.sixel_at.is_none_or(|last| time >= last + SIXEL_PAUSE) => {
                self.sixel_at = Some(time);
                self.text.push_str("\x1b[H");
                let picture = sixels(&self.screen.image());
                self.text.push_str(&picture);
            }
            Style::Sixels => self.owes = changed || fresh,
        }
        if self.text.is_empty() {
            return Ok(());
        }
        let written = self.out.write_all(self.text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|error| TargetError::new("terminal", error))
    }

    fn patience(&self) -> Option<Duration> {
        self.owes.then_some(SIXEL_PAUSE)
    }

    fn owes(&self) -> bool {
        self.owes || (self.size)() != self.shown
    }

    fn covers_output(&self) -> bool {
        true
    }

    fn finish(&mut self) -> Result<(), TargetError> {
        let written = write!(self.out, "\x1b[0m\x1b[{};1H\x1b[?25h\r\n", self.shown.0.max(1));
        written.and_then(|()| self.out.flush()).map_err(|error| TargetError::new("terminal", error))
    }
}

#[cfg(test)]
mod tests;
