//! `firmware-host [BUNDLE [IMAGE]]`: the classifier beside a small display, or on a laptop without one.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use firmware_host::app::{App, Outcome};
use firmware_host::command::Mode;
use firmware_host::config::{Config, Journal};
use firmware_host::display::recording::{Format, Recording};
use firmware_host::display::still::{Still, save};
use firmware_host::display::{Kept, Outlet, Shape, Target, open};
use firmware_host::engine::Engine;
use firmware_host::engine::bundled::Bundled;
use firmware_host::engine::standin::StandIn;
use firmware_host::frame::Frame;
use firmware_host::input::{Input, Raw, heed_signals, is_standard, listen};
use firmware_host::run::{Summary, run};
use firmware_host::source::{Origin, Pull};
use firmware_host::state::Feed;
use firmware_host::work::{Post, post};
use firmware_host::{check, demo, soak};
use gabion_spec::Pixels;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Classifies what a camera, a folder or a stream of drawn shapes shows, attacks it, adapts to it, and shows that on a
/// small display, a terminal, a window, or in a file.
///
/// Keys and the lines of the standard input: l, a, d (mode live|attack|adapt), space (pause, resume), + and - (epsilon
/// 8/255), v (views 16), 1 to 9 (label NAME), r (rollback), s (snapshot PATH), i (status), q (quit).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A folder with manifest.json and model.safetensors; without one a small network classifies drawn shapes
    bundle: Option<PathBuf>,
    /// PNG, JPEG or WebP: classifies this alone and writes the screen to --out
    image: Option<PathBuf>,
    /// A TOML file; what is typed goes before it
    #[arg(long, env = "FIRMWARE_HOST_CONFIG")]
    config: Option<PathBuf>,
    /// synth, folder:PATH, file:PATH (a picture, GIF, APNG or Y4M video; /dev/stdin for one that is piped in) or
    /// camera:/dev/video0
    #[arg(long)]
    source: Option<Origin>,
    /// terminal, sixel, window, png:PATH, gif:PATH, apng:PATH, fb:/dev/fb0, st7789:/dev/spidev0.0,
    /// ili9341:/dev/spidev0.0, ssd1306:/dev/i2c-1 or none; several are shown on at once
    #[arg(long = "target")]
    targets: Vec<Outlet>,
    /// The screen of targets that have no size of their own
    #[arg(long)]
    screen: Option<Shape>,
    /// Crops of a frame: 1 for the whole picture, more for the mean over random ones
    #[arg(long)]
    views: Option<u32>,
    /// Seeds the crops and what is drawn
    #[arg(long)]
    seed: Option<u64>,
    /// Budget of attacks
    #[arg(long)]
    epsilon: Option<Pixels>,
    /// auto, cpu, wgpu or cuda
    #[arg(long)]
    device: Option<String>,
    /// Most frames a second
    #[arg(long)]
    rate: Option<f32>,
    /// Ends after so long: 90s, 10m, 2h
    #[arg(long = "for", value_parser = duration, value_name = "TIME")]
    time: Option<Duration>,
    /// Where the screen of IMAGE is written
    #[arg(long, default_value = "frame.png")]
    out: PathBuf,
    /// Twenty scripted seconds through all of it: .gif, .png (animated) or a folder
    #[arg(long, value_name = "PATH")]
    demo: Option<PathBuf>,
    /// Says what is missing before this could run, and ends
    #[arg(long)]
    check: bool,
    /// Runs so long on the source, made to misbehave, and says how that went; what it adapts it promotes
    #[arg(long, value_parser = duration, value_name = "TIME")]
    soak: Option<Duration>,
    /// The file that the log goes to
    #[arg(long)]
    journal_file: Option<PathBuf>,
    /// How the log is written
    #[arg(long)]
    journal: Option<Journal>,
}

/// `90s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: use 90s, 10m or 2h");
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = number
        * match unit {
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// The file, then what was typed.
fn config(arguments: &Arguments) -> Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    fn take<T: Clone>(into: &mut T, typed: Option<&T>) {
        if let Some(typed) = typed {
            *into = typed.clone();
        }
    }
    if arguments.bundle.is_some() {
        config.bundle.clone_from(&arguments.bundle);
    }
    if arguments.journal_file.is_some() {
        config.journal_file.clone_from(&arguments.journal_file);
    }
    if !arguments.targets.is_empty() {
        config.targets.clone_from(&arguments.targets);
    }
    take(&mut config.source, arguments.source.as_ref());
    take(&mut config.screen, arguments.screen.as_ref());
    take(&mut config.views, arguments.views.as_ref());
    take(&mut config.seed, arguments.seed.as_ref());
    take(&mut config.epsilon, arguments.epsilon.as_ref());
    take(&mut config.device, arguments.device.as_ref());
    take(&mut config.rate, arguments.rate.as_ref());
    take(&mut config.journal, arguments.journal.as_ref());
    Ok(config.checked()?)
}

/// Where the log goes: a file, else the standard error, unless that is the terminal that is drawn on.
fn journal(config: &Config, drawn_on: bool) -> Result<()> {
    let writer = match &config.journal_file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            BoxMakeWriter::new(Mutex::new(file.with_context(|| format!("cannot write {}", path.display()))?))
        }
        None if drawn_on && std::io::stderr().is_terminal() => BoxMakeWriter::new(std::io::sink),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let builder = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).with_target(false);
    match config.journal {
        Journal::Text => builder.init(),
        Journal::Json => builder.json().init(),
    }
    Ok(())
}

fn engine(config: &Config) -> Result<Arc<dyn Engine>> {
    Ok(match &config.bundle {
        Some(bundle) => Arc::new(Bundled::open(bundle, config.device.parse()?)?),
        None => Arc::new(StandIn::trained(config.seed)),
    })
}

/// The screen of one picture.
fn picture(config: &Config, image: &Path, out: &Path) -> Result<()> {
    let engine = engine(config)?;
    let mut source = Origin::File(image.into()).open(0)?;
    let (Pull::Frame(frame) | Pull::Lasting(frame, _)) = source.pull(Duration::ZERO)? else {
        bail!("{} has no frame", image.display());
    };
    let task = config.plan(Arc::clone(&engine), Instant::now()).task;
    // The first call on a device also prepares it; a display shows the pictures after it.
    engine.classify(&frame, &task.look)?;
    let outcome = still(&*engine, frame, config)?;
    let mut app = App::new(engine.about().clone(), task, config.examples, Duration::MAX);
    app.fed(Feed::Live, String::new(), Duration::ZERO);
    app.judged(outcome);
    let mut screen = Kept::new(config.screen);
    screen.update(&app.view());
    save(out, &screen.image())?;
    println!("{}", out.display());
    Ok(())
}

fn still(engine: &dyn Engine, frame: Frame, config: &Config) -> Result<Outcome> {
    let look = firmware_host::engine::Look { views: config.views, seed: config.seed };
    let start = Instant::now();
    let judgement = engine.classify(&frame, &look)?;
    let milliseconds = Some(start.elapsed().as_secs_f64() * 1e3);
    let attacked = (config.mode == Mode::Attack)
        .then(|| engine.attack(&frame, config.epsilon, &look).map_err(|error| error.to_string()));
    Ok(Outcome { frame: Arc::new(frame), judgement, attacked, milliseconds })
}

fn play(config: &Config, path: &Path) -> Result<()> {
    let engine = engine(config)?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    let mut target: Box<dyn Target> = match ending {
        "gif" => Box::new(Recording::new(path, Format::Gif, config.screen)),
        "png" | "apng" => Box::new(Recording::new(path, Format::Apng, config.screen)),
        _ => Box::new(Still::open(path, config.screen)?),
    };
    demo::play(&*engine, config.epsilon, &mut *target)?;
    println!("{}", path.display());
    Ok(())
}

/// Keys where a terminal is drawn on, lines where the standard input is a file or a pipe. Where that is the video, there
/// are no lines, and the keys are those of the terminal beside it.
fn inputs(config: &Config, drawn_on: bool, post: &Arc<Post>) -> Result<Option<Raw>> {
    let keyboard = std::io::stdin().is_terminal();
    let video = config.source.file().is_some_and(is_standard);
    ensure!(
        !video || !keyboard,
        "the standard input is a terminal and no video: ffmpeg -nostdin -i clip.mp4 -f yuv4mpegpipe - | firmware-host \
         --source file:/dev/stdin"
    );
    heed_signals(post)?;
    let raw = match (drawn_on, keyboard, video) {
        (true, true, _) => Some(Raw::new()?),
        (true, false, true) => Raw::beside().ok(),
        _ => None,
    };
    match &raw {
        Some(raw) => listen(raw.keys()?, post)?,
        None if video => tracing::info!("the standard input is the video: no commands come by it"),
        None => listen(Input::Lines, post)?,
    }
    if let Some(buttons) = &config.buttons {
        heed_buttons(buttons, post)?;
    }
    Ok(raw)
}

#[cfg(feature = "gpio")]
fn heed_buttons(buttons: &firmware_host::config::Buttons, post: &Arc<Post>) -> Result<()> {
    let keys = buttons.keys.iter().map(|(line, key)| Ok((line.parse()?, *key)));
    let keys = keys.collect::<Result<_, std::num::ParseIntError>>().context("buttons.keys: a line is no number")?;
    firmware_host::buttons::listen(&buttons.gpio, &keys, post).with_context(|| buttons.gpio.display().to_string())
}

#[cfg(not(feature = "gpio"))]
fn heed_buttons(_: &firmware_host::config::Buttons, _: &Arc<Post>) -> Result<()> {
    bail!("buttons: this program was built without them: build with --features gpio")
}

fn live(mut config: Config, arguments: &Arguments, start: Instant) -> Result<()> {
    if config.targets.is_empty() {
        let shown = std::io::stdout().is_terminal();
        config.targets.push(if shown { Outlet::Terminal } else { Outlet::Png("firmware-host.png".into()) });
    }
    let drawn_on = config.targets.iter().any(|target| matches!(target, Outlet::Terminal | Outlet::Sixel));
    journal(&config, drawn_on)?;
    let mut targets = Vec::new();
    for outlet in &config.targets {
        targets.extend(open(outlet, config.screen, &config.wiring)?);
    }
    let post = Arc::new(post());
    let raw = inputs(&config, drawn_on, &post)?;
    let engine = engine(&config)?;
    tracing::info!(
        model = engine.about().name,
        device = engine.about().device,
        source = %config.source,
        milliseconds = start.elapsed().as_millis(),
        "ready"
    );
    let summary = if let Some(time) = arguments.soak {
        let report = soak::soak(&config, engine, &post, &mut targets, time)?;
        drop(raw);
        println!("{report}");
        let complaints = report.complaints();
        ensure!(complaints.is_empty(), "{}", complaints.join("; "));
        report.summary
    } else {
        let plan = config.plan(engine, start);
        let until = arguments.time.map(|time| start.elapsed() + time);
        let summary = run(&plan, &post, &mut targets, &mut |now, _, _| {
            until.filter(|until| now >= *until).map(|_| firmware_host::command::Command::Quit)
        })?;
        drop(raw);
        summary
    };
    said(&summary);
    match summary.died {
        Some(died) => bail!(died),
        None => Ok(()),
    }
}

/// The last line.
fn said(summary: &Summary) {
    let first = summary
        .first_verdict
        .map_or("no verdict".into(), |time| format!("first verdict {} ms after the start", time.as_millis()));
    eprintln!("{first}; {} frames, {} faults of the source", summary.frames, summary.faults);
}

fn main() -> ExitCode {
    let start = Instant::now();
    let arguments = Arguments::parse();
    let done = config(&arguments).and_then(|config| {
        if arguments.check {
            let findings = check::check(&config);
            findings.iter().for_each(|finding| println!("{finding}"));
            let missing = findings.iter().filter(|finding| finding.missing()).count();
            ensure!(missing == 0, "{missing} missing");
            return Ok(());
        }
        match (&arguments.image, &arguments.demo) {
            (Some(image), _) => {
                let one = image.canonicalize().ok().zip(arguments.out.canonicalize().ok());
                ensure!(one.is_none_or(|(image, out)| image != out), "--out would replace {}", image.display());
                picture(&config, image, &arguments.out)
            }
            (None, Some(path)) => play(&config, path),
            (None, None) => live(config, &arguments, start),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
