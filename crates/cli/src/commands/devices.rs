use crate::output::{Done, Output, table};
use gabion_runtime::{Choice, Limits, Offered, offered};
use serde_json::{Value, json};

/// List what this machine can compute on, its limits, and which would be taken.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion devices --json\n\n\
    Of a GPU: the largest buffer, what of it a kernel sees at once, invocations and shared memory of a workgroup, the \
    size of a subgroup, and whether kernels compute in half precision (f16).")]
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
                "limits": device.limits.map(in_json),
            })
        })
        .collect();
    output.result(&value, || {
        let header = ["--device", "name", "kind", "backend", "driver", "taken"];
        let limits = ["buffer", "binding", "workgroup", "shared", "subgroup", "f16"];
        table(&[&header[..], &limits].concat(), devices.iter().map(|device| row(device, *device == taken)))
    })
}

fn in_json(limits: Limits) -> Value {
    let Limits { buffer, binding, workgroup, shared, subgroup, f16 } = limits;
    json!({
        "buffer_bytes": buffer, "storage_binding_bytes": binding, "workgroup_invocations": workgroup,
        "workgroup_bytes": shared, "subgroup": subgroup, "f16": f16,
    })
}

fn row(device: &Offered, taken: bool) -> Vec<String> {
    let mark = if taken { "auto" } else { "" };
    let Offered { name, kind, backend, driver, .. } = device;
    let limits = device.limits.map_or_else(Default::default, |limits| {
        let subgroup = match limits.subgroup {
            None => "no".into(),
            Some([least, most]) if least == most => least.to_string(),
            Some([least, most]) => format!("{least} to {most}"),
        };
        [
            bytes(limits.buffer),
            bytes(limits.binding),
            limits.workgroup.to_string(),
            bytes(limits.shared.into()),
            subgroup,
            if limits.f16 { "yes" } else { "no" }.into(),
        ]
    });
    let device = [&device.choice.to_string(), name, kind, backend, driver, mark].map(ToString::to_string);
    device.into_iter().chain(limits).collect()
}

/// In the largest unit that fits; a limit that is a few bytes below a round number is told as that.
fn bytes(count: u64) -> String {
    let count = count.checked_next_multiple_of(4).unwrap_or(count);
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(power, _)| count >= 1 << power);
    unit.map_or_else(
        || format!("{count} B"),
        |(power, name)| {
            let [whole, tenths] = [count >> power, (count % (1 << power) * 10) >> power];
            if tenths == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenths} {name}") }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (count, told) in [
            (0, "0 B"),
            (48 << 10, "48 KiB"),
            ((2 << 30) - 1, "2 GiB"),
            (3 << 29, "1.5 GiB"),
            (1 << 47, "128 TiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), told);
        }
    }
}
