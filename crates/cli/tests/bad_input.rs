//! What a user can get wrong: one line that says what and what to do, the right exit code, nothing half-written.

mod support;

use image::{DynamicImage, ImageFormat, Luma, LumaA, Rgb, Rgba};
use std::fs::OpenOptions;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::process::Stdio;
use support::{FREE, Place, run};

/// Wrong usage and failure.
const USAGE: i32 = 2;
const FAILED: i32 = 1;

#[test]
fn a_recipe_that_makes_no_sense_is_named() {
    let place = Place::new();
    place.write("broken.toml", "epochs = = 3\n[");
    place.write("typed.toml", "epochs = \"three\"\n");
    place.write("empty.toml", "");
    let simclr = "--preset synth-tiny --set loss.kind=sim-clr loss.temperature=0.5";
    for (arguments, code, parts) in [
        ("--preset synth-tyni", USAGE, &["`synth-tyni`", "did you mean `synth-tiny`?"][..]),
        ("--preset synth-tiny --set epoch=3", USAGE, &["does not know `epoch`", "did you mean `epochs`?"]),
        ("--preset synth-tiny --set threat.replay=3", USAGE, &["`replay`", "did you mean `replays`?"]),
        ("--preset synth-tiny --set encoder.depth=resnet32", USAGE, &["`resnet32`", "did you mean `resnet34`?"]),
        ("--preset synth-tiny --set arithmetic=f16", USAGE, &["`f16`", "did you mean `bf16`?"]),
        ("--preset synth-tiny --set epochs", USAGE, &["`epochs` is not a setting", "key=value"]),
        ("--preset synth-tiny --set epochs=many", USAGE, &["preset synth-tiny", "many"]),
        (simclr, USAGE, &["`views`", "exactly 2 views, not 4"]),
        ("--preset synth-tiny --set views=0", USAGE, &["`views`", "at least one view"]),
        ("--preset synth-tiny --set views=-1", USAGE, &["-1"]),
        ("--preset synth-tiny --set threat.epsilon=-1/255", USAGE, &["`-1/255` is not a pixel budget", "8/255"]),
        ("--preset synth-tiny --set threat.epsilon=256/255", USAGE, &["`256/255` is not a pixel budget"]),
        ("--preset synth-tiny --set threat.epsilon=1/0", USAGE, &["`1/0` is not a pixel budget"]),
        ("--preset synth-tiny --set images=32 batch=64", USAGE, &["32 images do not fill one batch of 64"]),
        ("--preset synth-tiny --set images=none batch=6000", FAILED, &["batch of 6000", "5000", "set batch=5000"]),
        ("--preset synth-tiny --set images=6000", FAILED, &["wants 6000 images", "set images=5000"]),
        ("--recipe broken.toml", USAGE, &["broken.toml is not TOML", "line 1"]),
        ("--recipe typed.toml", USAGE, &["typed.toml", "three"]),
        ("--recipe empty.toml", USAGE, &["empty.toml", "missing field"]),
        ("--recipe absent.toml", USAGE, &["cannot read the recipe absent.toml", "check the path"]),
        ("--recipe .", USAGE, &["cannot read the recipe ."]),
        ("--recipe empty.toml --preset synth-tiny", USAGE, &["cannot be used with"]),
        ("", USAGE, &["no recipe", "--list-presets"]),
        ("--preset synth-tiny --checkpoint-every 0", USAGE, &["--checkpoint-every"]),
    ] {
        place.run(&format!("pretrain {arguments} --data synth --out run")).refused(code, parts);
        assert!(!place.path("run").exists(), "{arguments}: a run folder was made");
    }
}

#[test]
fn no_data_no_device_no_folder() {
    let place = Place::new();
    place.write("file", "");
    for (line, code, parts) in [
        (format!("pretrain {FREE} --out run"), USAGE, &["no data", "--data synth", "GABION_DATA"][..]),
        (format!("pretrain {FREE} --data absent --out run"), FAILED, &["cannot read absent"]),
        (format!("pretrain {FREE} --data . --out run"), FAILED, &["holds no data set", "data_batch_1.bin"]),
        (format!("pretrain {FREE} --data synth"), USAGE, &["--out"]),
        (format!("pretrain {FREE} --data synth --out run --device gpu"), USAGE, &["no device `gpu`", "cpu"]),
        (format!("pretrain {FREE} --data synth --out file/run"), FAILED, &["cannot make the folder file/run"]),
        ("evaluate absent --data synth".into(), FAILED, &["absent/manifest.json is missing", "bundle"]),
        ("inspect file".into(), FAILED, &["file/manifest.json"]),
        ("data verify .".into(), FAILED, &["holds no data set"]),
        ("demo --out .".into(), FAILED, &["."]),
        ("bench forward --batch 0".into(), USAGE, &["--batch"]),
        ("bench forward --steps 0".into(), USAGE, &["--steps"]),
        ("pretend".into(), USAGE, &["pretend"]),
    ] {
        place.run(&line).refused(code, parts);
        assert_eq!(place.files(""), ["file"], "{line}");
    }
    assert!(!place.path("run").exists());
}

#[test]
fn fine_tuning_that_could_not_be_kept_is_refused_before_it_starts() {
    let place = Place::new();
    place.write("file", "");
    for (arguments, parts) in [
        ("aff", &["new bundle", "--out DIR"][..]),
        ("aff --out file", &["file exists", "--out"]),
        ("aff --out .", &[". exists", "--out"]),
        ("aff --out file/new", &["file is no folder", "--out"]),
        ("alf --out new", &["--out is for --head aff"]),
        ("linear --objective plain", &["--objective", "aff"]),
        ("robust --images 50", &["--images", "aff"]),
        ("aff --out new --batch 1", &["`batch`", "at least 2"]),
        ("aff --out new --steps 0", &["--steps"]),
        ("aff --out new --objective best", &["best", "--objective"]),
        ("alf --epsilon 9", &["9"]),
    ] {
        place.run(&format!("probe absent --data synth --head {arguments}")).refused(USAGE, parts);
    }
    assert_eq!(place.files(""), ["file"]);
}

/// CIFAR-10 of zeros, whose files hold no block of the disk.
fn cifar(place: &Place, name: &str, length: u64) -> std::fs::File {
    let path = place.path(&format!("cifar/{name}"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    file.set_len(length).unwrap();
    file
}

#[test]
fn damaged_data_files_are_named() {
    const LENGTH: u64 = 30_730_000;
    let place = Place::new();
    std::fs::create_dir(place.path("cifar")).unwrap();
    for number in 1..=5 {
        cifar(&place, &format!("data_batch_{number}.bin"), LENGTH);
    }
    let refused = |parts: &[&str]| {
        place.run(&format!("pretrain {FREE} --data cifar --out run")).refused(FAILED, parts);
        assert!(!place.path("run").exists());
    };
    refused(&["cifar/test_batch.bin is missing", "fetch the data set again"]);
    cifar(&place, "test_batch.bin", LENGTH - 1);
    refused(&["cifar/test_batch.bin has 30729999 bytes instead of 30730000"]);
    cifar(&place, "test_batch.bin", LENGTH + 1);
    refused(&["cifar/test_batch.bin has 30730001 bytes instead of 30730000"]);
    cifar(&place, "test_batch.bin", 1 << 40);
    refused(&["cifar/test_batch.bin has 1099511627776 bytes"]);
    let mut file = cifar(&place, "test_batch.bin", LENGTH);
    file.seek(SeekFrom::Start(3 * 3073)).and_then(|_| file.write_all(&[10])).unwrap();
    refused(&["cifar/test_batch.bin: image 3 has label 10, but there are 10 classes"]);
    let ran = place.run("data verify cifar").refused(FAILED, &["6 files are not as published"]);
    assert!(ran.stdout.contains("wrong SHA-256"), "{ran}");
}

/// The first two chunks of a PNG, which say its size and that pixels follow.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
        })
    };
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        let body = [kind, data].concat();
        [&length[..], &body, &crc(&body).to_be_bytes()].concat()
    };
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&size[..], &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 0x01])].concat()
}

fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn odd_pictures_are_classified_and_broken_ones_named() {
    let place = Place::new();
    place.classifier();
    let (wide, tall) = ((40, 24), (24, 40));
    place.write("one.png", png(image::RgbImage::from_pixel(1, 1, Rgb([9, 99, 199]))));
    place.write("row.png", png(image::RgbImage::from_pixel(500, 1, Rgb([9, 99, 199]))));
    place.write("grey.png", png(image::GrayImage::from_fn(wide.0, wide.1, |x, y| Luma([(x * y) as u8]))));
    place.write("alpha.png", png(image::RgbaImage::from_fn(tall.0, tall.1, |x, y| Rgba([1, 2, x as u8, y as u8]))));
    place.write("clear.png", png(image::GrayAlphaImage::from_pixel(tall.0, tall.1, LumaA([7, 0]))));
    let deep = image::ImageBuffer::from_fn(wide.0, wide.1, |x, y| Rgb([x as u16 * 999, y as u16 * 999, 65_535]));
    place.write("deep.png", png(DynamicImage::ImageRgb16(deep)));
    let deep = image::ImageBuffer::from_fn(wide.0, wide.1, |x, y| Luma([(x * y) as u16 * 9]));
    place.write("deep-grey.png", png(DynamicImage::ImageLuma16(deep)));
    let odd = "one.png row.png grey.png alpha.png clear.png deep.png deep-grey.png";
    for views in [1, 2] {
        let said = place.run(&format!("classify run {odd} --views {views} --json")).json();
        let said = said.as_array().unwrap();
        assert_eq!(said.len(), 7);
        for one in said {
            let probability = one["top"][0]["probability"].as_f64().unwrap();
            assert!((0.1..=1.0).contains(&probability), "{one}");
        }
    }

    place.write("text.png", "this is not a picture\nbut two lines");
    place.write("empty.png", "");
    place.write("cut.png", &place.read("grey.png")[..60]);
    place.write("huge.png", png_header(20_000, 20_000));
    for (picture, parts) in [
        ("text.png", &["text.png"][..]),
        ("empty.png", &["empty.png"]),
        ("cut.png", &["cut.png"]),
        ("huge.png", &["huge.png is 20000x20000, above the limit", "make it smaller"]),
        ("absent.png", &["absent.png"]),
        ("run", &["run"]),
    ] {
        place.run(&format!("classify run {picture}")).refused(FAILED, parts);
        // A broken one does not keep the others from being classified.
        let ran = place.run(&format!("classify run {picture} one.png --json")).refused(FAILED, parts);
        let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(said.as_array().unwrap().len(), 1, "{ran}");
    }
    place.run("classify run one.png --views 0").refused(USAGE, &["--views"]);
    place.run("classify run one.png --views 4097").refused(USAGE, &["--views"]);
    place.run("classify run").refused(USAGE, &["required"]);
    damaged_bundles(&place);
}

/// Of a run with a head.
fn damaged_bundles(place: &Place) {
    let (manifest, weights) = (place.read("run/bundle/manifest.json"), place.read("run/bundle/model.safetensors"));
    let bundle = |manifest: &[u8], weights: &[u8]| {
        place.write("bad/manifest.json", manifest);
        place.write("bad/model.safetensors", weights);
    };
    let refused = |parts: &[&str]| {
        for line in ["inspect bad", "classify bad one.png", "evaluate bad --data synth", "export bad --out out"] {
            place.run(line).refused(FAILED, parts);
            assert!(!place.path("out").exists());
        }
    };
    let mut flipped = weights.clone();
    *flipped.last_mut().unwrap() ^= 1;
    bundle(&manifest, &flipped);
    refused(&["bad/model.safetensors has SHA-256", "its manifest says"]);
    bundle(&manifest, &weights[..weights.len() / 2]);
    refused(&["bad/model.safetensors has", "cut short"]);
    bundle(&manifest[..manifest.len() / 2], &weights);
    refused(&["bad/manifest.json is not a bundle's manifest"]);
}

#[test]
fn an_evaluation_that_cannot_be_written_is_refused_before_it_runs() {
    let place = Place::new();
    place.run(&format!("pretrain {FREE} --data synth --out run")).done();
    place.write("one.png", png(image::RgbImage::new(8, 8)));
    place.run("classify run one.png").refused(FAILED, &["has no classifier", "gabion probe"]);
    place.run("evaluate run --data synth").refused(FAILED, &["gabion probe"]);
    place.run("probe run --data synth --head knn --epsilon=-1/255").refused(USAGE, &["`-1/255`", "8/255"]);
    place.run("probe run --data synth --head linear --rate nan").refused(USAGE, &["--rate", "above 0"]);
    place.run("probe run --data synth --head best").refused(USAGE, &["best"]);
    place.run("probe run --data synth --head linear --epochs 1").done();

    let evaluate = "evaluate run --data synth --images 10 --epsilon 8/255";
    let line = |more: &str| format!("{evaluate} {more}");
    for (more, parts) in [
        ("--epsilon=-1/255", &["`-1/255` is not a pixel budget"][..]),
        ("--epsilon -1/255", &["-1"]),
        ("--epsilon 8", &["`8` is not a pixel budget"]),
        ("--images 0", &["--images"]),
        ("--batch 0", &["--batch"]),
        ("--protocol weak", &["weak"]),
        ("--per-image absent/a.csv", &["absent is no folder"]),
        ("--save-adversarial one.png/a.safetensors", &["one.png is no folder"]),
        ("--per-image run", &["run is not a regular file"]),
    ] {
        let before = place.files("");
        place.run(&line(more)).refused(USAGE, parts);
        assert_eq!(place.files(""), before, "{more}");
    }
    if !cfg!(target_os = "linux") {
        println!("skipped: no /dev/full and no file limit here");
        return;
    }
    // Renaming a file onto the device would replace it.
    place.run(&line("--per-image /dev/full")).refused(USAGE, &["/dev/full is not a regular file"]);

    // Standard output that takes nothing.
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    for line in ["inspect run", "devices", evaluate] {
        let mut command = place.command(line);
        let (out, path) = (command.stdin(Stdio::null()).stdout(full()), place.path("stderr"));
        let child = out.stderr(std::fs::File::create(&path).unwrap()).spawn().unwrap();
        assert_eq!(support::wait(line, child).code(), Some(FAILED), "{line}");
        let said = std::fs::read_to_string(&path).unwrap();
        assert!(said.lines().last().unwrap().starts_with("error: No space left on device"), "{line}: {said}");
        std::fs::remove_file(path).unwrap();
    }

    // Files that cannot grow: the numbers are printed, no part of a file is left.
    let before = place.files("");
    let line = line("--json --save-adversarial a.safetensors");
    let ran = run(&line, place.limited("trap '' XFSZ; ulimit -f 16", &line));
    let ran = ran.refused(FAILED, &["a.safetensors"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()["images"], 10);
    assert_eq!(place.files(""), before);
    let line = "export run --out out";
    run(line, place.limited("trap '' XFSZ; ulimit -f 16", line)).refused(FAILED, &["cannot write the bundle out"]);
    assert_eq!(place.files(""), before);
}

#[test]
fn an_instruction_set_that_is_not_there_is_named() {
    for (level, parts) in [("sse9", ["GABION_LEVEL", "portable"]), ("", ["flex", "cpu"])] {
        let run =
            std::process::Command::new(env!("CARGO_BIN_EXE_gabion")).arg("devices").env("GABION_LEVEL", level).output();
        let run = run.expect("the binary starts");
        let said = String::from_utf8_lossy(if level.is_empty() { &run.stdout } else { &run.stderr }).to_lowercase();
        assert_eq!(run.status.code(), Some(if level.is_empty() { 0 } else { USAGE }), "{said}");
        assert!(parts.iter().any(|part| said.contains(&part.to_lowercase())), "{said}");
    }
}
