//! A run that is cut short, by whatever, ends in the same bytes as one that is not.
#![cfg(unix)]

mod support;

use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{FREE, Place, wait};

/// 16 minibatches of a step, without a weight average.
const STANDARD: &str = "--preset synth-tiny-standard --set images=64 batch=16 epochs=4 views=2 average=none \
                        encoder.width=4 projector.hidden=32 projector.output=16";

/// The settings of a run that takes long enough to be interrupted: `FREE` four times over.
fn long() -> String {
    FREE.replace("epochs=2", "epochs=8")
}

fn pretrain(recipe: &str, out: &str) -> String {
    format!("pretrain {recipe} --data synth --out {out} --checkpoint-every 1")
}

/// The metrics without what a clock decides. Every line is whole.
fn metrics(place: &Place, run: &str) -> Vec<Value> {
    let text = String::from_utf8(place.read(&format!("{run}/metrics.jsonl"))).unwrap();
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        for key in ["crops_per_second", "waiting", "seconds"] {
            assert!(value.as_object_mut().unwrap().remove(key).is_some(), "no {key}: {line}");
        }
        value
    };
    text.lines().map(line).collect()
}

/// Both runs have the same result, the second all its metrics in order, and nothing is left over in it.
#[track_caller]
fn same(place: &Place, whole: &str, again: &str) {
    for file in ["bundle/model.safetensors", "bundle/manifest.json", "recipe.toml"] {
        assert!(place.read(&format!("{whole}/{file}")) == place.read(&format!("{again}/{file}")), "{file} differs");
    }
    let (expected, found) = (metrics(place, whole), metrics(place, again));
    let steps: Vec<u64> = found.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (0..expected.len() as u64).collect::<Vec<_>>());
    assert_eq!(found, expected);
    tidy(place, again);
}

/// Two generations at most, each with its seal, and no temporary file anywhere.
#[track_caller]
fn tidy(place: &Place, run: &str) {
    let checkpoints = place.files(&format!("{run}/checkpoints"));
    let stems = |ending: &str| -> Vec<String> {
        checkpoints.iter().filter_map(|name| name.strip_suffix(ending)).map(String::from).collect()
    };
    assert!(stems(".json").len() <= 2, "{checkpoints:?}");
    assert_eq!(stems(".json"), stems(".safetensors"));
    assert_eq!(checkpoints.len(), 2 * stems(".json").len(), "{checkpoints:?}");
    let files = place.files(run);
    assert!(files.iter().all(|name| !name.contains(".tmp")), "{files:?}");
}

fn start(place: &Place, line: &str) -> Child {
    place.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the run's metrics have so many lines, or its process is over.
fn until(place: &Place, run: &str, lines: usize, child: &mut Child) {
    let (path, started) = (place.path(&format!("{run}/metrics.jsonl")), Instant::now());
    let there = || std::fs::read(&path).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count());
    while there() < lines && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "no line {lines} in {}", path.display());
        sleep(Duration::from_millis(1));
    }
}

/// Kills at the n-th line of the metrics and some milliseconds, resumes, and so on; then lets it end.
fn killed_and_resumed(recipe: &str, moments: &[(usize, u64)]) {
    let place = Place::new();
    place.run(&pretrain(recipe, "whole")).done();
    let (mut line, mut killed) = (pretrain(recipe, "again"), 0);
    for &(lines, pause) in moments {
        let mut child = start(&place, &line);
        until(&place, "again", lines, &mut child);
        sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
        line = pretrain("--resume", "again");
    }
    assert!(killed > 0, "every process was faster than its killer");
    place.run(&line).done();
    same(&place, "whole", "again");
}

#[test]
fn free_at_killed_at_any_moment_ends_in_the_same_bytes() {
    killed_and_resumed(&long(), &[(1, 0), (20, 1), (40, 5), (60, 12), (90, 30)]);
}

#[test]
fn bf16_killed_at_any_moment_ends_in_the_same_bytes() {
    killed_and_resumed(&format!("{} arithmetic=bf16", long()), &[(20, 1), (60, 12)]);
}

#[test]
fn standard_killed_at_any_moment_ends_in_the_same_bytes() {
    killed_and_resumed(STANDARD, &[(1, 0), (6, 3), (11, 9)]);
}

#[test]
fn an_interrupt_saves_and_the_printed_command_goes_on() {
    let place = Place::new();
    place.run(&pretrain(&long(), "whole")).done();
    // Without --checkpoint-every: the checkpoint is the interrupt's.
    let line = format!("pretrain {} --data synth --out again", long());
    let (out, err) = (place.path("stdout"), place.path("stderr"));
    let file = |path| std::fs::File::create(path).unwrap();
    let mut child = place.command(&line).stdout(file(&out)).stderr(file(&err)).spawn().unwrap();
    until(&place, "again", 4, &mut child);
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success(), "the run was over before it could be interrupted");
    assert_eq!(wait(&line, child).code(), Some(0));
    let said = String::from_utf8(place.read("stdout")).unwrap();
    assert!(said.starts_with("stopped after "), "{said}");
    assert!(String::from_utf8(place.read("stderr")).unwrap().contains("stopping after this minibatch"));
    assert!(!place.path("again/bundle").exists());
    assert_eq!(place.files("again/checkpoints").len(), 2);
    let (_, again) = said.trim().split_once("go on with: gabion ").expect("it says how to go on");
    let ended = place.run(&format!("{again} --json")).json();
    assert_eq!(ended["outcome"], "finished");
    same(&place, "whole", "again");
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let place = Place::new();
    let resume = pretrain("--resume", "run");
    place.run(&pretrain(FREE, "run")).done();
    place.run(&pretrain(FREE, "whole")).done();
    let (older, newest) = ("run/checkpoints/checkpoint-0000000007", "run/checkpoints/checkpoint-0000000008");
    let cut = |file: &str| place.write(file, &place.read(file)[..100]);
    let again = |anew: bool| {
        std::fs::remove_dir_all(place.path("run/bundle")).unwrap();
        let ran = place.run(&resume).done();
        same(&place, "whole", "run");
        assert_eq!(ran.stderr.contains("starting from the beginning"), anew, "{ran}");
    };

    cut(&format!("{newest}.safetensors"));
    again(false);
    let weights = format!("{newest}.safetensors");
    let mut bytes = place.read(&weights);
    *bytes.last_mut().unwrap() ^= 1;
    place.write(&weights, bytes);
    again(false);
    cut(&format!("{newest}.json"));
    again(false);
    std::fs::remove_file(place.path(&weights)).unwrap();
    again(false);

    // What a killed process leaves: a temporary file, weights without a seal.
    cut(&format!("{newest}.json"));
    place.write("run/checkpoints/.checkpoint-0000000008.safetensors.4294967295.tmp", "cut short");
    place.write("run/checkpoints/checkpoint-0000000003.safetensors", "no seal");
    again(false);

    // Neither is whole: from the start, and the early generations are not taken for the older ones.
    cut(&format!("{older}.json"));
    cut(&format!("{newest}.json"));
    again(true);
}

#[test]
fn lost_metrics_are_not_filled_with_nothing() {
    let place = Place::new();
    place.run(&pretrain(FREE, "run")).done();
    let newest = "run/checkpoints/checkpoint-0000000008.json";
    std::fs::remove_file(place.path(newest)).unwrap();
    std::fs::remove_file(place.path("run/metrics.jsonl")).unwrap();
    place.run(&pretrain("--resume", "run")).done();
    let steps: Vec<_> = metrics(&place, "run").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [21, 22, 23]);
}

#[test]
fn the_log_tells_the_whole_story() {
    let place = Place::new();
    let log = || String::from_utf8(place.read("run/log")).unwrap();
    place.run(&pretrain(FREE, "run")).done();
    let first = log();
    let lines: Vec<&str> = first.lines().collect();
    assert_eq!(lines.len(), 6, "{first}");
    for (line, part) in lines.iter().zip([
        "starts on",
        "views: cpu pipeline",
        "minibatch 0 of 8",
        "epoch 0 ends",
        "epoch 1 ends",
        "finished",
    ]) {
        let (time, text) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() == 24 && text.contains(part), "{line}");
    }
    // It lasts over a resume, and says what was found.
    for seal in place.files("run/checkpoints").iter().filter(|name| name.ends_with(".json")) {
        place.write(&format!("run/checkpoints/{seal}"), "damaged");
    }
    place.write("run/.bundle.4711.tmp/model.safetensors", "cut short");
    place.run(&pretrain("--resume", "run")).done();
    let added = log().strip_prefix(first.as_str()).expect("lines are appended").to_string();
    assert!(added.contains("goes on") && added.contains("starting from the beginning"), "{added}");
    tidy(&place, "run");
}

#[cfg(target_os = "linux")]
#[test]
fn a_second_process_is_kept_out_of_a_run() {
    let place = Place::new();
    let mut child = start(&place, &pretrain(&long(), "run"));
    until(&place, "run", 2, &mut child);
    // Stopped, so that it cannot end before it is met.
    let signal = |name: &str| Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    let ran = place.run(&pretrain("--resume", "run"));
    assert!(signal("-CONT").success());
    ran.refused(1, &["run is being worked on by another process"]);
    assert_eq!(wait("the first", child).code(), Some(0));
    place.run(&pretrain(&long(), "whole")).done();
    same(&place, "whole", "run");
}

#[test]
fn what_would_mix_two_runs_is_refused() {
    let place = Place::new();
    place.run(&pretrain(FREE, "run")).done();
    let before: Vec<_> = place.files("run").iter().map(|name| place.read(&format!("run/{name}"))).collect();
    let refused = |line: &str, code, part: &str| {
        place.run(line).refused(code, &[part]);
    };
    refused(&pretrain(FREE, "run"), 1, "already holds a run; add --resume");
    refused(&format!("{} --resume", pretrain(&long(), "run")), 1, "another recipe");
    refused(&format!("{} --resume", pretrain(STANDARD, "run")), 1, "another recipe");
    refused(&format!("{} --resume --set epochs=3", pretrain("", "run")), 2, "no recipe");
    refused(&pretrain("--resume", "absent"), 1, "holds no run to resume");
    refused(&format!("{} --resume", pretrain(FREE, "absent")), 1, "holds no run to resume");
    assert!(!place.path("absent").exists());

    // CIFAR-10 of zeros: files of the right length, without a block on the disk.
    let names = (1..=5).map(|number| format!("data_batch_{number}.bin")).chain(["test_batch.bin".into()]);
    for name in names {
        place.write(&format!("cifar/{name}"), []);
        let file = std::fs::OpenOptions::new().write(true).open(place.path(&format!("cifar/{name}"))).unwrap();
        file.set_len(30_730_000).unwrap();
    }
    let other = pretrain("--resume", "run").replace("synth", "cifar");
    refused(&other, 1, "was started on other data (64 images of synth, not 64 images of cifar10)");

    // The same number of images of the same kind, and not the same images.
    let text = String::from_utf8(place.read("run/run.json")).unwrap();
    let facts: Value = serde_json::from_str(&text).unwrap();
    let hash = facts["data_sha256"].as_str().unwrap();
    place.write("run/run.json", text.replace(hash, &"0".repeat(64)));
    refused(&pretrain("--resume", "run"), 1, "64 images of synth with SHA-256 000000000000..., not 64 images of synth");
    place.write("run/run.json", text);

    let after: Vec<_> = place.files("run").iter().map(|name| place.read(&format!("run/{name}"))).collect();
    assert!(before == after, "a refused command changed the run");
    // The same recipe may be said again.
    place.run(&format!("{} --resume", pretrain(FREE, "run"))).done();
}

#[test]
fn a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room() {
    let place = Place::new();
    place.run(&pretrain(FREE, "whole")).done();
    // Files of at most 64 or 128 KiB, whatever the shell counts in; a write beyond fails like one on a full disk.
    let line = pretrain(FREE, "again");
    let ran = support::run(&line, place.limited("trap '' XFSZ; ulimit -f 128", &line));
    ran.refused(1, &["cannot write the checkpoint again/checkpoints/checkpoint-0000000001", "--resume"]);
    tidy(&place, "again");
    assert!(!place.path("again/bundle").exists());
    place.run(&pretrain("--resume", "again")).done();
    same(&place, "whole", "again");

    // A disk that is full in earnest, where this user may mount one.
    std::fs::create_dir(place.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=900k none small || exit 77
        \"$0\" pretrain $RECIPE --data synth --device cpu --out small/run --checkpoint-every 1
        echo \"ended with $?\"
        mount -o remount,size=9000k none small || exit 78
        \"$0\" pretrain --resume --data synth --device cpu --out small/run --checkpoint-every 1 || exit 79
        cp -r small/run roomy";
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, env!("CARGO_BIN_EXE_gabion")]);
    command.env("RECIPE", FREE).current_dir(place.path(""));
    if Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        let ran = support::run("on a small disk", command);
        if ran.status.code() == Some(77) {
            println!("skipped: no disk can be mounted here");
            return;
        }
        assert!(ran.status.success() && ran.stdout.contains("ended with 1\n"), "{ran}");
        assert!(ran.stderr.contains("error: cannot write the checkpoint small/run/checkpoints/"), "{ran}");
        assert!(ran.stderr.contains("No space left on device"), "{ran}");
        same(&place, "whole", "roomy");
    } else {
        println!("skipped: no disk can be mounted here");
    }
}
