//! How the program is set up: a TOML file, then what is typed.

use crate::capture::Capture;
use crate::command::Mode;
use crate::display::{Outlet, Shape};
use crate::engine::Look;
use crate::run::Plan;
use crate::source::Origin;
use crate::{app::Task, engine::Engine};
use gabion_spec::Pixels;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a display on a bus is wired.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wiring {
    /// The chip that the lines are of.
    pub gpio: PathBuf,
    /// The line that tells data from commands.
    pub dc: u32,
    /// The line that resets the display, where it is wired.
    pub reset: Option<u32>,
    /// The line of the backlight, where it is wired.
    pub backlight: Option<u32>,
    /// SPI clock.
    pub hertz: u32,
    /// 0, 90, 180 or 270.
    pub rotation: u32,
    /// Most ST7789 panels want their colours inverted.
    pub inverted: bool,
}

impl Default for Wiring {
    /// As many 240x240 panels are wired to a Raspberry Pi.
    fn default() -> Self {
        Self {
            gpio: "/dev/gpiochip0".into(),
            dc: 25,
            reset: None,
            backlight: None,
            hertz: 40_000_000,
            rotation: 0,
            inverted: true,
        }
    }
}

/// Buttons to ground.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buttons {
    /// The chip that the lines are of.
    pub gpio: PathBuf,
    /// Line to the key that it stands for.
    pub keys: BTreeMap<String, char>,
}

/// How what happens is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Journal {
    /// A line of text.
    #[default]
    Text,
    /// A line of JSON.
    Json,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of a bundle; without one a small network classifies drawn shapes.
    pub bundle: Option<PathBuf>,
    /// auto, cpu, wgpu or cuda.
    pub device: String,
    /// Where frames come from.
    pub source: Origin,
    /// Where screens are shown.
    pub targets: Vec<Outlet>,
    /// The screen of targets that have no size of their own.
    pub screen: Shape,
    /// The mode at the start.
    pub mode: Mode,
    /// Crops of a frame.
    pub views: u32,
    /// Seeds the crops and what is drawn.
    pub seed: u64,
    /// The budget of attacks.
    pub epsilon: Pixels,
    /// Most frames a second.
    pub rate: f32,
    /// Labelled frames that an adaptation takes.
    pub examples: usize,
    /// Seconds without a frame after which the source counts as stalled.
    pub stall_seconds: f32,
    /// Seconds before a lost source is opened again, at first and at most.
    pub retry_seconds: [f32; 2],
    /// How the log is written.
    pub journal: Journal,
    /// The file that the log goes to; without one, the standard error.
    pub journal_file: Option<PathBuf>,
    /// How a display on a bus is wired.
    pub wiring: Wiring,
    /// Buttons.
    pub buttons: Option<Buttons>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bundle: None,
            device: "auto".into(),
            source: Origin::Synth,
            targets: Vec::new(),
            screen: Shape::Square,
            mode: Mode::Live,
            views: 8,
            seed: 0,
            epsilon: Pixels::of_255(8.0),
            rate: 10.0,
            examples: 96,
            stall_seconds: 2.0,
            retry_seconds: [0.5, 30.0],
            journal: Journal::Text,
            journal_file: None,
            wiring: Wiring::default(),
            buttons: None,
        }
    }
}

/// Why a configuration is none: one line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not TOML, or an unknown key.
    #[error("{}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The reason, with the line.
        why: String,
    },
    /// A value that makes no sense.
    #[error("{key} is {value}: {wanted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What would do.
        wanted: &'static str,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense, with the path.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.into(), source })?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            ConfigError::Parse { path: path.into(), why: format!("line {line}: {}", error.message().trim()) }
        })?;
        config.checked()
    }

    /// The configuration, if every value makes sense.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let refuse = |key, value: String, wanted| Err(ConfigError::Value { key, value, wanted });
        if !(1..=4096).contains(&self.views) {
            return refuse("views", self.views.to_string(), "use 1 to 4096");
        }
        if !(0.01..=1000.0).contains(&self.rate) {
            return refuse("rate", self.rate.to_string(), "use 0.01 to 1000 frames a second");
        }
        if !(1..=100_000).contains(&self.examples) {
            return refuse("examples", self.examples.to_string(), "use 1 to 100000");
        }
        if !(0.1..=86_400.0).contains(&self.stall_seconds) {
            return refuse("stall_seconds", self.stall_seconds.to_string(), "use 0.1 to 86400");
        }
        let [first, most] = self.retry_seconds;
        if !(0.01..=86_400.0).contains(&first) || !(first..=86_400.0).contains(&most) {
            return refuse(
                "retry_seconds",
                format!("{:?}", self.retry_seconds),
                "use two of 0.01 to 86400, the first no longer",
            );
        }
        Ok(self)
    }

    /// What to run.
    pub fn plan(&self, engine: Arc<dyn Engine>, start: Instant) -> Plan {
        let [backoff, longest_backoff] = self.retry_seconds.map(Duration::from_secs_f32);
        Plan {
            engine,
            capture: Capture {
                origin: self.source.clone(),
                seed: self.seed,
                interval: Duration::from_secs_f32(1.0 / self.rate),
                backoff,
                longest_backoff,
                sign: Duration::from_secs_f32(self.stall_seconds / 2.0),
            },
            task: Task { mode: self.mode, epsilon: self.epsilon, look: Look { views: self.views, seed: self.seed } },
            examples: self.examples,
            stall: Duration::from_secs_f32(self.stall_seconds),
            shape: self.screen,
            start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    #[test]
    fn the_example_is_read() {
        let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
        let config = Config::read(&Path::new(&here).join("firmware-host.toml")).unwrap();
        assert!(config.bundle.is_some() && !config.targets.is_empty());
        assert_eq!(read("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("view = 3", "unknown field `view`"),
            ("views = 0", "views is 0"),
            ("\nsource = \"tv\"", "line 2"),
            ("targets = [\"tv\"]", "no target"),
            ("rate = inf", "rate"),
            ("stall_seconds = nan", "stall_seconds"),
            ("retry_seconds = [3, 1]", "retry_seconds"),
            ("epsilon = \"2\"", "8/255"),
            ("[wiring]\nd = 3", "unknown field `d`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains('\n'), "{text}: {error}");
        }
        assert!(Config::read(Path::new("/no/such.toml")).unwrap_err().to_string().contains("/no/such.toml"));
    }
}
