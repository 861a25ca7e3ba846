//! The interface as C, C++ and Python see it: the examples and a program of mistakes, compiled without a warning, run
//! under valgrind without an error or a leak. What is missing on a machine (cc, c++, valgrind, python3) is said aloud and
//! left out.

use gabion_runtime::{BundleError, Classify, Rgb, Session, Stored, Tensor};
use gabion_spec::{Input, Misfit, Precision, Projector};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn bundle() -> PathBuf {
    here().join("../../models/cifar10-small")
}

/// A bundle of a small network: valgrind takes long to hash a real one.
fn small(dir: &Path) -> PathBuf {
    let mut manifest = Stored::read(&bundle()).unwrap().manifest;
    manifest.encoder.width = 2;
    manifest.projector = Projector { hidden: 6, output: 3 };
    manifest.input = Input { height: 12, width: 12 };
    let mut stored = Stored { manifest, tensors: BTreeMap::new() };
    let to = dir.join("bundle");
    // The writer says which tensors a manifest implies.
    loop {
        match stored.write(&to, Precision::F32) {
            Ok(_) => return to,
            Err(BundleError::Tensor { misfit: Misfit::Missing { name }, .. }) => {
                stored.tensors.insert(name, Tensor { shape: Vec::new(), values: Vec::new() });
            }
            Err(BundleError::Tensor { misfit: Misfit::Shape { name, expected, .. }, .. }) => {
                let value = |at: usize| 0.1 + ((at * 7919 + name.len() * 31) % 97) as f32 / 97.0 - 0.4;
                let values = (0..expected.iter().product()).map(value).map(|value: f32| value.abs()).collect();
                stored.tensors.insert(name, Tensor { shape: expected, values });
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Where cargo put the libraries that belong to this test.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().into()
}

/// Whether a program can be started.
fn there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: no {program} on this machine");
    }
    found
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Compiles a program against the shared library.
fn shared(source: &str, to: &Path) {
    run(Command::new("cc")
        .args(["-std=c11", "-g", "-O1"])
        .args(STRICT)
        .arg("-I")
        .arg(here().join("include"))
        .arg(here().join(source))
        .args(["-D_POSIX_C_SOURCE=200809L", "-pthread", "-o"])
        .arg(to)
        .arg("-L")
        .arg(libraries())
        .arg("-lgabion_c")
        .arg(format!("-Wl,-rpath,{}", libraries().display())));
}

/// A command under valgrind, where there is one.
fn checked(program: &Path) -> Command {
    static VALGRIND: OnceLock<bool> = OnceLock::new();
    if !*VALGRIND.get_or_init(|| there("valgrind")) {
        return Command::new(program);
    }
    let mut command = Command::new("valgrind");
    let suppressed = here().join("tests/valgrind.supp");
    command.args(["--quiet", "--leak-check=full", "--error-exitcode=99"]);
    command.arg(format!("--suppressions={}", suppressed.display())).arg(program);
    command
}

/// A picture of stripes and a disc.
fn picture(dir: &Path) -> PathBuf {
    let path = dir.join("drawn.png");
    let pixel = |x: u32, y: u32| {
        let (dx, dy) = (x.abs_diff(30), y.abs_diff(20));
        if dx * dx + dy * dy < 200 { [230, 180, 40] } else { [(x * 4) as u8, (y / 8 * 40) as u8, 90] }
    };
    image::RgbImage::from_fn(60, 44, |x, y| image::Rgb(pixel(x, y))).save(&path).unwrap();
    path
}

/// What the runtime itself says.
fn expected(picture: &Path, views: u32) -> Vec<f32> {
    let session = Session::open(&bundle()).unwrap();
    let options = Classify { views, ..Classify::default() };
    session.classify(&Rgb::open(picture).unwrap(), &options).unwrap().probabilities
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    // Other instruction sets round otherwise.
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?}, {expected:?}");
}

#[test]
fn the_classify_example_says_what_the_runtime_says() {
    if !there("cc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (program, picture) = (dir.path().join("classify"), picture(dir.path()));
    shared("examples/classify.c", &program);
    for views in [1, 4] {
        let output = run(checked(&program).arg(bundle()).arg(&picture).arg(views.to_string()));
        let text = String::from_utf8(output.stdout).unwrap();
        let found: Vec<f32> =
            text.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
        close(&found, &expected(&picture, views));
    }
    let drawn = run(Command::new(&program).arg(bundle()));
    assert!(String::from_utf8(drawn.stdout).unwrap().starts_with("gabion-cifar10-small: "));
    let missing = Command::new(&program).args(["nowhere", "x.png"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("GABION_ERROR_BUNDLE"));
}

#[test]
fn the_adapt_example_ends_as_it_should() {
    if !there("cc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("adapt");
    shared("examples/adapt.c", &program);
    let output = checked(&program).arg(small(dir.path())).arg("1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("GABION_ERROR_UNSUPPORTED") && said.contains("feature `adapt`"), "{said}");
}

/// Linked statically, so that this library is tried as well.
#[test]
fn mistakes_are_told_and_threads_share_a_session() {
    if !there("cc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("misuse");
    run(Command::new("cc")
        .args(["-std=c11", "-g", "-O1", "-D_POSIX_C_SOURCE=200809L"])
        .args(STRICT)
        .arg("-I")
        .arg(here().join("include"))
        .arg(here().join("tests/misuse.c"))
        .arg(libraries().join("libgabion_c.a"))
        .args(["-pthread", "-ldl", "-lm", "-o"])
        .arg(&program));
    run(checked(&program).arg(small(dir.path())).arg(picture(dir.path())));
}

#[test]
fn the_header_is_clean_in_c_and_in_c_plus_plus() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("use.c");
    std::fs::write(&source, "#include <gabion.h>\nint main(void) { return gabion_check_abi(GABION_ABI_VERSION); }\n")
        .unwrap();
    for (compiler, language, standards) in
        [("cc", "c", ["c11", "c17"]), ("c++", "c++", ["c++11", "c++17"]), ("clang", "c", ["c11", "c2x"])]
    {
        for standard in standards.into_iter().filter(|_| there(compiler)) {
            run(Command::new(compiler)
                .args(["-fsyntax-only", "-x", language, &format!("-std={standard}")])
                .args(STRICT)
                .arg("-I")
                .arg(here().join("include"))
                .arg(&source));
        }
    }
}

#[test]
fn the_shared_library_shows_its_own_names_only() {
    let library = libraries().join("libgabion_c.so");
    if !library.exists() || !there("nm") {
        return;
    }
    let output = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    // Bounds of sections, which the linker adds where a build of the whole workspace has put Burn below the runtime.
    names.retain(|name| !name.starts_with("__start_") && !name.starts_with("__stop_"));
    names.sort_unstable();
    assert!(names.iter().all(|name| name.starts_with("gabion_")), "{names:?}");
    let header = std::fs::read_to_string(here().join("include/gabion.h")).unwrap();
    assert!(names.iter().all(|name| header.contains(&format!("{name}("))), "{names:?}");
    assert_eq!(names.len(), 16, "{names:?}");
}

#[test]
fn python_says_what_the_runtime_says() {
    let library = libraries().join("libgabion_c.so");
    if !library.exists() || !there("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let picture = picture(dir.path());
    let run = |bundle: &OsStr| {
        let script = here().join("examples/classify.py");
        Command::new("python3").arg(script).arg(&library).arg(bundle).arg(&picture).arg("3").output().unwrap()
    };
    let output = run(bundle().as_os_str());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers = text.split_once("\"probabilities\": [").unwrap().1.trim_end().trim_end_matches("]}");
    let found: Vec<f32> = numbers.split(", ").map(|number| number.parse().unwrap()).collect();
    close(&found, &expected(&picture, 3));
    let missing = run(OsStr::new("nowhere"));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("manifest.json is missing"));
}

/// As the README says: installed, found by pkg-config, and the README's own program.
#[test]
fn the_readmes_program_builds_against_an_installation() {
    if !there("cc") || !there("pkg-config") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("prefix");
    run(Command::new("sh").arg(here().join("install.sh")).arg(&prefix).arg(libraries()));
    let flags = run(Command::new("pkg-config")
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .args(["--cflags", "--libs", "gabion"]));
    let readme = std::fs::read_to_string(here().join("README.md")).unwrap();
    let (program, source) = (dir.path().join("smallest"), dir.path().join("smallest.c"));
    std::fs::write(&source, readme.split("```c\n").nth(1).unwrap().split("```").next().unwrap()).unwrap();
    run(Command::new("cc")
        .args(["-std=c11"])
        .args(STRICT)
        .arg(&source)
        .args(String::from_utf8(flags.stdout).unwrap().split_whitespace())
        .arg("-o")
        .arg(&program));
    let path = picture(dir.path());
    std::fs::rename(path, dir.path().join("frog.png")).unwrap();
    std::fs::create_dir(dir.path().join("models")).unwrap();
    std::fs::rename(small(dir.path()), dir.path().join("models/cifar10-small")).unwrap();
    let output = run(Command::new(&program).current_dir(dir.path()).env("LD_LIBRARY_PATH", prefix.join("lib")));
    assert_eq!(String::from_utf8(output.stdout).unwrap().split_whitespace().count(), 2);
}
