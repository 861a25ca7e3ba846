//! Commands from the terminal's keys, from lines on the standard input, from signals, and from buttons.

use crate::command::Command;
use crate::work::Post;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

/// A terminal that gives keys as they are pressed; it is as before when this goes.
#[derive(Debug)]
pub struct Raw(Termios);

impl Raw {
    /// The terminal on the standard input.
    ///
    /// # Errors
    /// When it is none.
    pub fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// What the standard input gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Keys of a raw terminal.
    Keys,
    /// Lines.
    Lines,
}

/// Reads the standard input in a thread of its own. It ends with the input; at the program's end it may still wait for
/// a key and is left behind.
///
/// # Errors
/// When the system gives no thread.
pub fn listen(input: Input, post: &Arc<Post>) -> io::Result<()> {
    let post = Arc::clone(post);
    std::thread::Builder::new().name("input".into()).spawn(move || match input {
        Input::Keys => keys(io::stdin().lock(), &post),
        Input::Lines => lines(io::stdin().lock(), &post),
    })?;
    Ok(())
}

fn keys(mut input: impl Read, post: &Post) {
    let mut pressed = [0; 64];
    while let Ok(count @ 1..) = input.read(&mut pressed) {
        for command in pressed[..count].iter().filter_map(|&key| Command::of_key(char::from(key))) {
            post.command(command);
        }
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
