//! More than it can do, clients that leave, models that break, and an end in the middle of it.

mod common;

use common::*;
use gabion_serve::Settings;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

const RAW: &str = "/classify?width=1&height=1";

#[test]
fn more_clients_than_places_are_all_answered() {
    let gate = Gate::new(false);
    let server = serve(Settings { workers: 2, queue: 4, ..settings() }, gate.clone());
    let address = server.address();
    let client = || thread::spawn(move || once(address, "POST", RAW, &[0; 3]));
    let mut clients = vec![client(), client()];
    // A place in the queue is free once a worker has taken what lay there.
    soon("two at work", || metric(address, "gabion_workers_busy") == 2.0);
    clients.extend((0..22).map(|_| client()));
    // Two at work, four wait, the others are refused at once.
    soon("18 refusals", || once(address, "GET", "/metrics", b"").body.contains("status=\"503\"} 18"));
    assert_eq!(metric(address, "gabion_queue_depth"), 4.0);
    assert_eq!(metric(address, "gabion_workers_busy"), 2.0);
    // What only waits does not wait for them.
    assert_eq!(once(address, "GET", "/health", b"").status, 200);
    gate.open();
    let mut counts = BTreeMap::new();
    for client in clients {
        let said = client.join().unwrap();
        if said.status == 503 {
            assert!(said.headers["retry-after"].parse::<u32>().unwrap() >= 1 && said.error().contains("try again"));
        }
        *counts.entry(said.status).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(200, 6), (503, 18)]));
    let page = once(address, "GET", "/metrics", b"").body;
    assert!(page.contains("gabion_requests_total{route=\"/classify\",status=\"200\"} 6"), "{page}");
    assert!(page.contains("gabion_request_seconds_count{route=\"/classify\"} 24"), "{page}");
    assert!(page.contains("gabion_images_total 6"), "{page}");
    assert_eq!(metric(address, "gabion_workers_busy"), 0.0);
}

#[test]
fn a_client_that_leaves_costs_no_place() {
    let gate = Gate::new(false);
    let server = serve(Settings { workers: 1, queue: 2, ..settings() }, gate.clone());
    let address = server.address();
    let mut clients: Vec<_> = (0..3).map(|_| connect(address)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        ask(client, "POST", RAW, &[0; 3]);
        let busy = usize::from(number == 0) as f64;
        soon("its place", || {
            metric(address, "gabion_queue_depth") == number as f64
                && (number > 0 || metric(address, "gabion_workers_busy") == busy)
        });
    }
    assert_eq!(once(address, "POST", RAW, &[0; 3]).status, 503);
    drop(clients);
    soon("all left", || metric(address, "gabion_requests_open") == 1.0);
    gate.open();
    soon("an empty queue", || metric(address, "gabion_queue_depth") == 0.0);
    soon("an idle worker", || metric(address, "gabion_workers_busy") == 0.0);
    assert_eq!(metric(address, "gabion_abandoned_total"), 2.0);
    assert_eq!(metric(address, "gabion_connections"), 1.0);
    let page = once(address, "GET", "/metrics", b"").body;
    assert!(page.contains("gabion_requests_total{route=\"/classify\",status=\"499\"} 3"), "{page}");
    assert_eq!(once(address, "POST", RAW, &[0; 3]).status, 200);
    assert!(server.stop().finished);
}

#[test]
fn a_late_answer_is_given_up() {
    let gate = Gate::new(false);
    let answer_time = Duration::from_millis(200);
    let server = serve(Settings { workers: 1, answer_time, ..settings() }, gate.clone());
    let said = once(server.address(), "POST", RAW, &[0; 3]);
    assert_eq!((said.status, said.error().contains("0.2 s")), (503, true));
    gate.open();
    soon("it works again", || once(server.address(), "POST", RAW, &[0; 3]).status == 200);
}

#[test]
fn a_model_that_breaks_takes_nobody_with_it() {
    let server = serve(settings(), Gate::new(true));
    let address = server.address();
    let broken = |_| once(address, "POST", "/classify?width=1&height=1&seed=13", &[0; 3]);
    for said in (0..10).map(broken) {
        assert_eq!((said.status, said.error().contains("replaced")), (500, true));
    }
    for _ in 0..10 {
        assert_eq!(once(address, "POST", RAW, &[0; 3]).status, 200);
    }
    // Counted once it is cleared away, which is after the answer.
    soon("10 panics", || metric(address, "gabion_worker_panics_total") == 10.0);
    assert_eq!((metric(address, "gabion_workers_busy"), metric(address, "gabion_queue_depth")), (0.0, 0.0));
    assert!(server.stop().finished);
}

#[test]
fn what_is_under_way_is_finished_before_the_end() {
    let gate = Gate::new(false);
    let server = serve(Settings { workers: 1, queue: 4, ..settings() }, gate.clone());
    let address = server.address();
    let idle = connect(address);
    let clients: Vec<_> = (0..4).map(|_| thread::spawn(move || once(address, "POST", RAW, &[0; 3]))).collect();
    soon("a busy worker", || metric(address, "gabion_workers_busy") == 1.0);
    soon("three wait", || metric(address, "gabion_queue_depth") == 3.0);
    let end = thread::spawn(move || server.stop());
    // Nobody else gets in.
    soon("a closed door", || std::net::TcpStream::connect(address).is_err());
    gate.open();
    for client in clients {
        assert_eq!(client.join().unwrap().status, 200);
    }
    let ended = end.join().unwrap();
    assert!(ended.finished);
    assert_eq!(ended.images, 4);
    drop(idle);
}

#[test]
fn an_end_has_a_deadline() {
    let gate = Gate::new(false);
    let server = serve(Settings { workers: 1, stop_time: Duration::from_millis(200), ..settings() }, gate.clone());
    let address = server.address();
    let client = thread::spawn(move || {
        let mut stream = connect(address);
        ask(&mut stream, "POST", RAW, &[0; 3]);
        answer(&mut stream).is_none()
    });
    soon("a busy worker", || metric(address, "gabion_workers_busy") == 1.0);
    let start = Instant::now();
    assert!(!server.stop().finished);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(client.join().unwrap());
    gate.open();
}

#[test]
fn real_work_under_more_clients_than_places_is_answered_in_full() {
    let server = serve(Settings { workers: 2, queue: 2, ..settings() }, session());
    let address = server.address();
    let body = png(&picture(5));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let body = body.clone();
            thread::spawn(move || {
                let mut stream = connect(address);
                let mut statuses = Vec::new();
                for _ in 0..20 {
                    ask(&mut stream, "POST", "/classify?views=4", &body);
                    statuses.push(answer(&mut stream).expect("every request is answered").status);
                }
                statuses
            })
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let count = |status| statuses.iter().filter(|&&found| found == status).count();
    let (good, refused) = (count(200), count(503));
    assert_eq!(good + refused, 320);
    assert!(good > 0 && refused > 0, "{good} answered, {refused} refused");
    assert_eq!(metric(address, "gabion_images_total"), good as f64);
    assert_eq!(metric(address, "gabion_views_total"), 4.0 * good as f64);
}
