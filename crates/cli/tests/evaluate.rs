//! Long evaluations: killed and gone on with, their report, and their images looked at again.
#![cfg(unix)]

mod support;

use serde_json::Value;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use support::{Place, wait};

const TRUST: &str = "evaluate run --data synth --protocol trust --images 10 --batch 4 --epsilon 2/255";

/// The result without what a clock decides and without what was typed.
fn numbers(place: &Place, folder: &str) -> Value {
    let mut value: Value = serde_json::from_slice(&place.read(&format!("{folder}/result.json"))).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("command");
    fields.remove("seconds");
    for row in fields["attacks"].as_array_mut().unwrap() {
        row.as_object_mut().unwrap().remove("seconds");
    }
    value
}

#[test]
fn an_evaluation_that_is_killed_goes_on_and_ends_the_same() {
    let place = Place::new();
    place.classifier();
    place.run(&format!("{TRUST} --out whole")).done();
    let line = format!("{TRUST} --out cut");
    // Each time a little later, so that it is cut down in other places.
    for milliseconds in [150, 300, 450, 600, 800] {
        let mut child = place.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(milliseconds));
        let _ = child.kill();
        wait(&line, child);
    }
    place.run(&line).done();
    assert_eq!(numbers(&place, "cut"), numbers(&place, "whole"));
    for file in ["images.csv", "adversarial.safetensors"] {
        assert!(place.read(&format!("cut/{file}")) == place.read(&format!("whole/{file}")), "{file} differs");
    }
    let left = place.files("cut");
    assert!(left.iter().filter(|name| !name.starts_with("chunks/")).count() == 5, "{left:?}");

    // The report says what the result says.
    let page = String::from_utf8(place.read("whole/report.html")).unwrap();
    let trust = &numbers(&place, "whole")["trust"][0];
    for check in trust["checks"].as_array().unwrap() {
        assert!(page.contains(check["name"].as_str().unwrap()), "{check}");
    }
    for other in ["src=\"http", "href=\"http", "url(http", "<script", "<link"] {
        assert!(!page.contains(other), "the page needs {other}");
    }

    // Other attacks may share the folder, and what was there is kept.
    let before = place.read("whole/result.json");
    let other = "evaluate run --data synth --protocol paper --images 10 --epsilon 2/255 --out whole";
    assert!(place.run(other).done().stderr.contains("whole/trust-1"));
    assert!(!place.run(other).done().stderr.contains("trust"));
    assert!(place.read("whole/trust-1/result.json") == before && place.read("whole/result.json") != before);

    // Other settings are another evaluation.
    place.run(&line.replace("--images 10", "--images 9")).refused(1, &["cut", "another evaluation", "--out"]);

    // Its images are what it says, and what is not is found out.
    let verified = place.run("verify-adversarial run whole/trust-1/adversarial.safetensors --data synth --json").json();
    let budget = &verified["budgets"][0];
    assert_eq!((&budget["outside"], &budget["right"]), (&0.into(), &budget["said"]), "{verified}");
    let mut bytes = place.read("whole/trust-1/adversarial.safetensors");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&2.0f32.to_le_bytes());
    place.write("bad.safetensors", &bytes);
    place.run("verify-adversarial run bad.safetensors --data synth").refused(1, &["1 images are outside"]);
    place.write("short.safetensors", &bytes[..100]);
    place
        .run("verify-adversarial run short.safetensors --data synth")
        .refused(1, &["short.safetensors", "cannot be verified"]);
}

#[test]
fn the_cpu_evaluates_in_bf16_and_in_int8() {
    let place = Place::new();
    place.classifier();
    let evaluate = |precision: &str| {
        let line =
            format!("evaluate run --data synth --device cpu --images 40 --epsilon 8/255 --precision {precision}");
        let value = place.run(&format!("{line} --json")).json();
        assert_eq!(value["precision"], precision);
        value["clean"]["right"].as_u64().unwrap()
    };
    let [single, bf16, int8] = ["f32", "bf16", "int8"].map(evaluate);
    assert!(single.abs_diff(bf16) <= 2 && single.abs_diff(int8) <= 4, "{single}, {bf16}, {int8}");
    // What is attacked in one precision is not gone on with in another.
    let line = "evaluate run --data synth --device cpu --protocol apgd --images 4 --epsilon 2/255 --out apgd";
    place.run(&format!("{line} --precision int8")).done();
    place.run(&format!("{line} --precision int8 --calibrate synth")).done();
    place.run(&format!("{line} --precision bf16")).refused(1, &["another evaluation", "--out"]);
    place.run(&format!("{line} --precision f16")).refused(2, &["f32, bf16 or int8"]);
    place.run("evaluate run --data synth --device cpu --precision bf16 --claim").refused(2, &["--claim"]);
    place.run("evaluate run --data synth --device cpu --precision int8 --protocol views --images 4").refused(1, &[]);
    place.run("serve run --precision int8").refused(2, &["bf16"]);
    place.write("noise.safetensors", "not a network");
    place.run("evaluate noise.safetensors --data synth --device cpu --precision int8").refused(2, &["of bundles"]);
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let place = Place::new();
    place.classifier();
    place.write("noise.safetensors", "not a network");
    place.run("evaluate noise.safetensors --data synth").refused(1, &["noise.safetensors", "no network"]);
    place.run("evaluate run --data synth --images 4 --protocol paper --norm l2 --epsilon 0.5").done();
    place.run("evaluate run --data synth --images 4 --norm l2 --epsilon 2.5").done();
    place
        .run("evaluate run --data synth --images 4 --epsilon 2.5")
        .refused(2, &["`2.5` is not a pixel budget", "between 0 and 1"]);
    place.run("evaluate run --data synth --restarts 2").refused(2, &["restarts", "`strong` and `apgd`"]);
    place.run("evaluate run --data synth --protocol nonsense").refused(2, &["nonsense"]);
    place.run("evaluate run --data synth --images 3 --patch 0 --protocol corruptions").refused(2, &["0"]);
}
