//! Clients that ask as fast as they are answered: requests a second and percentiles, of a server in this process or of
//! one that is named.
//!
//! `load [ADDRESS:PORT|BUNDLE] [clients] [seconds] [views]`, or `load soak [BUNDLE] [pictures]`: resident memory over so
//! many pictures.

use gabion_runtime::{Classify, Rgb, Session};
use gabion_serve::{Served, Server, Settings};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| words.get(at).map(String::as_str);
    let number = |at: usize, default: u64| word(at).map_or(default, |text| text.parse().expect("a number"));
    if word(0) == Some("soak") {
        return soak(word(1).unwrap_or("models/cifar10-small"), number(2, 10_000));
    }
    let place = word(0).unwrap_or("models/cifar10-small");
    let (clients, seconds, views) = (number(1, 16), number(2, 10), number(3, 1));
    let (server, address) = match place.parse::<SocketAddr>() {
        Ok(address) => (None, address),
        Err(_) => {
            let server = start(place);
            let address = server.address();
            (Some(server), address)
        }
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..clients).map(|_| thread::spawn(move || client(address, views, until))).collect();
    let results: Vec<(u16, f64)> = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    let mut good: Vec<f64> = results.iter().filter(|(status, _)| *status == 200).map(|(_, ms)| *ms).collect();
    good.sort_by(f64::total_cmp);
    let at = |share: f64| good[((good.len() - 1) as f64 * share) as usize];
    println!(
        "{:.0} answers a second, {} others of {}; ms p50 {:.2} p95 {:.2} p99 {:.2} most {:.2}",
        good.len() as f64 / seconds as f64,
        results.len() - good.len(),
        results.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0),
    );
    drop(server);
}

fn start(bundle: &str) -> Server {
    let model = Session::open(Path::new(bundle)).expect("a bundle");
    let served =
        Served { name: "load".into(), device: "CPU".into(), model: Arc::new(model), generation: 0, adapter: None };
    Server::start("127.0.0.1:0".parse().expect("an address"), Settings::default(), served).expect("a server")
}

fn pixels() -> Vec<u8> {
    (0..3072).map(|at| ((at * 7919) >> 3) as u8).collect()
}

fn client(address: SocketAddr, views: u64, until: Instant) -> Vec<(u16, f64)> {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream.set_nodelay(true).expect("TCP");
    let body = pixels();
    let mut request = format!(
        "POST /classify?views={views}&width=32&height=32 HTTP/1.1\r\nhost: load\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let (mut results, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while Instant::now() < until {
        let start = Instant::now();
        stream.write_all(&request).expect("an open connection");
        let mut read = 0;
        let status = loop {
            let more = stream.read(&mut buffer[read..]).expect("an answer");
            assert!(more > 0, "the server closed the connection");
            read += more;
            let text = String::from_utf8_lossy(&buffer[..read]);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if body.len() >= length.parse::<usize>().expect("a number") {
                break head[9..12].parse().expect("a status");
            }
        };
        results.push((status, start.elapsed().as_secs_f64() * 1e3));
        if status != 200 {
            thread::sleep(Duration::from_millis(5));
        }
    }
    results
}

/// Pictures in many sizes and ways through one server, and what stays resident.
fn soak(bundle: &str, pictures: u64) {
    let server = start(bundle);
    let session = Session::open(Path::new(bundle)).expect("a bundle");
    let mut stream = session.stream(Classify::default()).expect("the defaults");
    let address = server.address();
    println!("pictures  direct: resident KiB");
    for number in 0..=pictures {
        let side = 32 + (number % 5) as usize * 8;
        let options = Classify { views: [1, 4, 16][(number % 3) as usize], seed: number, ..Classify::default() };
        stream.set(options).expect("options");
        let image =
            Rgb { height: side, width: side, pixels: pixels().into_iter().cycle().take(3 * side * side).collect() };
        stream.classify(&image).expect("a prediction");
        if number % (pictures / 10).max(1) == 0 {
            println!("{number:8}  {}", resident());
        }
    }
    println!("pictures  over HTTP, 4 clients: resident KiB");
    for part in 0..=10 {
        println!("{:8}  {}", part * pictures / 10, resident());
        if part == 10 {
            break;
        }
        let each = pictures / 40;
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    for _ in 0..each {
                        // A connection each: what a connection leaves behind counts too.
                        client(address, 4, Instant::now() + Duration::from_nanos(1));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("a client"));
    }
    assert!(server.stop().finished);
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a field");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}
