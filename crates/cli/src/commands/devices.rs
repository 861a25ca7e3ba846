use crate::output::{Done, Output, table};
use gabion_runtime::{Choice, offered};
use serde_json::json;

/// List what this machine can compute on, and which would be taken.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion devices --json")]
pub struct Arguments {}

pub fn run(_: &Arguments, output: &Output) -> Done {
    let devices = offered();
    let taken = gabion_runtime::choose(Choice::Auto).map(|(_, offered)| offered)?;
    let value: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({
                "device": device.choice.to_string(), "name": device.name, "kind": device.kind,
                "backend": device.backend, "driver": device.driver, "taken_by_auto": *device == taken,
            })
        })
        .collect();
    output.result(&value, || {
        let rows = devices.iter().map(|device| {
            let mark = if *device == taken { "auto" } else { "" };
            vec![
                device.choice.to_string(),
                device.name.clone(),
                device.kind.clone(),
                device.backend.clone(),
                device.driver.clone(),
                mark.into(),
            ]
        });
        table(&["--device", "name", "kind", "backend", "driver", "taken"], rows)
    })
}
