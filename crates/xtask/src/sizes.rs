//! `sizes`: bytes of programs, and the packages that they are built of.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program to build.
struct Subject {
    name: &'static str,
    /// Of cargo, package and target.
    target: &'static [&'static str],
    features: &'static [&'static str],
    /// Below the target folder's `release`.
    file: &'static str,
    /// Whether Burn is part of it: a quarter of an hour where it is not there yet.
    burn: bool,
}

const CLASSIFY: &[&str] = &["-p", "gabion-runtime", "--example", "classify"];
const CLI: &[&str] = &["-p", "gabion"];

const SUBJECTS: [Subject; 5] = [
    Subject {
        name: "classify, CPU",
        target: CLASSIFY,
        features: &["--no-default-features"],
        file: "examples/classify",
        burn: false,
    },
    Subject {
        name: "classify, CPU and wgpu",
        target: CLASSIFY,
        features: &["--features", "wgpu"],
        file: "examples/classify",
        burn: true,
    },
    Subject {
        name: "classify, with training on the CPU",
        target: CLASSIFY,
        features: &["--features", "flex"],
        file: "examples/classify",
        burn: true,
    },
    Subject {
        name: "gabion without serve",
        target: CLI,
        features: &["--no-default-features", "--features", "flex,wgpu"],
        file: "gabion",
        burn: true,
    },
    Subject { name: "gabion", target: CLI, features: &[], file: "gabion", burn: true },
];

/// Builds and measures; programs with Burn in them only when `all`, each in the folder that the others use.
pub fn sizes(root: &Path, all: bool) -> Result<()> {
    println!("{:36} {:>12} {:>12} {:>9}", "program", "bytes", "stripped", "packages");
    for Subject { name, target, features, file, burn } in SUBJECTS {
        let packages = packages(root, target[1], features)?;
        if burn && !all {
            println!("{name:36} {:>12} {:>12} {packages:>9}", "not built", "");
            continue;
        }
        cargo(root, &[&["build", "--release"], target, features].concat())?;
        let built = folder(root).join("release").join(file);
        let bytes = std::fs::metadata(&built).with_context(|| format!("{} is not there", built.display()))?.len();
        let stripped = stripped(&built).map_or("no strip".into(), |bytes| bytes.to_string());
        println!("{name:36} {bytes:12} {stripped:>12} {packages:>9}");
    }
    if !all {
        println!("`sizes --all` builds the others too: Burn once for each set of features");
    }
    Ok(())
}

fn folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Packages that are linked into it, itself among them.
fn packages(root: &Path, package: &str, features: &[&str]) -> Result<usize> {
    let fixed = ["tree", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}", "-p", package];
    let tree = cargo(root, &[&fixed[..], features].concat())?;
    Ok(tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect::<BTreeSet<_>>()
        .len())
}

/// Bytes without symbols; none where there is no `strip`.
fn stripped(built: &Path) -> Option<u64> {
    let out = std::env::temp_dir().join(format!("gabion-stripped-{}", std::process::id()));
    let done = Command::new("strip").arg("-o").arg(&out).arg(built).status().ok()?.success();
    let bytes = std::fs::metadata(&out).ok().filter(|_| done).map(|file| file.len());
    // What is left in the folder of temporary files does no harm.
    let _ = std::fs::remove_file(&out);
    bytes
}
