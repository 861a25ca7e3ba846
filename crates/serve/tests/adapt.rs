//! Adaptation beside classification, by an adapter that does what the test says.

mod common;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use common::*;
use gabion_serve::{Adapter, Lesson, Progress, Renewed, Report, Served, Server, Settings, Verdict};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Waits for a word: promote, reject, break, or until it is told to stop.
struct Scripted {
    words: Mutex<mpsc::Receiver<&'static str>>,
    lessons: mpsc::Sender<Lesson>,
}

impl Adapter for Scripted {
    fn adapt(&self, lesson: Lesson, generation: u64, report: Report<'_>) -> Result<Verdict, String> {
        self.lessons.send(lesson).unwrap();
        let words = self.words.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for steps in 1.. {
            if !report(Progress { steps, loss: Some(0.5) }) {
                return Err("it was told to stop".into());
            }
            match words.recv_timeout(Duration::from_millis(5)) {
                Ok("promote") => {
                    let model = Arc::new(Gate::new(true));
                    return Ok(Verdict::Promoted { generation: generation + 1, model, report: json!({ "gain": 0.1 }) });
                }
                Ok("reject") => return Ok(Verdict::Rejected { why: "no better".into(), report: json!(null) }),
                Ok(word) => panic!("{word}"),
                Err(_) => {}
            }
        }
        unreachable!("steps do not end")
    }

    fn renewed(&self) -> Result<Option<Renewed>, String> {
        let words = self.words.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match words.try_recv() {
            Ok("roll back") => Ok(Some((3, Arc::new(Gate::new(true))))),
            Ok(word) => Err(word.into()),
            Err(_) => Ok(None),
        }
    }
}

fn school() -> (Server, mpsc::Sender<&'static str>, mpsc::Receiver<Lesson>) {
    school_of(settings())
}

fn school_of(settings: Settings) -> (Server, mpsc::Sender<&'static str>, mpsc::Receiver<Lesson>) {
    let ((say, words), (lessons, given)) = (mpsc::channel(), mpsc::channel());
    let adapter: Arc<dyn Adapter> = Arc::new(Scripted { words: Mutex::new(words), lessons });
    let model = Arc::new(session());
    let served = Served { name: "test".into(), device: "CPU".into(), model, generation: 4, adapter: Some(adapter) };
    (Server::start("127.0.0.1:0".parse().unwrap(), settings, served).unwrap(), say, given)
}

fn lesson() -> String {
    let images: Vec<String> = (0..2).map(|seed| BASE64_STANDARD.encode(png(&picture(seed)))).collect();
    json!({ "images": images, "labels": [3, "frog"], "seconds": 2.5, "steps": 10, "seed": 9 }).to_string()
}

/// What a form's parts are, by name: `image` is a file.
fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in parts {
        let file = if *name == "image" { "; filename=\"a.png\"\r\nContent-Type: image/png" } else { "" };
        let head = format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend([head.as_bytes(), value, b"\r\n"].concat());
    }
    body.extend(b"--cut--\r\n");
    body
}

const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=cut";

fn post(address: SocketAddr, kind: &str, body: &[u8]) -> Answer {
    let mut stream = connect(address);
    ask_with(&mut stream, "POST", "/adapt", &format!("content-type: {kind}\r\n"), body);
    answer(&mut stream).expect("an answer")
}

fn state(address: SocketAddr) -> serde_json::Value {
    once(address, "GET", "/adapt", b"").json()
}

#[test]
fn a_promoted_model_answers_from_then_on() {
    let (server, say, given) = school();
    let address = server.address();
    assert_eq!(state(address)["state"], "idle");
    let body = png(&picture(0));
    let mut stream = connect(address);
    let mut classify = || {
        ask(&mut stream, "POST", "/classify", &body);
        answer(&mut stream).unwrap().json()
    };
    assert_eq!(classify()["generation"], 4);
    let said = post(address, JSON, lesson().as_bytes());
    assert_eq!((said.status, &said.json()["state"]), (202, &json!("running")));
    let lesson_given = given.recv().unwrap();
    assert_eq!(lesson_given.images, [picture(0), picture(1)]);
    assert_eq!(lesson_given.labels, [3, session().classes().iter().position(|class| class == "frog").unwrap()]);
    assert_eq!((lesson_given.time, lesson_given.steps), (Some(Duration::from_millis(2500)), Some(10)));
    assert_eq!(lesson_given.seed, 9);
    soon("steps", || state(address)["steps"].as_u64() > Some(1));
    // A second one has to wait; the old model goes on.
    let said = post(address, JSON, lesson().as_bytes());
    assert_eq!((said.status, said.error().contains("under way")), (409, true));
    assert_eq!(metric(address, "gabion_adapting"), 1.0);
    assert_eq!(classify()["generation"], 4);
    say.send("promote").unwrap();
    soon("a verdict", || state(address)["verdict"] == "promoted");
    assert_eq!(state(address)["report"]["gain"], 0.1);
    let said = classify();
    assert_eq!((&said["generation"], &said["label"]), (&json!(5), &json!("yes")));
    assert_eq!(metric(address, "gabion_generation"), 5.0);
    assert!(server.stop().finished);
}

#[test]
fn a_rejected_or_broken_one_changes_nothing() {
    let (server, say, _given) = school();
    let address = server.address();
    for (word, verdict) in [("reject", "rejected"), ("break", "failed"), ("reject", "rejected")] {
        assert_eq!(post(address, JSON, lesson().as_bytes()).status, 202);
        say.send(word).unwrap();
        soon("a verdict", || state(address)["state"] == "over");
        assert_eq!(state(address)["verdict"], verdict);
        assert_eq!(once(address, "POST", "/classify", &png(&picture(0))).json()["generation"], 4);
    }
}

#[test]
fn what_another_process_changed_answers_soon() {
    let (server, say, _given) = school();
    let generation = || once(server.address(), "POST", "/classify", &png(&picture(0))).json()["generation"].clone();
    assert_eq!(generation(), 4);
    say.send("torn").unwrap();
    say.send("roll back").unwrap();
    soon("the earlier one", || generation() == 3);
}

#[test]
fn an_end_stops_it() {
    let (server, _say, given) = school();
    assert_eq!(post(server.address(), JSON, lesson().as_bytes()).status, 202);
    given.recv().unwrap();
    assert!(server.stop().finished);
}

#[test]
fn it_is_ended_by_who_asks_and_by_the_clock() {
    let (server, say, given) = school_of(Settings { lesson_time: Duration::from_secs(3), ..settings() });
    let address = server.address();
    let said = once(address, "DELETE", "/adapt", b"");
    assert_eq!((said.status, said.error().contains("nothing to end")), (409, true));
    for _ in 0..2 {
        assert_eq!(post(address, JSON, lesson().as_bytes()).status, 202);
        given.recv().unwrap();
        assert_eq!(once(address, "DELETE", "/adapt", b"").status, 202);
        soon("an end", || state(address)["state"] == "over");
        assert_eq!(state(address)["verdict"], "cancelled");
    }
    // The next one is not ended by what ended that.
    assert_eq!(post(address, JSON, lesson().as_bytes()).status, 202);
    say.send("reject").unwrap();
    soon("a verdict", || state(address)["verdict"] == "rejected");
    assert_eq!(post(address, JSON, lesson().as_bytes()).status, 202);
    soon("a time limit", || state(address)["verdict"] == "failed");
    assert!(state(address)["why"].as_str().unwrap().contains("longer than 3 s"));
}

#[test]
fn pages_of_other_sites_reach_nothing() {
    let (server, _say, _given) = school();
    let address = server.address();
    let ask_as = |method: &str, lines: &str, body: &[u8]| {
        let mut stream = connect(address);
        ask_with(&mut stream, method, "/adapt", lines, body);
        answer(&mut stream).expect("an answer")
    };
    let body = lesson();
    let json = format!("content-type: {JSON}\r\n");
    for lines in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "sec-fetch-site: cross-site\r\n",
        "origin: http://here:81\r\n",
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let said = ask_as(method, &format!("{json}{lines}"), body.as_bytes());
            assert_eq!((said.status, said.error().contains("another site")), (403, true), "{lines}");
        }
    }
    // What a browser sends elsewhere without asking first.
    for kind in ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"] {
        let said = ask_as("POST", kind, body.as_bytes());
        assert_eq!((said.status, said.error().contains("application/json")), (415, true), "{kind}");
    }
    assert_eq!(state(address)["state"], "idle");
    let own = "origin: http://HERE\r\nsec-fetch-site: same-origin\r\n";
    assert_eq!(
        ask_as("POST", &format!("content-type: Application/JSON; charset=utf-8\r\n{own}"), body.as_bytes()).status,
        202
    );
}

#[test]
fn lessons_that_make_no_sense_are_refused_with_a_line() {
    let (server, _say, _given) = school();
    let good = BASE64_STANDARD.encode(png(&picture(0)));
    for (body, line) in [
        (json!([1]).to_string(), "lesson"),
        (json!({ "images": [good], "labels": [0], "seconds": -1 }).to_string(), "seconds is -1"),
        (json!({ "images": [good], "labels": [0], "steps": 0 }).to_string(), "steps is 0"),
        (json!({ "images": [good], "labels": [0], "epochs": 1 }).to_string(), "epochs"),
        (json!({ "images": [], "labels": [] }).to_string(), "0 images"),
        (json!({ "images": [good], "labels": [] }).to_string(), "0 labels"),
        (json!({ "images": [good], "labels": [10] }).to_string(), "label 10"),
        (json!({ "images": [good], "labels": ["gnu"] }).to_string(), "gnu"),
        (json!({ "images": ["?"], "labels": [1] }).to_string(), "base64"),
        (json!({ "images": ["aaaa"], "labels": [1] }).to_string(), "not a picture"),
        (json!({ "images": [good], "labels": [0], "steps": 100_001 }).to_string(), "1 to 100000"),
        (json!({ "images": [good], "labels": [0], "seconds": 3601 }).to_string(), "at most 3600"),
        (json!({ "images": [good], "labels": vec![0; 4097] }).to_string(), "longer than 4096"),
        (json!({ "images": vec![""; 4097], "labels": [0] }).to_string(), "longer than 4096"),
    ] {
        let said = post(server.address(), JSON, body.as_bytes());
        assert_eq!(said.status, 400, "{body}");
        assert!(said.error().contains(line), "{}", said.body);
    }
    assert_eq!(state(server.address())["state"], "idle");
}

#[test]
fn a_form_with_files_is_a_lesson_too() {
    let (server, say, given) = school();
    let [first, second] = [0, 1].map(|seed| png(&picture(seed)));
    let parts: [(&str, &[u8]); 7] = [
        ("image", &first),
        ("label", b"3"),
        ("image", &second),
        ("label", b"frog"),
        ("seconds", b"2.5"),
        ("steps", b" 10"),
        ("seed", b"9"),
    ];
    assert_eq!(post(server.address(), FORM, &form(&parts)).status, 202);
    let by_form = given.recv().unwrap();
    say.send("reject").unwrap();
    soon("a verdict", || state(server.address())["state"] == "over");
    assert_eq!(post(server.address(), JSON, lesson().as_bytes()).status, 202);
    assert_eq!(given.recv().unwrap(), by_form);
    say.send("reject").unwrap();
    assert!(server.stop().finished);
}

#[test]
fn forms_that_make_no_sense_are_refused_with_a_line() {
    let (server, _say, _given) = school();
    let good = png(&picture(0));
    let good = ("image", good.as_slice());
    let refused = |status: u16, kind: &str, body: &[u8], line: &str| {
        let said = post(server.address(), kind, body);
        assert_eq!(said.status, status, "{}", said.body);
        assert!(said.error().contains(line), "{}", said.body);
    };
    for (parts, line) in [
        (vec![], "0 images"),
        (vec![good], "0 labels"),
        (vec![good, ("label", b"10")], "label 10"),
        (vec![good, ("label", b"gnu")], "\"gnu\" is no class"),
        (vec![good, ("label", &[0xff][..])], "is no class"),
        (vec![good, ("label", b"1"), ("seconds", b"soon")], "seconds is \"soon\""),
        (vec![good, ("label", b"1"), ("seconds", b"NaN")], "seconds is NaN"),
        (vec![good, ("label", b"1"), ("steps", b"0")], "steps is 0"),
        (vec![good, ("label", b"1"), ("epochs", b"1")], "\"epochs\""),
        (vec![("image", b"GIF89a"), ("label", b"1")], "image 0"),
    ] {
        refused(400, FORM, &form(&parts), line);
    }
    refused(400, FORM, &form(&vec![("label", &b"1"[..]); 4098]), "more than 4096");
    let whole = form(&[good, ("label", b"1")]);
    refused(400, FORM, &whole[..whole.len() / 2], "no form");
    refused(400, "multipart/form-data", &whole, "no form");
    refused(400, "multipart/form-data; boundary=other", &whole, "no form");
    refused(400, JSON, &whole, "not a lesson");
    let many = vec![0; settings().lesson_bytes + 1];
    refused(413, FORM, &many, "above the limit");
    assert_eq!(state(server.address())["state"], "idle");
}
