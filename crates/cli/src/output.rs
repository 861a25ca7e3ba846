//! What goes to the terminal: a table or JSON on stdout, the rest on stderr.

use serde::Serialize;
use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// Options of every command.
#[derive(clap::Args)]
pub struct Output {
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but the result and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// Why a command did not do what was asked.
pub enum Failure {
    /// What was typed cannot be done: exit code 2.
    Usage(String),
    /// It was tried and failed: exit code 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Wrong usage, with what to do.
pub fn usage(error: impl Display) -> Failure {
    Failure::Usage(error.to_string())
}

/// The result of a command.
pub type Done = Result<(), Failure>;

impl Output {
    /// Prints a result: JSON where asked for, else `table`.
    pub fn result(&self, value: &impl Serialize, table: impl FnOnce() -> String) -> Done {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { plain(&table()) };
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// A line about what goes on.
    pub fn note(&self, line: impl Display) {
        if !self.quiet {
            eprintln!("{}", plain(&line.to_string()));
        }
    }

    /// Whether progress bars make sense.
    pub fn draws(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// Text without what a terminal would act on: names in a bundle or a data set are those of strangers.
pub fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{FFFD}")
}

/// A table with a header, plain enough for a log.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::TableStyle::default());
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_replaced() {
        assert_eq!(plain("a\u{1b}[31m\tb\nc\u{9b}d\r"), "a\u{FFFD}[31m\tb\nc\u{FFFD}d\u{FFFD}");
    }
}
