//! Adapted weights listed, rolled back, and served only where the signature that is required allows it.

mod support;

use gabion_runtime::{Origin, Source, Stored, Trust, generations};
use gabion_spec::Precision;
use image::RgbImage;
use serde_json::json;
use std::path::Path;
#[cfg(feature = "serve")]
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
    time::{Duration, Instant},
};
use support::Place;

const USAGE: i32 = 2;
const FAILED: i32 = 1;

/// A folder with the committed bundle, a picture, and a key pair.
fn place() -> Place {
    let place = Place::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cifar10-small");
    for name in ["manifest.json", "model.safetensors"] {
        place.write(&format!("bundle/{name}"), std::fs::read(model.join(name)).unwrap());
    }
    RgbImage::from_pixel(32, 32, image::Rgb([200, 30, 60])).save(place.path("red.png")).unwrap();
    place.run("keygen --out author.key").done();
    place
}

fn adapt(place: &Place, parent: Source) {
    let bundle = place.path("bundle");
    let base = generations::open(&bundle, &Trust::Any, Stored::read).unwrap().origin.base;
    let origin = Origin { source: parent, base };
    generations::write(&bundle, &Trust::Any, &origin, |dir| Stored::read(&bundle)?.write(dir, Precision::F16)).unwrap();
}

#[test]
fn adapted_weights_are_listed_served_and_withdrawn() {
    let place = place();
    let listed = |expected: serde_json::Value| {
        let listed = place.run("generations bundle --json").json();
        let listed: Vec<_> =
            listed.as_array().unwrap().iter().map(|row| json!([row["number"], row["state"]])).collect();
        assert_eq!(json!(listed), expected);
    };
    listed(json!([[0, "served"]]));
    let ran = place.run("rollback bundle").done();
    assert!(ran.stdout.contains("serves base; nothing was withdrawn"), "{ran}");
    adapt(&place, Source::Base);
    adapt(&place, Source::Generation(1));
    listed(json!([[2, "served"], [1, "kept"], [0, "kept"]]));
    let ran = place.run("classify bundle red.png").done();
    assert!(ran.stderr.contains("weights: generation 2"), "{ran}");
    // A damaged one is passed over, aloud.
    let path = "bundle/generations/000002/model.safetensors";
    let mut bytes = place.read(path);
    *bytes.last_mut().unwrap() ^= 1;
    place.write(path, bytes);
    let ran = place.run("classify bundle red.png").done();
    assert!(ran.stderr.contains("generation 2 is passed over") && ran.stderr.contains("SHA-256"), "{ran}");
    assert!(ran.stderr.contains("weights: generation 1"), "{ran}");
    listed(json!([[2, "faulty"], [1, "served"], [0, "kept"]]));
    assert!(place.run("classify bundle red.png --quiet").done().stderr.is_empty());
    place.run("rollback bundle --to 2").refused(FAILED, &["generation 2 cannot be served", "SHA-256"]);
    place.run("rollback bundle --to 7").refused(FAILED, &["generation 7", "not there"]);
    place.run("rollback bundle --to best").refused(USAGE, &["best", "base"]);
    place.run("rollback bundle --to 0").refused(USAGE, &["base"]);
    place.run("rollback absent").refused(USAGE, &["absent is not a folder"]);
    let rolled = place.run("rollback bundle --to base --json").json();
    assert_eq!(rolled, json!({ "to": 0, "withdrawn": [2, 1] }));
    let ran = place.run("classify bundle red.png").done();
    assert!(!ran.stderr.contains("weights:"), "{ran}");
    let table = place.run("generations bundle").done().stdout;
    assert!(table.contains("withdrawn") && table.contains("base"), "{table}");
}

/// A server that ends with its test.
#[cfg(feature = "serve")]
struct Serving(std::process::Child, String);

#[cfg(feature = "serve")]
impl Serving {
    fn of(place: &Place, line: &str) -> Self {
        let mut command = place.command(line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.trim().strip_prefix("http://").unwrap_or_else(|| panic!("{said}")).into();
        Self(child, address)
    }

    /// The answer to a request that succeeds.
    fn ask(&self, request: &str, body: &[u8]) -> serde_json::Value {
        let mut stream = TcpStream::connect(&self.1).unwrap();
        let length = body.len();
        write!(stream, "{request} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
            .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{request}: {answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

#[cfg(feature = "serve")]
impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[cfg(feature = "serve")]
#[test]
fn a_rollback_beside_a_server_is_served_soon_and_no_request_fails() {
    let place = place();
    let bundle = place.path("bundle");
    let mut other = Stored::read(&bundle).unwrap();
    other.tensors.get_mut("head.bias").unwrap().values[3] += 100.0;
    let base = generations::open(&bundle, &Trust::Any, Stored::read).unwrap().origin;
    generations::write(&bundle, &Trust::Any, &base, |dir| other.write(dir, Precision::F32)).unwrap();
    let serving = Serving::of(&place, "serve bundle --listen 127.0.0.1:0");
    let picture = place.read("red.png");
    let seen = || {
        let said = serving.ask("POST /classify?views=2", &picture);
        (said["generation"].as_u64().unwrap(), said["label"].as_str().unwrap().to_string())
    };
    assert_eq!(seen(), (1, "cat".into()));
    assert_eq!(serving.ask("GET /health", b"")["generation"], 1);
    place.run("rollback bundle").done();
    let start = Instant::now();
    // Every one is answered, by the one or by the other.
    let label = loop {
        let (generation, label) = seen();
        assert_eq!(generation == 1, label == "cat");
        if generation == 0 {
            break label;
        }
        // About a second is promised; the machine may be busy.
        assert!(start.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(serving.ask("GET /health", b"")["generation"], 0);
    let classified = place.run("classify bundle red.png --views 2 --json").json();
    assert_eq!(classified[0]["top"][0]["class"], label.as_str());
}

#[test]
fn a_signature_that_is_required_decides() {
    let place = place();
    let required =
        |key: &str, more: &str| place.run(&format!("classify bundle red.png --require-signature {key} {more}"));
    required("author.key.pub", "").refused(FAILED, &["manifest.sig is missing", "gabion sign"]);
    let signed = place.run("sign bundle --key author.key --json").json();
    required("author.key.pub", "").done();
    required(signed["key"].as_str().unwrap(), "").done();
    place.run("keygen --out other.key").done();
    required("other.key.pub", "")
        .refused(FAILED, &["manifest.sig", "was made with the key", signed["id"].as_str().unwrap()]);
    // What a device adapted is signed by nobody.
    adapt(&place, Source::Base);
    let ran = required("author.key.pub", "").done();
    assert!(ran.stderr.contains("generation 1 is passed over") && !ran.stderr.contains("weights:"), "{ran}");
    let ran = required("author.key.pub", "--local-generations").done();
    assert!(ran.stderr.contains("weights: generation 1"), "{ran}");
    let listed = place.run("generations bundle --json --require-signature author.key.pub").json();
    assert_eq!((&listed[0]["state"], &listed[1]["state"]), (&json!("faulty"), &json!("served")));
    // Nothing is trained that nobody would be served.
    place
        .run("adapt bundle --samples absent --require-signature author.key.pub")
        .refused(FAILED, &["signed by nobody", "--local-generations"]);
    place.run("rollback bundle --require-signature other.key.pub").refused(FAILED, &["was made with the key"]);
    #[cfg(feature = "candle")]
    {
        required("other.key.pub", "--engine candle").refused(FAILED, &["was made with the key"]);
        let ran = required("author.key.pub", "--engine candle").done();
        assert!(ran.stderr.contains("generation 1 is passed over"), "{ran}");
    }
    // A manifest that says more than was signed.
    let text = String::from_utf8(place.read("bundle/manifest.json")).unwrap().replace("airplane", "tank");
    place.write("bundle/manifest.json", text);
    required("author.key.pub", "--local-generations").refused(FAILED, &["is not of this manifest"]);
    place.run("classify bundle red.png").done();
}

#[test]
fn keys_are_not_mixed_up_or_overwritten() {
    let place = place();
    place.run("keygen --out author.key").refused(USAGE, &["author.key.pub exists"]);
    std::fs::remove_file(place.path("author.key.pub")).unwrap();
    place.run("keygen --out author.key").refused(FAILED, &["cannot write author.key"]);
    assert!(!place.path("author.key.pub").exists());
    place.run("sign bundle --key absent").refused(FAILED, &["cannot read the key absent"]);
    place.run("sign bundle --key red.png").refused(FAILED, &["red.png is not a secret key", "gabion keygen"]);
    place.run("sign absent --key author.key").refused(FAILED, &["absent/manifest.json is missing"]);
    for (key, parts) in
        [("author.key", &["not a public key", "the secret one"][..]), ("absent", &["cannot read the key absent"])]
    {
        place.run(&format!("classify bundle red.png --require-signature {key}")).refused(USAGE, parts);
    }
    place.run("classify bundle red.png --local-generations").refused(USAGE, &["--require-signature"]);
    // What is not whole is not signed.
    place.write("bundle/model.safetensors", b"short");
    place.run("sign bundle --key author.key").refused(FAILED, &["SHA-256"]);
}
