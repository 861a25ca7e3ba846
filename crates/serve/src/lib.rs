//! A bundle behind HTTP: pictures in, JSON out.
//!
//! | route | what it does |
//! |---|---|
//! | `POST /classify` | a PNG, JPEG or WebP, or raw RGB with `width` and `height`; `views`, `confidence`, `seed` |
//! | `POST /adapt` | labelled pictures, as JSON or as a form with files, to an [`Adapter`], in the background |
//! | `GET /adapt`, `DELETE /adapt` | how far it is; ends it |
//! | `GET /health` | 200 while requests are taken, 503 while the server stops |
//! | `GET /metrics` | counters in Prometheus' text |
//!
//! One thread does all that waits: connections, headers, bodies, deadlines. A fixed number of workers does all that
//! computes, each with memory of its own, behind a queue of a fixed length; what finds it full is told to come back. A
//! model is swapped whole, between two pictures of a worker. Whatever is wrong with a request is one line of JSON.
//!
//! A page of another site is refused: a browser would ask with whatever it may reach.
//!
//! There is no authentication and no TLS: it listens on the loopback address, or behind a proxy that has both.

mod adapt;
mod body;
mod lesson;
mod live;
mod metrics;
mod model;
mod prompt;
mod queue;
mod refusal;
mod routes;
mod server;
mod settings;
mod workers;

pub use adapt::{Adapter, Lesson, Progress, Renewed, Report, Verdict};
pub use model::{Model, Seat};
pub use server::{Ended, ServeError, Served, Server};
pub use settings::Settings;

/// Writes what the server says to stderr, a line of JSON an event where `json` is set.
pub fn log_to_stderr(level: tracing::Level, json: bool) {
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // Whoever has set one up before keeps it.
    let _ = if json { lines.json().try_init() } else { lines.try_init() };
}
