//! Limits and deadlines. Every one is finite, so that no client can hold the server.

use std::time::Duration;

/// What the server allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pictures that are classified at once, one a worker.
    pub workers: usize,
    /// Threads of a worker.
    pub threads: usize,
    /// Pictures that wait for a worker; more are refused.
    pub queue: usize,
    /// Most views of a picture.
    pub views: u32,
    /// Most pixels of a picture.
    pub pixels: u64,
    /// Most bytes of a picture's file.
    pub body_bytes: usize,
    /// Most bytes of a request for adaptation, base64 and all.
    pub lesson_bytes: usize,
    /// Most pixels of all its pictures together.
    pub lesson_pixels: u64,
    /// Longest adaptation; then it is told to end.
    pub lesson_time: Duration,
    /// Most bytes of all pictures to classify that are here at once.
    pub bodies_bytes: usize,
    /// Most bytes of all requests for adaptation that are here at once.
    pub lessons_bytes: usize,
    /// Most connections at once; others wait to be accepted.
    pub connections: usize,
    /// Most bytes of a request's head.
    pub head_bytes: usize,
    /// For a request's head, from the end of the request before it: a connection that is silent for longer is closed.
    pub head_time: Duration,
    /// For a request's body.
    pub body_time: Duration,
    /// Bytes a second that a body has to keep to, after its grace.
    pub body_rate: usize,
    /// Before a body has to keep to a rate.
    pub body_grace: Duration,
    /// For a client to read some of an answer.
    pub write_time: Duration,
    /// From a body's last byte to the answer.
    pub answer_time: Duration,
    /// For what is under way when the server is told to stop.
    pub stop_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: cores,
            threads: 1,
            queue: 64,
            views: 256,
            pixels: 16 << 20,
            body_bytes: 8 << 20,
            lesson_bytes: 64 << 20,
            lesson_pixels: 64 << 20,
            lesson_time: Duration::from_secs(3600),
            bodies_bytes: 256 << 20,
            lessons_bytes: 128 << 20,
            connections: 1024,
            head_bytes: 16 << 10,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            body_rate: 16 << 10,
            body_grace: Duration::from_secs(5),
            write_time: Duration::from_secs(30),
            answer_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(10),
        }
    }
}
