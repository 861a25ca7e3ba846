//! temp
use gabion_experiment::demo::{DemoEvent, Options, demo};
fn main() {
    let out = std::env::args().nth(1).unwrap();
    let (device, offered) = gabion_runtime::choose(gabion_runtime::Choice::Cpu).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let d = demo(
        &Options {
            out: out.as_ref(),
            device,
            device_name: offered.name.clone(),
            seed: std::env::args().nth(2).map_or(0, |s| s.parse().unwrap()),
            stop: &stop,
        },
        &mut |e| {
            if !matches!(e, DemoEvent::Progress { .. }) {
                println!("{e:?}")
            }
        },
    );
    match d {
        Ok(d) => {
            for m in &d.models {
                println!(
                    "{} passes {} {:.1}s clean {:.3} {:?}",
                    m.name,
                    m.crop_passes,
                    m.seconds,
                    m.clean.accuracy,
                    m.attacks
                        .iter()
                        .map(|a| (a.epsilon.to_string(), a.rate.accuracy, a.rate.low, a.rate.high))
                        .collect::<Vec<_>>()
                );
            }
            for c in &d.classified {
                println!("{c:?}");
            }
            println!("{:.1} s", d.seconds);
        }
        Err(e) => println!("{e}"),
    }
    let t = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = t.rsplit(')').next().unwrap().split_whitespace().collect();
    println!("cpu {}", (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0);
}
