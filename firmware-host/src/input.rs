//! Commands from the terminal's keys, from lines on the standard input, from signals, and from buttons.

use crate::command::Command;
use crate::work::Post;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A terminal that gives keys as they are pressed; it is as before when this goes.
#[derive(Debug)]
pub struct Raw {
    terminal: File,
    before: Termios,
}

impl Raw {
    /// The terminal on the standard input.
    ///
    /// # Errors
    /// When it is none.
    pub fn new() -> io::Result<Self> {
        Self::on(io::stdin().as_fd().try_clone_to_owned()?.into())
    }

    /// The terminal that the program was started from, whatever the standard input is.
    ///
    /// # Errors
    /// When it was started from none.
    pub fn beside() -> io::Result<Self> {
        Self::on(File::open("/dev/tty")?)
    }

    fn on(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }

    /// What its keys are read from.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn keys(&self) -> io::Result<Input> {
        Ok(Input::Keys(self.terminal.try_clone()?))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Whether a path leads to what the standard input reads: two readers would take bytes from each other.
pub fn is_standard(path: &Path) -> bool {
    let place = |found: io::Result<Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let standard = io::stdin().as_fd().try_clone_to_owned().and_then(|input| File::from(input).metadata());
    let standard = place(standard);
    standard.is_some() && standard == place(std::fs::metadata(path))
}

/// Where commands come from.
#[derive(Debug)]
pub enum Input {
    /// Keys of a raw terminal.
    Keys(File),
    /// Lines of the standard input.
    Lines,
}

/// Reads commands in a thread of its own. It ends with the input; at the program's end it may still wait for a key and
/// is left behind.
///
/// # Errors
/// When the system gives no thread.
pub fn listen(input: Input, post: &Arc<Post>) -> io::Result<()> {
    let post = Arc::clone(post);
    std::thread::Builder::new().name("input".into()).spawn(move || match input {
        Input::Keys(terminal) => keys(terminal, &post),
        Input::Lines => lines(io::stdin().lock(), &post),
    })?;
    Ok(())
}

fn keys(mut input: impl Read, post: &Post) {
    let (mut pressed, mut sequence) = ([0; 64], Sequence::None);
    while let Ok(count @ 1..) = input.read(&mut pressed) {
        let plain = pressed[..count].iter().filter(|&&key| sequence.plain(key));
        for command in plain.filter_map(|&key| Command::of_key(char::from(key))) {
            post.command(command);
        }
    }
}

/// Where the bytes of a terminal are in what one of its other keys sends: Delete is `ESC [ 3 ~`, and no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    None,
    /// After the escape character, which is also a key.
    Escape,
    /// In a control sequence (ECMA-48, 5.4): up to its final byte.
    Control,
    /// One more.
    Single,
}

impl Sequence {
    /// Whether a byte is a key of its own.
    fn plain(&mut self, byte: u8) -> bool {
        let before = *self;
        *self = match (before, byte) {
            (_, 0x1b) => Self::Escape,
            (Self::Escape, b'[') => Self::Control,
            (Self::Escape, b'O') => Self::Single,
            (Self::Control, b' '..=b'?') => Self::Control,
            _ => Self::None,
        };
        matches!(before, Self::None | Self::Escape) && *self == Self::None
    }
}

fn lines(input: impl BufRead, post: &Post) {
    for line in input.lines() {
        let Ok(line) = line else { return };
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match line.parse() {
            // A script is longer than the queue.
            Ok(command) => post.command_in_turn(command),
            Err(why) => tracing::warn!("{why}"),
        }
    }
}

/// Ends the program on SIGINT, SIGTERM and SIGHUP.
///
/// # Errors
/// When the system refuses.
pub fn heed_signals(post: &Arc<Post>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let post = Arc::clone(post);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            tracing::info!(signal, "told to end");
            post.command_at_once(Command::Quit);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::post;
    use std::time::Instant;

    /// Delete, Home, F5, an arrow with Ctrl, an arrow of the keypad and one that comes in pieces; Escape and Alt change nothing.
    #[test]
    fn what_other_keys_send_is_no_command() {
        struct Pieces<I>(I);
        impl<I: Iterator<Item = &'static str>> Read for Pieces<I> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0.next().map_or(Ok(0), |piece| piece.as_bytes().read(into))
            }
        }
        let inbox = post();
        let pressed =
            ["\x1b[3~\x1b[1~", "\x1b[15~\x1b[1;5A\x1bOA", "\x1b", "[", "5~", "2", "\x1b", "v", "\x1ba", "\x1b\x03"];
        keys(Pieces(pressed.into_iter()), &inbox);
        let (commands, _) = inbox.wait(Instant::now());
        let wanted = ['2', 'v', 'a', 'q'].map(|key| Command::of_key(key).unwrap());
        assert!(commands.iter().eq(&wanted), "{commands:?}");
    }

    #[test]
    fn keys_and_lines_become_commands() {
        let inbox = post();
        keys(&b"a?q"[..], &inbox);
        lines(&b"# a script\n\nviews 4\nnonsense\nquit\n"[..], &inbox);
        let (commands, _) = inbox.wait(Instant::now());
        let wanted = [Command::of_key('a').unwrap(), Command::Quit, Command::Views(4), Command::Quit];
        assert!(commands.iter().eq(&wanted), "{commands:?}");
    }
}
