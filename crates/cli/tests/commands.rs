//! The whole way in miniature: pretrain, probe, evaluate, export, inspect, classify.

mod support;

use safetensors::SafeTensors;
use serde_json::Value;
use support::{FREE, Place};

/// Every command, with its sub-commands.
const COMMANDS: [&str; 19] = [
    "pretrain",
    "probe",
    "evaluate",
    "verify-adversarial",
    "export",
    "inspect",
    "classify",
    "data",
    "data fetch",
    "data verify",
    "devices",
    "demo",
    "bench",
    "bench augment",
    "bench autoattack",
    "bench precision",
    "bench train",
    "bench attack",
    "augment",
];

#[test]
fn every_help_has_an_example() {
    let place = Place::new();
    let listed = place.run("--help").done().stdout;
    for command in COMMANDS {
        let first = command.split(' ').next().unwrap();
        assert!(listed.contains(&format!("\n  {first} ")), "{listed}");
        let ran = place.run(&format!("{command} --help")).done();
        let example = ran.stdout.split_once("Example:\n  gabion ").unwrap_or_else(|| panic!("no example: {ran}")).1;
        assert!(example.starts_with(command), "{ran}");
    }
    assert!(place.run("--version").done().stdout.starts_with("gabion "));
}

#[test]
fn presets_recipes_and_devices_are_listed() {
    let place = Place::new();
    let presets = place.run("pretrain --list-presets --json").json();
    for preset in presets.as_array().unwrap() {
        let line = format!("pretrain --preset {} --show-recipe", preset.as_str().unwrap());
        let text = place.run(&line).done().stdout;
        // What is shown is itself a recipe, and the same one.
        place.write("shown.toml", &text);
        assert_eq!(place.run("pretrain --recipe shown.toml --show-recipe").done().stdout, text);
        text.parse::<toml::Table>().unwrap();
    }
    let recipe = place.run(&format!("pretrain {FREE} --set threat.epsilon=8/255 --show-recipe --json")).json();
    assert_eq!(recipe["encoder"]["width"], 4);
    assert_eq!(recipe["threat"]["epsilon"], "8/255");
    assert!(place.files("").iter().all(|name| name == "shown.toml"));

    let devices = place.run("devices --json").json();
    let devices = devices.as_array().unwrap();
    assert!(devices.iter().any(|device| device["device"] == "cpu" && device["kind"] == "cpu"), "{devices:?}");
    assert_eq!(devices.iter().filter(|device| device["taken_by_auto"] == true).count(), 1, "{devices:?}");
    let bench = "bench free-at --width 4 --hidden 16 --output 8 --batch 4 --warmup 1 --steps 2 --json";
    let bench = place.run(bench).json();
    assert!(bench["result"]["median_seconds"].as_f64().unwrap() > 0.0, "{bench}");
}

#[test]
fn augmentation_is_measured_where_there_are_no_peers() {
    let place = Place::new();
    let measure = "bench augment --images 4 --views 2 --rounds 2 --seconds 0.01 --python absent --json --quiet";
    let ran = place.run(&format!("{measure} --out a.json")).done();
    assert!(ran.stderr.is_empty(), "{ran}");
    assert_eq!(place.read("a.json"), ran.stdout.as_bytes());
    let said = ran.json();
    assert!(said["machine"]["cores"].is_u64() && said["versions"]["gabion"].is_string(), "{said}");
    let rows = said["result"]["rows"].as_array().unwrap();
    let measured: Vec<bool> = rows.iter().map(|row| row["views_per_second"].is_f64()).collect();
    assert_eq!(measured, [true, true, false, false, false, false], "{said}");
    assert!(rows.iter().all(|row| row["not_measured"].is_string() != row["views_per_second"].is_f64()), "{said}");
    for (line, parts) in [
        ("--out absent/a.json", &["absent is no folder", "--out"][..]),
        ("--out .", &[". is a folder", "--out"]),
        ("--out b.json --seconds 0", &["--seconds", "between 0.001 and 600"]),
        ("--out b.json --size 64", &["32x32 pixels, not 64x64", "--size"]),
    ] {
        place.run(&format!("bench augment {line}")).refused(2, parts);
    }
    assert_eq!(place.files(""), ["a.json"]);
}

#[test]
fn views_are_drawn_on_a_sheet() {
    let place = Place::new();
    let said = place.run("augment synth --views 5 --out a.png --json --quiet").json();
    assert_eq!(said["draws"].as_array().unwrap().len(), 5, "{said}");
    assert_eq!((&said["size"], &said["largest_difference"]), (&serde_json::json!([32, 32]), &Value::Null));
    let sheet = image::load_from_memory(&place.read("a.png")).unwrap();
    assert!(sheet.width() > 640 && sheet.height() > 640, "the source is enlarged to 640 pixels");
    place.run("augment synth --views 5 --out b.png").done();
    assert!(place.read("a.png") == place.read("b.png"), "the same views are the same file");
    place.run("augment a.png --views 3 --size 64 --seed 1 --preset synth-tiny --out c.png").done();
    place.write("broken.png", &place.read("a.png")[..1000]);
    for (line, code, parts) in [
        ("augment synth --out absent/d.png", 1, &["cannot write absent/d.png", "--out"][..]),
        ("augment absent.png --out d.png", 1, &["absent.png"]),
        ("augment broken.png --out d.png", 1, &["broken.png"]),
        ("augment synth --views 0 --out d.png", 2, &["--views"]),
        ("augment synth --size 0 --out d.png", 2, &["--size"]),
        ("augment synth --preset nothing --out d.png", 2, &["nothing"]),
        ("augment synth --pipeline gpu --out d.png", 1, &["gpu pipeline", "wgpu"]),
    ] {
        place.run(line).refused(code, parts);
    }
    assert_eq!(place.files(""), ["a.png", "b.png", "broken.png", "c.png"]);
}

#[test]
fn the_sheet_compares_a_gpu_with_the_cpu() {
    let place = Place::new();
    let ran = place.run("augment synth --compare --views 6 --device wgpu --out a.png --json --quiet");
    if !ran.status.success() {
        let required = std::env::var_os("GABION_REQUIRE_GPU").is_some_and(|value| value == "1");
        assert!(!required, "GABION_REQUIRE_GPU=1 and {ran}");
        eprintln!("skipped: {ran}");
        return;
    }
    let said = ran.json();
    assert!(said["largest_difference"].as_f64().unwrap() <= 1.0 / 255.0, "{said}");
    assert_eq!(place.files(""), ["a.png"]);
}

#[test]
fn the_whole_way_from_pretraining_to_a_classified_picture() {
    let place = Place::new();
    let quiet = |line: &str| {
        let ran = place.run(&format!("{line} --quiet --json")).done();
        assert!(ran.stderr.is_empty(), "{ran}");
        ran.json()
    };
    let said = quiet(&format!("pretrain {FREE} --data synth --out run"));
    assert_eq!((&said["outcome"], &said["bundle"]), (&"finished".into(), &"run/bundle".into()));
    assert_eq!(said["last"]["step"], 23);

    for (head, more) in [
        ("knn", ""),
        ("robust", "--epochs 1"),
        ("alf", "--epochs 1 --steps 1 --images 1000"),
        ("patches", "--epochs 1 --views 2"),
        ("linear", "--epochs 2"),
    ] {
        let said = quiet(&format!("probe run --data synth --head {head} {more}"));
        let clean = &said["clean"];
        assert_eq!(clean["images"], 1000, "{said}");
        let [low, accuracy, high] = ["low", "accuracy", "high"].map(|key| clean[key].as_f64().unwrap());
        assert!(0.0 <= low && low <= accuracy && accuracy <= high && high <= 1.0, "{said}");
        assert_eq!(accuracy, clean["right"].as_f64().unwrap() / 1000.0, "{said}");
        if head != "knn" {
            assert_eq!((&said["recipe"]["head"], &said["head"]["kind"]), (&head.into(), &head.into()));
        }
    }
    evaluations(&place, &quiet);
    claims(&place, &quiet);
    full_fine_tuning(&place, &quiet);

    let manifest = quiet("export run --precision f16 --out small --name little");
    assert_eq!((&manifest["name"], &manifest["weights"]["precision"]), (&"little".into(), &"f16".into()));
    let lengths = ["run/bundle/model.safetensors", "small/model.safetensors"].map(|file| place.read(file).len());
    assert!(lengths[1] * 2 < lengths[0] + 40_000 && lengths[1] > lengths[0] / 3, "{lengths:?}");
    let inspected = quiet("inspect small");
    assert_eq!(inspected, manifest);
    assert_eq!(inspected["classes"][1], "ring");
    let shown = place.run("inspect run").done().stdout;
    for part in ["Resnet18", "32x32", "claim: clean", "synth test", &weights_hash(&place)] {
        assert!(shown.contains(part), "`{part}` is missing: {shown}");
    }

    let ring = image::RgbImage::from_fn(48, 40, |x, y| {
        let distance = (f64::from(x) - 24.0).hypot(f64::from(y) - 20.0);
        image::Rgb(if (10.0..15.0).contains(&distance) { [240, 60, 60] } else { [30, 40, 90] })
    });
    ring.save(place.path("ring.png")).unwrap();
    ring.save(place.path("ring.jpg")).unwrap();
    let said = quiet("classify small ring.png ring.jpg --views 8");
    assert_eq!(said.as_array().unwrap().len(), 2);
    for (one, name) in said.as_array().unwrap().iter().zip(["ring.png", "ring.jpg"]) {
        assert_eq!((&one["image"], &one["views"]), (&name.into(), &8.into()));
        let top = one["top"].as_array().unwrap();
        let probabilities: Vec<f64> = top.iter().map(|class| class["probability"].as_f64().unwrap()).collect();
        assert!(top.len() == 5 && probabilities.is_sorted_by(|a, b| a >= b), "{one}");
        assert!(top.iter().all(|class| inspected["classes"].as_array().unwrap().contains(&class["class"])), "{one}");
        assert!((0.0..=1.0).contains(&one["agreement"].as_f64().unwrap()), "{one}");
    }
    // The same seed, the same views.
    let top = |value: &Value| value[0]["top"].clone();
    assert_eq!(top(&said), top(&quiet("classify small ring.png --views 8")));
    assert!(place.run("classify small ring.png").done().stdout.contains("ring.png"));
}

/// The weights' hash, as `inspect` shows it.
fn weights_hash(place: &Place) -> String {
    let manifest: Value = serde_json::from_slice(&place.read("run/bundle/manifest.json")).unwrap();
    manifest["weights"]["sha256"].as_str().unwrap().to_string()
}

/// An encoder that moves goes into a bundle of its own, whose claims are about it.
fn full_fine_tuning(place: &Place, quiet: &dyn Fn(&str) -> Value) {
    let before = place.read("run/bundle/manifest.json");
    for (objective, more) in [("trades", ""), ("plain", "--objective plain")] {
        let line = format!(
            "probe run --data synth --head aff --epochs 1 --steps 1 --images 500 --out tuned/{objective} {more}"
        );
        let said = quiet(&line);
        assert_eq!((&said["bundle"], &said["head"]["kind"]), (&format!("tuned/{objective}").into(), &"aff".into()));
        let tuned = quiet(&format!("inspect tuned/{objective}"));
        assert_eq!(tuned["finetune"][0]["objective"]["kind"], objective, "{tuned}");
        assert_eq!(tuned["finetune"][0]["epsilon"], "8/255", "{tuned}");
        let claims = tuned["claims"].as_array().unwrap();
        assert_eq!(
            (claims.len(), &claims[0]["what"], &claims[0]["right"]),
            (1, &"clean".into(), &said["clean"]["right"])
        );
        let measured = quiet(&format!("evaluate tuned/{objective} --data synth --images 20 --epsilon 8/255"));
        assert_eq!(measured["bundle"]["head"]["recipe"]["head"], "aff", "{measured}");
        assert!(place.run(&format!("inspect tuned/{objective}")).done().stdout.contains("1 epochs"));
    }
    assert_eq!(place.read("run/bundle/manifest.json"), before);
    assert!(!String::from_utf8(before).unwrap().contains("finetune"), "only a moved encoder says so");
}

/// What was measured goes into the manifest when asked, once, and leaves the weights as they are.
fn claims(place: &Place, quiet: &dyn Fn(&str) -> Value) {
    let before = weights_hash(place);
    let claims = || {
        let manifest: Value = serde_json::from_slice(&place.read("run/bundle/manifest.json")).unwrap();
        manifest["claims"].as_array().unwrap().clone()
    };
    let had = claims().len();
    let line = "evaluate run --data synth --images 20 --epsilon 8/255 --claim";
    for _ in 0..2 {
        let said = quiet(line);
        let found = claims();
        let pgd = found.last().unwrap();
        assert_eq!(pgd["what"], "pgd-20 8/255");
        assert_eq!(pgd["right"], said["attacks"][0]["rate"]["right"]);
        assert_eq!(found.len(), had + 1, "{found:?}");
    }
    assert_eq!(weights_hash(place), before);
}

fn evaluations(place: &Place, quiet: &dyn Fn(&str) -> Value) {
    for (protocol, name, steps, restarts) in
        [("paper", "pgd-20", 20, 1), ("paper-2step", "pgd-2", 2, 1), ("strong", "pgd-50x5", 50, 5)]
    {
        let line = format!(
            "evaluate run --data synth --protocol {protocol} --images 20 --per-image {protocol}.csv \
             --save-adversarial {protocol}.safetensors"
        );
        let said = quiet(&line);
        assert_eq!((&said["protocol"], &said["images"]), (&protocol.into(), &20.into()), "{said}");
        assert_eq!((&said["data"], &said["bundle"]["head"]["kind"]), (&"synth".into(), &"linear".into()), "{said}");
        assert_eq!(said["command"], format!("gabion {} --quiet --json --device cpu", line), "{said}");
        assert_eq!(said["warnings"].as_array().unwrap().is_empty(), protocol != "paper-2step", "{said}");
        assert!(said.get("verdicts").is_none());
        let attacks = said["attacks"].as_array().unwrap();
        let budgets: Vec<&str> = attacks.iter().map(|attack| attack["epsilon"].as_str().unwrap()).collect();
        assert_eq!(budgets, ["4/255", "8/255", "16/255"]);
        let clean_right = said["clean"]["right"].as_u64().unwrap();
        for attack in attacks {
            assert_eq!((&attack["name"], &attack["attack"]["steps"]), (&name.into(), &steps.into()), "{attack}");
            assert_eq!(attack["attack"]["restarts"], restarts, "{attack}");
            assert!(attack["rate"]["right"].as_u64().unwrap() <= clean_right, "{attack}");
        }

        assert!(said["machine"]["cores"].as_u64() > Some(0) && said["versions"]["gabion"].is_string(), "{said}");

        // A row an image; its columns add up to the rates.
        let table = String::from_utf8(place.read(&format!("{protocol}.csv"))).unwrap();
        let mut rows = table.lines();
        let header = format!("index,label,predicted,clean,{name} 4/255,{name} 8/255,{name} 16/255");
        assert_eq!(rows.next(), Some(header.as_str()));
        let rows: Vec<Vec<u64>> =
            rows.map(|row| row.split(',').map(|number| number.parse().unwrap()).collect()).collect();
        assert_eq!(rows.len(), 20);
        let sum = |column: usize| rows.iter().map(|row| row[column]).sum::<u64>();
        assert_eq!(sum(3), clean_right);
        for (at, attack) in attacks.iter().enumerate() {
            assert_eq!(attack["rate"]["right"], sum(4 + at), "{attack}");
        }
        assert!(rows.iter().all(|row| row[3] == u64::from(row[1] == row[2])), "{table}");

        let bytes = place.read(&format!("{protocol}.safetensors"));
        adversarial(&SafeTensors::deserialize(&bytes).unwrap(), &rows);
    }
    assert!(place.files("").iter().all(|name| !name.contains(".tmp")));
}

/// The images lie in the unit box and in the budget around the clean ones, which are those of a budget that moved none.
fn adversarial(file: &SafeTensors<'_>, rows: &[Vec<u64>]) {
    let whole = |name: &str| -> Vec<u64> {
        let view = file.tensor(name).unwrap();
        view.data().as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect()
    };
    let column = |at: usize| rows.iter().map(|row| row[at]).collect::<Vec<_>>();
    assert_eq!((whole("index"), whole("label")), (column(0), column(1)));
    let budgets = [4.0f32, 8.0, 16.0].map(|levels| {
        let view = file.tensor(&format!("adversarial_{levels}_255")).unwrap();
        assert_eq!(view.shape(), [20, 3, 32, 32]);
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
        (levels / 255.0, values)
    });
    let [(small, first), .., (large, last)] = &budgets;
    let furthest = first.iter().zip(last).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest <= small + large + 1e-6, "{furthest} apart");
    // A wrong image stays as it is: levels of 8 bits, the same in every file.
    for (at, _) in rows.iter().enumerate().filter(|(_, row)| row[3] == 0) {
        let image = |values: &[f32]| values[at * 3072..][..3072].to_vec();
        assert_eq!(image(first), image(last));
        assert!(image(first).iter().all(|value| (value * 255.0 - (value * 255.0).round()).abs() < 1e-3));
    }
}
