//! Rules over the text of files.

use crate::Finding;
use crate::tree::Tree;
use serde_json::Value;

/// Most lines of a source file.
const MOST_LINES: usize = 600;
/// Sources that are a table, and may be longer.
const TABLES: [&str; 0] = [];

/// A file has one subject.
pub fn long_files(tree: &Tree) -> Vec<Finding> {
    let source =
        |path: &str| [".rs", ".wgsl", ".py", ".sh"].iter().any(|end| path.ends_with(end)) && !TABLES.contains(&path);
    let findings = tree.texts(source).filter_map(|(path, text)| {
        let lines = text.lines().count();
        (lines > MOST_LINES)
            .then(|| Finding::new(path, format!("{lines} lines, above {MOST_LINES}: a file has one subject, split it")))
    });
    findings.collect()
}

/// `learn` does no IO, reads no clock and no environment, picks no device.
pub fn learn_is_pure(tree: &Tree) -> Vec<Finding> {
    const MODULES: [&str; 5] = ["fs", "time", "env", "net", "process"];
    const DEVICES: [&str; 4] = ["Device::default()", "Device::cuda", "Device::wgpu", "Device::vulkan"];
    let mut findings = Vec::new();
    for (path, text) in tree.texts(|path| path.starts_with("crates/learn/src/") && path.ends_with(".rs")) {
        let code = without_comments(text);
        for module in MODULES.into_iter().filter(|module| uses_std(&code, module)) {
            findings.push(Finding::new(path, format!("uses std::{module}: that belongs above learn")));
        }
        for device in DEVICES.into_iter().filter(|device| code.contains(device)) {
            findings.push(Finding::new(path, format!("{device}: devices come from the caller")));
        }
    }
    findings
}

/// Whether code names `std::module`, alone or within `std::{...}`.
fn uses_std(code: &str, module: &str) -> bool {
    let starts = |text: &str| {
        text.strip_prefix(module).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    code.match_indices("std::").any(|(at, path)| {
        let rest = &code[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else { return starts(rest) };
        let mut depth = 1;
        let mut item_starts = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => item_starts = depth == 1,
                c if c.is_whitespace() => {}
                _ if item_starts && starts(&group[at..]) => return true,
                _ => item_starts = false,
            }
            if depth == 0 {
                break;
            }
        }
        false
    })
}

/// The lines of a source up to their `//`.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Every compute entry point in shaders/ has a CPU function of the same name.
pub fn kernels_have_twins(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(|path| path.starts_with("shaders/") && path.ends_with(".wgsl")) {
        let code = without_comments(text);
        for name in code.split("@compute").skip(1).filter_map(entry_point) {
            let twin = |text: &str| ['(', '<'].iter().any(|open| text.contains(&format!("fn {name}{open}")));
            let rust = |path: &str| path.starts_with("crates/") && path.ends_with(".rs");
            if !tree.texts(rust).any(|(_, text)| twin(&without_comments(text))) {
                findings.push(Finding::new(path, format!("`{name}` has no CPU function of the same name in crates/")));
            }
        }
    }
    findings
}

/// The name after the first `fn`.
fn entry_point(code: &str) -> Option<&str> {
    let rest = code[code.find("fn ")? + 3..].trim_start();
    Some(&rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_')?])
}

/// No file says where it lay on somebody's machine.
pub fn no_machine_paths(tree: &Tree) -> Vec<Finding> {
    // Written apart, so that this file passes.
    let folders = ["work", "root", "home"].map(|name| format!("/{name}/"));
    let mut findings = Vec::new();
    for (path, text) in tree.texts(|_| true) {
        for (number, line) in text.lines().enumerate() {
            for folder in &folders {
                let absolute = |at: usize| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '~'))
                };
                if line.match_indices(folder.as_str()).any(|(at, _)| absolute(at)) {
                    let place = format!("{path}:{}", number + 1);
                    findings.push(Finding::new(place, format!("{folder} is a path of one machine")));
                }
            }
        }
    }
    findings
}

/// A section of a model card that holds measured numbers names the file in results/ that holds them too.
pub fn cards_name_their_results(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(|path| path.starts_with("models/") && path.ends_with("/CARD.md")) {
        for section in sections(text) {
            let title = section.lines().next().unwrap_or("");
            let named = results_named(section);
            if named.is_empty() && section.lines().any(has_measured_number) {
                findings.push(Finding::new(path, format!("`{title}` has numbers and names no results/*.json")));
            }
            for missing in named.into_iter().filter(|name| !tree.has(name)) {
                findings.push(Finding::new(path, format!("`{title}` names {missing}, which is not there")));
            }
        }
    }
    findings
}

/// A Markdown text cut before every heading.
fn sections(text: &str) -> Vec<&str> {
    let mut cuts: Vec<usize> = text.match_indices("\n#").map(|(at, _)| at + 1).chain([0, text.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).filter(|section| !section.is_empty()).collect()
}

/// A decimal fraction or a percentage, versions and years aside.
fn has_measured_number(line: &str) -> bool {
    line.split(|c: char| c.is_whitespace() || "|()[],;:*`".contains(c)).any(|word| {
        let number = word.trim_end_matches(['%', '.']);
        let parsed = number.parse::<f64>().is_ok() && number.starts_with(|c: char| c.is_ascii_digit());
        word.starts_with('%') || (parsed && (number.contains('.') || word.ends_with('%')))
    })
}

/// `results/NAME.json` wherever a text says it.
fn results_named(text: &str) -> Vec<&str> {
    let name = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let named = text.match_indices("results/").filter_map(|(at, _)| {
        let rest = &text[at..];
        let path = &rest[..rest.find(|c: char| !name(c)).unwrap_or(rest.len())];
        Some(&path[..path.rfind(".json")? + ".json".len()])
    });
    named.collect()
}

/// Whatever a command wrote says on which machine, with which versions and by which command.
pub fn results_say_how(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(|path| path.starts_with("results/") && path.ends_with(".json")) {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => {
                findings.push(Finding::new(path, format!("is not JSON: {error}")));
                continue;
            }
        };
        for key in ["machine", "versions", "command"] {
            let filled = match &value[key] {
                Value::Object(table) => !table.is_empty(),
                Value::String(text) => !text.is_empty(),
                _ => false,
            };
            if !filled {
                findings.push(Finding::new(path, format!("lacks `{key}`: see results/README.md")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.place.as_str()).collect()
    }

    #[test]
    fn long_sources_are_found_and_long_data_is_not() {
        let long = "x\n".repeat(MOST_LINES + 1);
        let tree = Tree::of(&[("a.rs", &long), ("b.json", &long), ("c.rs", &long[2..])]);
        assert_eq!(places(&long_files(&tree)), ["a.rs"]);
    }

    #[test]
    fn learn_may_not_touch_files_clocks_or_devices() {
        let tree = Tree::of(&[
            ("crates/learn/src/a.rs", "use std::fs::File;"),
            ("crates/learn/src/b.rs", "use std::{collections::{env, BTreeMap}, time::Instant};"),
            ("crates/learn/src/c.rs", "// std::fs\nuse std::{fmt, sync::Mutex}; let fsync = std::fsx::a;"),
            ("crates/learn/src/d.rs", "let device = Device::default();"),
            ("crates/runtime/src/e.rs", "use std::fs;"),
        ]);
        let found = learn_is_pure(&tree);
        assert_eq!(places(&found), ["crates/learn/src/a.rs", "crates/learn/src/b.rs", "crates/learn/src/d.rs"]);
        assert!(found[1].what.contains("std::time"));
    }

    #[test]
    fn a_kernel_without_a_twin_is_found() {
        let shader = "// fn note\nfn helper() {}\n@compute @workgroup_size(64)\nfn solarize(@builtin(x) id: vec3u) {}";
        let mut files = vec![("shaders/a.wgsl", shader), ("crates/x/src/lib.rs", "fn solarized() {} // fn solarize(")];
        assert_eq!(places(&kernels_have_twins(&Tree::of(&files))), ["shaders/a.wgsl"]);
        files.push(("crates/augment/src/cpu.rs", "pub fn solarize(x: f32) -> f32 { x }"));
        assert_eq!(kernels_have_twins(&Tree::of(&files)), []);
    }

    #[test]
    fn machine_paths_are_found_and_addresses_are_not() {
        let home = format!("/{}/me", "home");
        let tree =
            Tree::of(&[("a.md", &format!("fine\n`{home}`")), ("b.md", &format!("https://x.org{home} ${{X}}{home}"))]);
        assert_eq!(places(&no_machine_paths(&tree)), ["a.md:2"]);
    }

    #[test]
    fn numbers_in_a_card_need_a_results_file() {
        let card = |claims: &str| format!("# Model\n16 channels, 2026\n\n## Claims\n{claims}\n");
        let of = |claims: &str| {
            let files = [("models/m/CARD.md", card(claims)), ("results/m.json", "{}".into())];
            let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
            cards_name_their_results(&Tree::of(&files)).len()
        };
        assert_eq!(of("| clean | 53.7 |"), 1);
        assert_eq!(of("| clean | 54 % |"), 1);
        assert_eq!(of("54% of [results/m.json](../../results/m.json)."), 0);
        assert_eq!(of("54% of results/n.json"), 1);
        assert_eq!(of("nothing measured yet"), 0);
    }

    #[test]
    fn results_need_machine_versions_and_command() {
        let tree = Tree::of(&[
            (
                "results/a.json",
                r#"{"machine": {"cpu": "x"}, "versions": {"gabion": "0"}, "command": "c", "result": 1}"#,
            ),
            ("results/b.json", r#"{"machine": {}, "versions": {"gabion": "0"}, "command": "c"}"#),
            ("results/c.json", "{"),
            ("results/README.md", "no"),
        ]);
        assert_eq!(places(&results_say_how(&tree)), ["results/b.json", "results/c.json"]);
    }
}
