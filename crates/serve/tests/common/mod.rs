//! A client of a few lines, a bundle, and models that misbehave.
#![allow(dead_code)] // each test file uses its part

use gabion_runtime::{Classify, ClassifyError, Prediction, Rgb, Session};
use gabion_serve::{Model, Seat, Served, Server, Settings};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The line of a refusal, which says something.
    pub fn error(&self) -> String {
        let json = self.json();
        let line = json["error"].as_str().expect("an error is a string").to_string();
        assert!(!line.contains('\n') && line.len() > 10, "{line}");
        line
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The next answer of a connection; none where it was closed.
pub fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_string()))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
}

pub fn ask(stream: &mut TcpStream, method: &str, path: &str, body: &[u8]) {
    ask_with(stream, method, path, "", body);
}

/// With more lines in the head, each with its end.
pub fn ask_with(stream: &mut TcpStream, method: &str, path: &str, lines: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: here\r\n{lines}content-length: {length}\r\n\r\n");
    // The server may have closed it.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

pub fn once(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut stream = connect(address);
    ask(&mut stream, method, path, body);
    answer(&mut stream).expect("an answer")
}

/// A value of the metrics' page.
pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let page = once(address, "GET", "/metrics", b"").body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_string));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until it is so.
pub fn soon(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within a minute");
}

pub fn picture(seed: usize) -> Rgb {
    let byte = |at: usize| ((at * 2_654_435_761 + seed * 97) >> 7) as u8;
    Rgb { height: 40, width: 36, pixels: (0..3 * 36 * 40).map(byte).collect() }
}

pub fn png(image: &Rgb) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let (width, height) = (image.width as u32, image.height as u32);
    image::ImageEncoder::write_image(encoder, &image.pixels, width, height, image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

/// The classifier in `models`.
pub fn session() -> Session {
    Session::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cifar10-small")).unwrap()
}

pub fn settings() -> Settings {
    Settings { workers: 2, threads: 1, queue: 8, stop_time: Duration::from_secs(20), ..Settings::default() }
}

pub fn serve(settings: Settings, model: impl Model) -> Server {
    let served =
        Served { name: "test".into(), device: "CPU".into(), model: Arc::new(model), generation: 0, adapter: None };
    Server::start("127.0.0.1:0".parse().unwrap(), settings, served).unwrap()
}

/// A model that waits before each answer until it is let, and breaks on a seed of 13.
#[derive(Clone)]
pub struct Gate {
    classes: Vec<String>,
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    pub fn new(open: bool) -> Self {
        Self { classes: vec!["no".into(), "yes".into()], open: Arc::new((Mutex::new(open), Condvar::new())) }
    }

    pub fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

impl Model for Gate {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn seat(&self) -> Box<dyn Seat + '_> {
        let said = Prediction { label: 1, probabilities: vec![0.25, 0.75], views: 1, ..Prediction::default() };
        Box::new(AtGate { gate: self, said })
    }
}

struct AtGate<'a> {
    gate: &'a Gate,
    said: Prediction,
}

impl Seat for AtGate<'_> {
    fn classify(&mut self, _: &Rgb, options: Classify) -> Result<&Prediction, ClassifyError> {
        let mut open = self.gate.open.0.lock().unwrap();
        while !*open {
            open = self.gate.open.1.wait(open).unwrap();
        }
        drop(open);
        assert!(options.seed != 13, "a seed of 13");
        Ok(&self.said)
    }
}
