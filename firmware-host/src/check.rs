//! What is missing before the program could run as it is set up. Nothing is drawn, nothing is changed.

use crate::command::Mode;
use crate::config::Config;
use crate::display::framebuffer::Geometry;
use crate::display::{Chip, Outlet};
use crate::engine::bundled::Bundled;
use crate::source::{Origin, Pull};
use gabion_runtime::Choice;
use gabion_runtime::generations::GENERATIONS;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::fmt;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a source may take to its first frame.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a thing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// As it should be.
    There(String),
    /// Not there, what that means and what to do; the program runs as it is set up.
    Wanting(String),
    /// Not there, and what to do.
    Missing(String),
}

impl From<Result<String, String>> for Found {
    fn from(found: Result<String, String>) -> Self {
        found.map_or_else(Self::Missing, Self::There)
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: String,
    /// What was found.
    pub found: Found,
}

impl Finding {
    /// Whether the program cannot run as it is set up.
    pub fn missing(&self) -> bool {
        matches!(self.found, Found::Missing(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, found) = match &self.found {
            Found::There(found) => ("ok", found),
            Found::Wanting(why) => ("note", why),
            Found::Missing(why) => ("MISSING", why),
        };
        write!(f, "{word:<9}{}: {found}", self.what)
    }
}

/// Looks at all that a configuration names.
pub fn check(config: &Config) -> Vec<Finding> {
    let finding = |what: String, found: Result<String, String>| Finding { what, found: found.into() };
    let mut findings = vec![finding("model".into(), model(config))];
    if let Some(bundle) = config.bundle.as_ref().filter(|bundle| bundle.is_dir()) {
        let found = match (keeps(bundle), config.mode) {
            (Err(why), Mode::Live | Mode::Attack) => {
                Found::Wanting(format!("{why}. Adapting needs that, live and attack do not"))
            }
            (found, _) => found.into(),
        };
        findings.push(Finding { what: "adapted weights".into(), found });
    }
    findings.push(finding(format!("source {}", config.source), source(&config.source, config.seed)));
    for outlet in &config.targets {
        findings.push(finding(format!("target {}", name(outlet)), target(outlet, config)));
    }
    if let Some(buttons) = &config.buttons {
        let found = if cfg!(feature = "gpio") { device(&buttons.gpio) } else { Err(without("gpio")) };
        findings.push(finding("buttons".into(), found));
    }
    let watched = sd_notify::watchdog_enabled();
    let watched = watched.map_or("none listens".into(), |time| format!("listens, every {} s", time.as_secs_f32()));
    findings.push(finding("service manager".into(), Ok(watched)));
    findings
}

fn without(feature: &str) -> String {
    format!("this program was built without it: build with --features {feature}")
}

fn name(outlet: &Outlet) -> String {
    match outlet {
        Outlet::Png(path)
        | Outlet::Gif(path)
        | Outlet::Apng(path)
        | Outlet::Framebuffer(path)
        | Outlet::Panel(_, path) => path.display().to_string(),
        Outlet::Terminal => "terminal".into(),
        Outlet::Sixel => "sixel".into(),
        Outlet::Window => "window".into(),
        Outlet::None => "none".into(),
    }
}

fn model(config: &Config) -> Result<String, String> {
    let Some(bundle) = &config.bundle else { return Ok("none: a small network classifies drawn shapes".into()) };
    let choice: Choice = config.device.parse().map_err(|error: gabion_runtime::DeviceError| error.to_string())?;
    let engine = Bundled::open(bundle, choice).map_err(|error| error.to_string())?;
    let about = crate::engine::Engine::about(&engine);
    Ok(format!("{}, {} classes, on {}", about.name, about.classes.len(), about.device))
}

/// Whether what is adapted can be written beside a bundle.
fn keeps(bundle: &Path) -> Result<String, String> {
    let generations = bundle.join(GENERATIONS);
    let place = match generations.symlink_metadata() {
        Ok(found) if !found.is_dir() => return Err(format!("{} is no folder: remove it", generations.display())),
        Ok(_) => generations.as_path(),
        Err(_) => bundle,
    };
    match access(place, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(format!("{} can be written", place.display())),
        Err(Errno::ROFS) => Err(format!(
            "{} is on a read-only file system: take a copy of the bundle elsewhere (a service: /var/lib/gabion)",
            place.display()
        )),
        Err(Errno::ACCESS | Errno::PERM) => {
            Err(format!("this user may not write {}: sudo chown -R USER {}", place.display(), bundle.display()))
        }
        Err(error) => Err(format!("{}: {error}", place.display())),
    }
}

fn source(origin: &Origin, seed: u64) -> Result<String, String> {
    let mut source = origin.open(seed).map_err(|error| error.to_string())?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match source.pull(Duration::from_millis(250)) {
            Ok(Pull::Frame(frame) | Pull::Lasting(frame, _)) => {
                let milliseconds = start.elapsed().as_millis();
                return Ok(format!("{}x{} after {milliseconds} ms", frame.width, frame.height));
            }
            Ok(Pull::Waiting) => std::thread::sleep(Duration::from_millis(50)),
            Ok(Pull::End) => return Err("it has no frame".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("no frame in {} s", PATIENCE.as_secs()))
}

/// Whether a device file may be written.
fn device(path: &Path) -> Result<String, String> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok("can be opened".into()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(format!("{}: {error}: add the user to its group (see ls -l)", path.display()))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn folder(path: &Path) -> Result<String, String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        Ok("its folder is there".into())
    } else {
        Err(format!("there is no folder {}", folder.display()))
    }
}

fn target(outlet: &Outlet, config: &Config) -> Result<String, String> {
    match outlet {
        Outlet::None => Ok("shows nothing".into()),
        Outlet::Png(path) | Outlet::Gif(path) | Outlet::Apng(path) => folder(path),
        Outlet::Terminal | Outlet::Sixel if std::io::stdout().is_terminal() => {
            let (rows, columns) = crate::display::terminal::terminal_size();
            Ok(format!("{columns}x{rows} characters"))
        }
        Outlet::Terminal | Outlet::Sixel => Err("the standard output is no terminal".into()),
        Outlet::Window if !cfg!(feature = "window") => Err(without("window")),
        Outlet::Window => crate::display::desktop().map(|desktop| format!("on {desktop}")),
        Outlet::Framebuffer(path) => {
            let Geometry { width, height, bits, .. } = Geometry::of(path).map_err(|error| error.to_string())?;
            device(path).map(|_| format!("{width}x{height} pixels of {bits} bits"))
        }
        Outlet::Panel(..) if !cfg!(feature = "spi") => Err(without("spi")),
        Outlet::Panel(Chip::Ssd1306, bus) => device(bus),
        Outlet::Panel(_, bus) => device(bus).and_then(|_| device(&config.wiring.gpio)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let config = Config {
            bundle: Some("/no/such/bundle".into()),
            source: "file:/no/such.gif".parse().unwrap(),
            targets: vec!["png:/no/such/folder/a.png".parse().unwrap(), "fb:/dev/fb77".parse().unwrap(), Outlet::None],
            ..Config::default()
        };
        let findings = check(&config);
        let missing: Vec<_> = findings.iter().filter(|finding| finding.missing()).map(ToString::to_string).collect();
        assert_eq!(missing.len(), 4, "{findings:?}");
        for (line, named) in missing.iter().zip(["/no/such/bundle", "/no/such.gif", "/no/such/folder", "fb77"]) {
            assert!(line.contains(named), "{line}");
        }
        assert!(!check(&Config::default()).iter().any(Finding::missing));
    }

    #[test]
    fn where_adapted_weights_go_is_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let bundle = place.path().to_path_buf();
        let found = |mode| {
            let config = Config { bundle: Some(bundle.clone()), mode, ..Config::default() };
            check(&config).into_iter().find(|finding| finding.what == "adapted weights").unwrap()
        };
        assert!(matches!(found(Mode::Adapt).found, Found::There(_)));
        std::fs::create_dir(bundle.join(GENERATIONS)).unwrap();
        assert!(found(Mode::Adapt).to_string().contains("generations can be written"));
        std::fs::remove_dir(bundle.join(GENERATIONS)).unwrap();
        std::fs::write(bundle.join(GENERATIONS), "").unwrap();
        let line = found(Mode::Live).to_string();
        assert!(line.starts_with("note ") && line.contains("remove it") && line.contains("live and attack"), "{line}");
        assert!(found(Mode::Adapt).to_string().starts_with("MISSING  adapted weights"));
        std::fs::remove_file(bundle.join(GENERATIONS)).unwrap();
        // Root writes everywhere.
        let mut rights = std::fs::metadata(&bundle).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o555);
        std::fs::set_permissions(&bundle, rights).unwrap();
        if std::fs::write(bundle.join("file"), "").is_err() {
            let line = found(Mode::Live).to_string();
            assert!(line.contains("sudo chown"), "{line}");
        }
    }
}
