use super::{DeviceArguments, bundle_path};
use crate::output::{Done, Failure, Output, usage};
use clap::ValueEnum;
use gabion_runtime::Session;
use gabion_serve::{Served, Server, Settings, log_to_stderr};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Classify over HTTP.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion serve runs/small --listen 127.0.0.1:8080\n  \
    curl --data-binary @cat.jpg 'http://127.0.0.1:8080/classify?views=16'\n  \
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
    let (session, device) = Session::open_on(&bundle_path(&arguments.bundle), choice)?;
    let session = match arguments.memory {
        Some(budget) => session.with_memory(budget)?,
        None => session,
    };
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
    let name = session.manifest().name.clone();
    let served = Served { name, device: device.clone(), model: Arc::new(session), generation: 0, adapter: None };
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
