//! What is said to whom, over a real socket.

mod common;

use common::*;
use gabion_runtime::Classify;
use gabion_serve::Settings;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

#[test]
fn answers_are_those_of_a_session() {
    let (server, session) = (serve(settings(), session()), session());
    let mut stream = connect(server.address());
    for (number, (views, confidence, seed)) in [(1, 1.0, 0), (16, 1.0, 7), (64, 0.99, 3)].into_iter().enumerate() {
        let image = picture(number);
        let expected = session.classify(&image, &Classify { views, confidence, seed }).unwrap();
        let query = format!("views={views}&confidence={confidence}&seed={seed}");
        let raw = format!("/classify?{query}&width={}&height={}", image.width, image.height);
        // One connection for all; a file and raw pixels say the same.
        for (path, body) in [(format!("/classify?{query}"), png(&image)), (raw, image.pixels.clone())] {
            ask(&mut stream, "POST", &path, &body);
            let said = answer(&mut stream).unwrap();
            assert_eq!(said.status, 200, "{}", said.body);
            let said = said.json();
            let ranked = expected.ranked(session.classes());
            assert_eq!(said["label"], session.classes()[expected.label]);
            assert_eq!(said["views"], expected.views);
            assert_eq!(said["generation"], 0);
            let close = |found: &serde_json::Value, expected: f32| {
                let found = found.as_f64().unwrap();
                assert!((found - f64::from(expected)).abs() < 1e-6, "{found} {expected}");
            };
            close(&said["agreement"], expected.agreement);
            close(&said["margin"], expected.margin);
            for (found, (class, probability)) in said["probabilities"].as_array().unwrap().iter().zip(&ranked) {
                assert_eq!(found["class"], *class);
                close(&found["probability"], *probability);
            }
        }
    }
    assert_eq!(metric(server.address(), "gabion_images_total"), 6.0);
    assert!(server.stop().finished);
}

#[test]
fn headers_may_say_the_size_too() {
    let server = serve(settings(), session());
    let image = picture(1);
    let mut stream = connect(server.address());
    let length = image.pixels.len();
    let head = format!("POST /classify HTTP/1.1\r\nhost: here\r\ncontent-length: {length}\r\n");
    write!(stream, "{head}x-width: {}\r\nx-height: {}\r\n\r\n", image.width, image.height).unwrap();
    stream.write_all(&image.pixels).unwrap();
    assert_eq!(answer(&mut stream).unwrap().status, 200);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_line() {
    let server = serve(Settings { views: 32, pixels: 5000, body_bytes: 20_000, ..settings() }, session());
    let small = png(&picture(0));
    let large = png(&gabion_runtime::Rgb { height: 100, width: 100, pixels: vec![7; 30_000] });
    let cases: [(&str, &str, &[u8], u16, &str); 16] = [
        ("POST", "/classify?views=33", &small, 400, "1 to 32"),
        ("POST", "/classify?views=0", &small, 400, "views is 0"),
        ("POST", "/classify?views=many", &small, 400, "a number"),
        ("POST", "/classify?vews=3", &small, 400, "vews"),
        ("POST", "/classify?confidence=0.2", &small, 400, "confidence"),
        ("POST", "/classify?width=3", &small, 400, "both"),
        ("POST", "/classify?width=3&height=4", &small[..30], 400, "30 bytes"),
        ("POST", "/classify?width=300&height=400", &small, 413, "5000 pixels"),
        ("POST", "/classify?width=99999999999&height=99999999999", &small, 413, "5000 pixels"),
        ("POST", "/classify", b"no picture at all, whatever it says", 400, "not a picture"),
        ("POST", "/classify", b"", 400, "not a picture"),
        ("POST", "/classify", &small[..small.len() / 2], 400, "not a picture"),
        ("POST", "/classify", &large, 413, "5000 pixels"),
        ("GET", "/classify", b"", 405, "use POST"),
        ("DELETE", "/health", b"", 405, "use GET"),
        ("GET", "/favicon.ico", b"", 404, "POST /classify"),
    ];
    for (method, path, body, status, line) in cases {
        let said = once(server.address(), method, path, body);
        assert_eq!(said.status, status, "{method} {path}: {}", said.body);
        assert!(said.error().contains(line), "{method} {path}: {}", said.body);
    }
    for (method, status) in [("GET", 501), ("POST", 501)] {
        let said = once(server.address(), method, "/adapt", b"");
        assert_eq!((said.status, said.error().contains("adapts nothing")), (status, true));
    }
    // And it still works.
    assert_eq!(once(server.address(), "POST", "/classify", &small).status, 200);
}

#[test]
fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let server = serve(Settings { body_bytes: 100_000, ..settings() }, session());
    let said = once(server.address(), "POST", "/classify", &vec![0; 3_000_000]);
    assert_eq!((said.status, said.error().contains("100000")), (413, true));
    let mut stream = connect(server.address());
    stream.write_all(b"POST /classify HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..20 {
        let _ = stream
            .write_all(b"2710\r\n")
            .and_then(|()| stream.write_all(&[0; 10_000]))
            .and_then(|()| stream.write_all(b"\r\n"));
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    let said = answer(&mut stream).unwrap();
    assert_eq!((said.status, said.error().contains("100000")), (413, true));
    // Who asks first is told before it sends.
    let mut stream = connect(server.address());
    let head = "POST /classify HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(answer(&mut stream).unwrap().status, 413);
}

#[test]
fn bodies_share_a_memory_of_fixed_size() {
    let server = serve(Settings { bodies_bytes: 100_000, ..settings() }, session());
    let hold = "POST /classify HTTP/1.1\r\nhost: here\r\ncontent-length: 90000\r\n\r\n";
    // Who promises bytes and sends none holds none.
    let _silent: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(server.address());
            stream.write_all(hold.as_bytes()).unwrap();
            stream
        })
        .collect();
    soon("bodies under way", || metric(server.address(), "gabion_requests_open") == 9.0);
    assert_eq!(once(server.address(), "POST", "/classify?width=90&height=60", &[0; 16_200]).status, 200);
    let mut slow = connect(server.address());
    slow.write_all(&[hold.as_bytes(), &[0; 89_000]].concat()).unwrap();
    soon("a body under way", || metric(server.address(), "gabion_requests_open") == 10.0);
    let said = once(server.address(), "POST", "/classify?width=90&height=60", &[0; 16_200]);
    assert_eq!((said.status, said.headers["retry-after"].as_str()), (503, "1"));
    drop(slow);
    soon("its memory again", || {
        once(server.address(), "POST", "/classify?width=90&height=60", &[0; 16_200]).status == 200
    });
}

#[test]
fn slow_clients_are_let_go() {
    let (head, body) = (Duration::from_millis(300), Duration::from_millis(300));
    let server = serve(Settings { head_time: head, body_time: body, ..settings() }, session());
    let mut slow = connect(server.address());
    slow.write_all(b"POST /classify HTTP/1.1\r\nhost: here\r\ncontent-length: 1000\r\n\r\nabc").unwrap();
    let said = answer(&mut slow).unwrap();
    assert_eq!((said.status, said.headers["connection"].as_str()), (408, "close"));
    assert!(said.error().contains("0.3 s"));
    // A head that never ends, and a connection that never begins: closed.
    for beginning in ["GET /health HTTP/1.1\r\nhost: he", ""] {
        let start = Instant::now();
        let mut slow = connect(server.address());
        slow.write_all(beginning.as_bytes()).unwrap();
        let said = answer(&mut slow);
        assert!(said.is_none_or(|said| said.status == 408));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    // A head that is too large.
    let mut stream = connect(server.address());
    let _ = write!(stream, "GET /health HTTP/1.1\r\nhost: here\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!(answer(&mut stream).is_none_or(|said| said.status == 431));
    soon("no connection left", || metric(server.address(), "gabion_connections") == 1.0);
}

#[test]
fn a_body_keeps_to_its_rate_or_is_refused() {
    let moment = Duration::from_millis(200);
    let server = serve(Settings { body_grace: moment, body_rate: 100, ..settings() }, session());
    let image = png(&picture(0));
    let send = |pieces: &[&[u8]], pause: Duration| {
        let mut stream = connect(server.address());
        let head = format!("POST /classify HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n", image.len());
        stream.write_all(head.as_bytes()).unwrap();
        for piece in pieces {
            // It may be refused by now.
            let _ = stream.write_all(piece);
            std::thread::sleep(pause);
        }
        answer(&mut stream).unwrap()
    };
    // A byte now and then, each of them in time, and less than the rate: not kept for the whole of `body_time`.
    let start = Instant::now();
    let drops: Vec<&[u8]> = image.chunks(1).take(20).collect();
    let said = send(&drops, moment / 10);
    assert_eq!((said.status, said.headers["connection"].as_str()), (408, "close"));
    assert!(said.error().contains("the body is too slow") && start.elapsed() < Settings::default().body_time / 2);
    // In pieces for longer than the grace, each ahead of the rate by seconds.
    let pieces: Vec<&[u8]> = image.chunks(image.len().div_ceil(4)).collect();
    assert!(pieces[0].len() > 1000, "{}", image.len());
    assert_eq!(send(&pieces, moment / 2).status, 200);
}

#[test]
fn who_does_not_read_loses_the_place() {
    let alone = Settings { connections: 1, write_time: Duration::from_millis(300), ..settings() };
    let server = serve(alone, session());
    let mut deaf = connect(server.address());
    let asked = "GET /metrics HTTP/1.1\r\nhost: here\r\n\r\n".repeat(1000);
    // Answers fill what lies between the two, then questions do; neither goes on until the server has had enough.
    deaf.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let error = loop {
        if let Err(error) = deaf.write_all(asked.as_bytes()) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    // There is one place, and it is free again.
    assert_eq!(once(server.address(), "GET", "/health", b"").status, 200);
}

#[test]
fn health_says_what_answers() {
    let server = serve(settings(), session());
    let said = once(server.address(), "GET", "/health", b"").json();
    assert_eq!((&said["live"], &said["ready"], &said["generation"]), (&true.into(), &true.into(), &0.into()));
    assert_eq!(said["device"], "CPU");
}
