//! Connections, and the server's end.

use crate::adapt::Adapter;
use crate::body::Memory;
use crate::live::{Generation, Live};
use crate::metrics::Metrics;
use crate::prompt::Prompt;
use crate::queue::Queue;
use crate::routes::{House, routes};
use crate::workers::{Shop, hire};
use crate::{Model, Settings};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

/// Before another try to accept where the system had no file or memory left.
const BREATH: Duration = Duration::from_millis(50);

/// Between two looks for what another process changed.
const LOOK: Duration = Duration::from_secs(1);

/// What is served.
pub struct Served {
    /// The model's name.
    pub name: String,
    /// In words, where it computes.
    pub device: String,
    /// What answers.
    pub model: Arc<dyn Model>,
    /// How many models came before it.
    pub generation: u64,
    /// Without one `/adapt` says so.
    pub adapter: Option<Arc<dyn Adapter>>,
}

/// Why there is no server: a line each, with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address} ({source}): name another address or port")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// No thread, or no event queue.
    #[error("cannot start the server's threads ({0}): ask for fewer workers")]
    Threads(#[from] io::Error),
    /// A limit of nothing.
    #[error("`{0}` is 0: use 1 or more")]
    Nothing(&'static str),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether all that was under way was finished in time.
    pub finished: bool,
    /// Pictures that were classified.
    pub images: u64,
}

/// Whether the server still takes requests.
#[derive(Clone, Default)]
pub struct Phase(Arc<AtomicBool>);

impl Phase {
    pub fn stops(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A server that runs; it stops when it is dropped.
pub struct Server {
    address: SocketAddr,
    stop: mpsc::UnboundedSender<()>,
    thread: Option<JoinHandle<Ended>>,
}

impl Server {
    /// Listens, on port 0 wherever there is room, and answers until [`Server::stop`].
    ///
    /// # Errors
    /// When the address cannot be had, or threads.
    pub fn start(listen: SocketAddr, settings: Settings, served: Served) -> Result<Self, ServeError> {
        for (name, value) in [
            ("workers", settings.workers),
            ("threads", settings.threads),
            ("connections", settings.connections),
            ("views", settings.views as usize),
        ] {
            if value == 0 {
                return Err(ServeError::Nothing(name));
            }
        }
        let refused = |source| ServeError::Listen { address: listen, source };
        let socket = std::net::TcpListener::bind(listen).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        let Served { name, device, model, generation, adapter } = served;
        let shop = Arc::new(Shop {
            queue: Queue::new(settings.queue),
            live: Live::new(Generation { number: generation, model }),
            metrics: Metrics::default(),
        });
        let workers = hire(&shop, settings.workers, settings.threads)?;
        let house = Arc::new(House {
            bodies: Memory::new(settings.bodies_bytes),
            lessons: Memory::new(settings.lessons_bytes.max(settings.lesson_bytes)),
            settings,
            name,
            device,
            shop: Arc::clone(&shop),
            school: Arc::default(),
            adapter,
            phase: Phase::default(),
        });
        let (stop, stopped) = mpsc::unbounded_channel();
        let run = move || {
            let finished = runtime.block_on(async {
                let listener = TcpListener::from_std(socket)?;
                Ok::<_, io::Error>(serve(&house, listener, stopped).await)
            });
            let finished = finished.unwrap_or_else(|error| {
                tracing::error!(%error, "the server cannot wait for connections");
                None
            });
            let finished = finish(&house, workers, finished);
            // A blocking task that is late holds nobody.
            runtime.shutdown_background();
            Ended { finished, images: house.shop.metrics.images.get() }
        };
        let thread = thread::Builder::new().name("server".into()).spawn(run);
        let thread = thread.inspect_err(|_| shop.queue.close())?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, finishes what is under way, within the deadline of the settings.
    pub fn stop(mut self) -> Ended {
        self.end()
    }

    /// Answers until the process is told to end (SIGINT, SIGTERM; Ctrl-C elsewhere), then stops.
    ///
    /// # Errors
    /// When the system lets nobody listen for signals.
    pub fn until_signal(self) -> io::Result<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signal = runtime.block_on(signal())?;
        tracing::info!(signal, "stopping");
        Ok(self.stop())
    }

    fn end(&mut self) -> Ended {
        // A server that has ended already needs no word.
        let _ = self.stop.send(());
        let ended = self.thread.take().and_then(|thread| thread.join().ok());
        ended.unwrap_or(Ended { finished: false, images: 0 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

#[cfg(unix)]
async fn signal() -> io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}

#[cfg(not(unix))]
async fn signal() -> io::Result<&'static str> {
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C")
}

/// Answers until told to stop, then until every connection has ended; returns when the deadline is, or nothing where it
/// has passed.
async fn serve(house: &Arc<House>, listener: TcpListener, mut stopped: mpsc::UnboundedReceiver<()>) -> Option<Instant> {
    let settings = &house.settings;
    let router: Router = routes(Arc::clone(house));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(settings.head_time).max_buf_size(settings.head_bytes.max(8192));
    let connections = Arc::new(Semaphore::new(settings.connections.min(Semaphore::MAX_PERMITS)));
    let ends = GracefulShutdown::new();
    let looks = tokio::spawn(look(Arc::clone(house)));
    loop {
        let accepted = async {
            let place = Arc::clone(&connections).acquire_owned().await.expect("it is never closed");
            listener.accept().await.map(|(socket, _)| (place, socket))
        };
        let (place, socket) = tokio::select! {
            _ = stopped.recv() => break,
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(BREATH).await;
                    continue;
                }
            },
        };
        // An answer is one packet; nothing is gained by waiting for a second.
        let _ = socket.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection =
            ends.watch(http.serve_connection(TokioIo::new(Prompt::new(socket, settings.write_time)), service));
        let house = Arc::clone(house);
        tokio::spawn(async move {
            let _place = place;
            let _one = house.shop.metrics.connections.one();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    looks.abort();
    drop(listener);
    house.phase.0.store(true, Ordering::Relaxed);
    let until = Instant::now() + settings.stop_time;
    timeout(settings.stop_time, ends.shutdown()).await.ok().map(|()| until)
}

/// Takes over what another process changed, such as a rollback; between adaptations, which do so themselves.
async fn look(house: Arc<House>) {
    let Some(adapter) = house.adapter.clone() else { return };
    let mut trouble = None;
    loop {
        sleep(LOOK).await;
        if house.school.running() {
            continue;
        }
        let adapter = Arc::clone(&adapter);
        match tokio::task::spawn_blocking(move || adapter.renewed()).await {
            Ok(Ok(None)) => trouble = None,
            Ok(Ok(Some((number, model)))) => {
                trouble = None;
                house.shop.live.swap(Generation { number, model });
                tracing::info!(generation = number, "another process changed what is served");
            }
            // Once, and not every second.
            Ok(Err(why)) if trouble.as_ref() == Some(&why) => {}
            Ok(Err(why)) => {
                tracing::warn!(why, "what another process left cannot be served");
                trouble = Some(why);
            }
            Err(error) => tracing::error!(%error, "the look for a change broke"),
        }
    }
}

/// Lets workers and adaptation end, until the deadline; what is late is left to the process's end.
fn finish(house: &House, workers: Vec<JoinHandle<()>>, until: Option<Instant>) -> bool {
    house.phase.0.store(true, Ordering::Relaxed);
    house.shop.queue.close();
    let threads: Vec<_> = workers.into_iter().chain(house.school.stop()).collect();
    let until = until.unwrap_or_else(Instant::now);
    while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
    let late = threads.iter().filter(|thread| !thread.is_finished()).count();
    if late > 0 {
        tracing::warn!(late, "threads did not end in time");
    }
    late == 0
}
