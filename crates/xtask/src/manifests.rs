//! Rules over manifests, as cargo resolves them.

use crate::Finding;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The rooms, each with what it may depend on.
const ARROWS: [(&str, &[&str]); 12] = [
    ("gabion-spec", &[]),
    ("gabion-kernels", &[]),
    ("gabion-augment", &["gabion-spec"]),
    ("gabion-corrupt", &[]),
    ("gabion-learn", &["gabion-kernels", "gabion-spec"]),
    ("gabion-runtime", &["gabion-augment", "gabion-kernels", "gabion-learn", "gabion-spec"]),
    ("gabion-serve", &["gabion-runtime", "gabion-spec"]),
    ("gabion-experiment", &["gabion-augment", "gabion-corrupt", "gabion-learn", "gabion-runtime", "gabion-spec"]),
    (
        "gabion",
        &["gabion-augment", "gabion-experiment", "gabion-learn", "gabion-runtime", "gabion-serve", "gabion-spec"],
    ),
    ("gabion-capi", &["gabion-runtime", "gabion-spec"]),
    ("firmware-host", &["gabion-runtime", "gabion-spec"]),
    ("xtask", &[]),
];

/// Rooms that know no tensor.
const ON_SLICES: [&str; 3] = ["gabion-augment", "gabion-corrupt", "gabion-kernels"];

/// Features of Burn and of rooms here that put a backend into the build.
const BACKENDS: [&str; 8] = ["cpu", "cuda", "flex", "metal", "rocm", "vulkan", "webgpu", "wgpu"];
/// Who may name any of them.
const MAY_NAME_BACKENDS: [&str; 5] = ["gabion", "gabion-capi", "gabion-runtime", "gabion-tests", "firmware-host"];

fn cargo(root: &Path, arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The workspace's packages as cargo reads them.
pub fn metadata(root: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&cargo(root, &["metadata", "--format-version", "1", "--no-deps"])?)?)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or("")
}

/// What a package needs to be built, its tests aside.
fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    list(&package["dependencies"]).filter(|dependency| dependency["kind"] != "dev")
}

/// Rooms depend on the rooms below them.
pub fn arrows_point_down(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rooms: BTreeSet<&str> = list(&metadata["packages"]).map(name).collect();
    for package in list(&metadata["packages"]) {
        // Tests may look into every room.
        let Some((_, below)) = ARROWS.iter().find(|(room, _)| *room == name(package)) else { continue };
        for dependency in dependencies(package).map(name) {
            if rooms.contains(dependency) && !below.contains(&dependency) {
                findings.push(Finding::new(
                    name(package),
                    format!("depends on {dependency}: ARCHITECTURE.md has no such arrow"),
                ));
            }
            if dependency.starts_with("burn") && ON_SLICES.contains(&name(package)) {
                findings.push(Finding::new(name(package), format!("depends on {dependency}: it works on slices")));
            }
        }
    }
    findings
}

/// `spec` is plain data.
pub fn spec_depends_on_serde_alone(metadata: &Value) -> Vec<Finding> {
    let spec = list(&metadata["packages"]).filter(|package| name(package) == "gabion-spec");
    let others = spec.flat_map(dependencies).map(name).filter(|&dependency| dependency != "serde");
    others
        .map(|dependency| Finding::new("gabion-spec", format!("depends on {dependency}: serde alone is allowed")))
        .collect()
}

/// Backend features are named in few manifests, so that a build's backends are decided in one place.
pub fn backends_are_named_where_allowed(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in list(&metadata["packages"]).filter(|package| !MAY_NAME_BACKENDS.contains(&name(package))) {
        // A custom operation names the device that it serves, so learn has `flex` and nothing else.
        let allowed = |backend: &str| name(package) == "gabion-learn" && backend == "flex";
        let mut named = BTreeSet::new();
        for dependency in dependencies(package) {
            if name(dependency).starts_with("burn") || name(dependency).starts_with("gabion") {
                named.extend(list(&dependency["features"]).filter_map(Value::as_str));
            }
        }
        for enabled in package["features"].as_object().into_iter().flat_map(|table| table.values()).flat_map(list) {
            named.extend(enabled.as_str().and_then(|feature| feature.split_once('/')).map(|(_, feature)| feature));
        }
        for backend in named.into_iter().filter(|&feature| BACKENDS.contains(&feature) && !allowed(feature)) {
            findings.push(Finding::new(
                name(package),
                format!("names the backend `{backend}`: leave that to cli and runtime"),
            ));
        }
    }
    findings
}

/// Every package that `cargo run` builds has features that `cargo test --workspace` builds it with as well; otherwise
/// the second command builds it, and all that lies over it, a second time.
pub fn run_and_test_share_artefacts(root: &Path) -> Result<Vec<Finding>> {
    let tree = |selection: &[&str]| {
        let format = ["--prefix", "none", "--format", "{p}\u{1f}{f}"];
        Ok::<_, anyhow::Error>(feature_sets(&cargo(root, &[&["tree"], selection, &format].concat())?))
    };
    let run = tree(&["--package", "gabion", "--edges", "normal,build"])?;
    let test = tree(&["--workspace", "--edges", "normal,build,dev"])?;
    Ok(differing(&run, &test))
}

type FeatureSets = BTreeMap<String, BTreeSet<String>>;

/// Package to the feature sets that it is built with, from `cargo tree`.
fn feature_sets(tree: &str) -> FeatureSets {
    let mut sets = FeatureSets::new();
    for (package, features) in tree.lines().filter_map(|line| line.split_once('\u{1f}')) {
        // What follows the version is a folder or "(proc-macro)".
        let package = package.split(" (").next().unwrap_or(package);
        sets.entry(package.into()).or_default().insert(features.trim_end_matches(" (*)").trim().into());
    }
    sets
}

fn differing(run: &FeatureSets, test: &FeatureSets) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (package, sets) in run {
        for set in sets.iter().filter(|&set| !test.get(package).is_some_and(|others| others.contains(set))) {
            let others: Vec<&str> = test.get(package).into_iter().flatten().map(String::as_str).collect();
            let what = format!(
                "`cargo run` builds it with features [{set}], `cargo test --workspace` with [{}]: \
                 add it with the latter to crates/cli/Cargo.toml",
                others.join("] and ["),
            );
            findings.push(Finding::new(package, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: Value, features: Value) -> Value {
        json!({"packages": [
            {"name": name, "dependencies": dependencies, "features": features},
            {"name": "gabion-learn", "dependencies": [], "features": {"flex": ["burn/flex", "dep:gabion-kernels"]}},
        ]})
    }

    fn dependency(name: &str, kind: Value, features: Value) -> Value {
        json!([{"name": name, "kind": kind, "features": features}])
    }

    #[test]
    fn an_arrow_upwards_is_found() {
        let up = |kind| package("gabion-augment", dependency("gabion-learn", kind, json!([])), json!({}));
        assert_eq!(arrows_point_down(&up(Value::Null)).len(), 1);
        assert_eq!(arrows_point_down(&up(json!("dev"))), []);
        let burn = package("gabion-kernels", dependency("burn", Value::Null, json!([])), json!({}));
        assert_eq!(arrows_point_down(&burn).len(), 1);
    }

    #[test]
    fn spec_may_have_serde() {
        let spec = |on| package("gabion-spec", dependency(on, Value::Null, json!([])), json!({}));
        assert_eq!(spec_depends_on_serde_alone(&spec("serde")), []);
        assert_eq!(spec_depends_on_serde_alone(&spec("serde_json")).len(), 1);
    }

    #[test]
    fn backends_outside_their_manifests_are_found() {
        let named = |name, features| {
            let found = package(name, dependency("burn", Value::Null, json!(["std", "wgpu"])), features);
            backends_are_named_where_allowed(&found).len()
        };
        assert_eq!(named("gabion-experiment", json!({})), 1);
        assert_eq!(named("gabion-runtime", json!({})), 0);
        let table = package("gabion-experiment", json!([]), json!({"cuda": ["gabion-runtime/cuda"]}));
        assert_eq!(backends_are_named_where_allowed(&table).len(), 1);
    }

    #[test]
    fn a_package_with_two_feature_sets_is_found() {
        let run =
            feature_sets("half v2.7.1\u{1f}std\nsyn v3.0.10 (proc-macro)\u{1f}full (*)\ngabion v0.1.0 (/x)\u{1f}\n");
        let test = feature_sets(
            "half v2.7.1\u{1f}rand_distr,std\nsyn v3.0.10\u{1f}full\nsyn v3.0.10\u{1f}\ngabion v0.1.0 (/x)\u{1f}\n",
        );
        let found = differing(&run, &test);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "half v2.7.1");
        assert!(found[0].what.contains("[rand_distr,std]"));
    }
}
