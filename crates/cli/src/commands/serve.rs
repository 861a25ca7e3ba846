use super::precision::{self, PrecisionArguments};
use super::{DeviceArguments, TrustArguments, bundle_path};
use crate::output::{Done, Failure, Output, usage};
use clap::ValueEnum;
use gabion_runtime::{Arithmetic, Choice, Deployed, Local, Origin, Samples, Serving, Trust, adapt};
use gabion_serve::{
    Adapter, Lesson, Model, Progress, Renewed, Report, Seat, Served, Server, Settings, Verdict, log_to_stderr,
};
use gabion_spec::{Adapt, Budget, Precision};
use serde_json::json;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Classify over HTTP.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion serve runs/small --listen 127.0.0.1:8080\n  \
    curl --data-binary @cat.jpg 'http://127.0.0.1:8080/classify?views=16'\n  \
    curl -F image=@cat.jpg -F label=cat -F image=@dog.png -F label=dog -F seconds=30 http://127.0.0.1:8080/adapt\n  \
    curl http://127.0.0.1:8080/metrics\n\n\
    SIGINT and SIGTERM end it: what is under way is finished. There is no authentication and no TLS; put a proxy that \
    has both before it.")]
pub struct Arguments {
    /// A run folder or a bundle with a head.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// Address and port; port 0 takes one that is free.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Pictures that are classified at once [default: one a core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Threads of each worker.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Pictures that wait for a worker; more are refused with 503.
    #[arg(long, default_value_t = 64)]
    queue: u16,
    /// Most views of a picture.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    most_views: u32,
    /// Most bytes of a picture's file.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20)]
    most_bytes: usize,
    /// Most pixels of a picture.
    #[arg(long, value_name = "PIXELS", default_value_t = 16 << 20)]
    most_pixels: u64,
    /// Seconds from a picture's last byte to its answer; later it is given up with 503.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Keep weights and activations of each worker within so many bytes.
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// What goes to stderr.
    #[arg(long, value_enum, default_value = "info")]
    log: Log,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

/// `debug` has a line a request.
#[derive(Clone, Copy, ValueEnum)]
enum Log {
    Error,
    Warn,
    Info,
    Debug,
}

/// On the CPU a bundle in service, which adapts; on another device a session of what was in service when it was opened.
fn opened(arguments: &Arguments, path: &Path, trust: Trust, choice: Choice) -> Result<Served, Failure> {
    let wants = arguments.precision.arithmetic();
    if wants == Arithmetic::Int8 {
        return Err(usage("serve computes in f32, bf16 or f16: what it adapts nobody would calibrate"));
    }
    let precision = wants.on_cpu().unwrap_or_default();
    let deployed = Arc::new(Deployed::open_in(precision, path, trust, arguments.memory)?);
    let serving = deployed.serving();
    for skipped in &serving.skipped {
        tracing::warn!(generation = skipped.number, why = %skipped.why, "passed over");
    }
    let (elsewhere, device) = match (wants, choice) {
        (Arithmetic::Bf16, Choice::Auto | Choice::Cpu) => (None, "the CPU, which computes in bf16".into()),
        (Arithmetic::Bf16, _) => return Err(precision::is_the_cpus()),
        _ => deployed.elsewhere(choice)?,
    };
    let elsewhere = elsewhere.map(|session| match wants {
        Arithmetic::F16 => session.with_precision(Precision::F16),
        _ => session,
    });
    let computes = elsewhere.as_ref().unwrap_or(&serving.session).arithmetic();
    if computes != wants {
        tracing::warn!(precision = %computes, "there is no {wants} here, or a weight is beyond it");
    }
    if let Some(why) = precision::widened(precision) {
        tracing::warn!("{why}");
    }
    let device = format!("{device}; {computes}");
    let (name, generation) = (serving.session.manifest().name.clone(), serving.origin.source.number());
    Ok(match elsewhere {
        Some(session) => Served { name, device, generation, model: Arc::new(session), adapter: None },
        None => {
            let told = Mutex::new(serving.origin.clone());
            let adapter = Arc::new(InService { deployed, memory: arguments.memory, told });
            Served { name, device, generation, model: Arc::new(Live(serving)), adapter: Some(adapter) }
        }
    })
}

/// What a bundle in service serves at one time.
struct Live(Arc<Serving>);

impl Model for Live {
    fn classes(&self) -> &[String] {
        self.0.session.classes()
    }

    fn seat(&self) -> Box<dyn Seat + '_> {
        self.0.session.seat()
    }
}

/// Adapts a bundle in service.
struct InService {
    deployed: Arc<Deployed>,
    /// Most bytes by which training may grow the process.
    memory: Option<u64>,
    /// What the server was last given.
    told: Mutex<Origin>,
}

impl Adapter for InService {
    fn adapt(&self, lesson: Lesson, _: u64, report: Report<'_>) -> Result<Verdict, String> {
        let mut recipe = Adapt { seed: lesson.seed, rehearsal: 0.0, ..Adapt::default() };
        match (lesson.time, lesson.steps) {
            (Some(time), _) => recipe.budget = Budget::Seconds { seconds: time.as_secs_f64() },
            (None, Some(steps)) => recipe.budget = Budget::Steps { steps: steps.into() },
            (None, None) => {}
        }
        let labels: Vec<u16> = lesson.labels.iter().filter_map(|&label| u16::try_from(label).ok()).collect();
        let samples = Samples { images: &lesson.images, labels: Some(&labels) };
        let local = Local { samples, guard: None, source: None, memory: self.memory };
        let adaptation = self
            .deployed
            .adapt(&local, &recipe, &mut |told| {
                let progress = match told {
                    adapt::Progress::Step { done, loss, .. } => {
                        Progress { steps: u32::try_from(done).unwrap_or(u32::MAX), loss: Some(f64::from(loss)) }
                    }
                    adapt::Progress::Guard { .. } => Progress::default(),
                };
                if report(progress) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .map_err(|error| error.to_string())?;
        let report = serde_json::to_value(&adaptation.report).unwrap_or_default();
        Ok(match (adaptation.promoted, adaptation.verdict) {
            (Some(generation), _) => {
                let serving = self.deployed.serving();
                self.told.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&serving.origin);
                let model = Arc::new(Live(serving));
                Verdict::Promoted { generation, model, report }
            }
            (None, gabion_runtime::Verdict::Refused { lost }) => {
                let why = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                Verdict::Rejected { why, report }
            }
            (None, gabion_runtime::Verdict::Promoted) => {
                Verdict::Rejected { why: "nothing was written".into(), report }
            }
        })
    }

    fn renewed(&self) -> Result<Option<Renewed>, String> {
        self.deployed.refresh().map_err(|error| error.to_string())?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let serving = self.deployed.serving();
        if *told == serving.origin {
            return Ok(None);
        }
        told.clone_from(&serving.origin);
        Ok(Some((serving.origin.source.number(), Arc::new(Live(serving)))))
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> Done {
    let level = match arguments.log {
        _ if output.quiet => tracing::Level::ERROR,
        Log::Error => tracing::Level::ERROR,
        Log::Warn => tracing::Level::WARN,
        Log::Info => tracing::Level::INFO,
        Log::Debug => tracing::Level::DEBUG,
    };
    log_to_stderr(level, output.json);
    let choice = arguments.device.choice().map_err(usage)?;
    let path = bundle_path(&arguments.bundle);
    let trust = arguments.trust.resolve()?;
    let served = opened(arguments, &path, trust, choice)?;
    let device = served.device.clone();
    let plain = Settings::default();
    let settings = Settings {
        workers: arguments.workers.map_or(plain.workers, usize::from),
        threads: arguments.threads.into(),
        queue: arguments.queue.into(),
        views: arguments.most_views,
        pixels: arguments.most_pixels,
        body_bytes: arguments.most_bytes,
        bodies_bytes: plain.bodies_bytes.max(arguments.most_bytes),
        answer_time: Duration::from_secs(arguments.deadline),
        ..plain
    };
    let server = Server::start(arguments.listen, settings, served)?;
    let address = server.address();
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address may use the server: there is no authentication");
    }
    tracing::info!(%address, device, "ready");
    // Whoever starts it with port 0 reads this.
    output.result(&json!({ "address": address.to_string() }), || format!("http://{address}"))?;
    let ended = server.until_signal()?;
    if ended.finished {
        return Ok(());
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "not all that was under way ended in time: nothing to do, clients were cut off"
    )))
}
