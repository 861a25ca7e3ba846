use gabion_experiment::{
    data::{Data, synth::Synth},
    evaluate, probe, recipe, run,
};
use gabion_spec::{Evaluate, Head, Pixels, Probe, Protocol};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
fn cpu() -> f64 {
    let t = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = t.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (preset, settings) = args.split_first().unwrap();
    let (device, _) = gabion_runtime::choose(gabion_runtime::Choice::Cpu).unwrap();
    let data = Data::synth(&Synth::default());
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe::resolve(&recipe::Base::Preset(preset.clone()), settings).unwrap();
    let stop = AtomicBool::new(false);
    let (t, c) = (Instant::now(), cpu());
    let mut losses = vec![];
    run::pretrain(
        &recipe,
        &data,
        &run::Options {
            out: &dir.path().join("r"),
            resume: false,
            device: device.clone(),
            device_name: "cpu".into(),
            checkpoint_every: None,
            stop: &stop,
        },
        &mut |e| {
            if let run::Event::Step(m) = e {
                losses.push((m.loss, m.terms.clone()))
            }
        },
    )
    .unwrap();
    let n = losses.len();
    println!(
        "{preset} {settings:?} steps {n} wall {:.1} cpu {:.1} loss {:?} {:?} {:?}",
        t.elapsed().as_secs_f64(),
        cpu() - c,
        losses[0],
        losses[n / 2],
        losses[n - 1]
    );
    let (t, c) = (Instant::now(), cpu());
    let path = dir.path().join("r/bundle");
    let mut bundle = gabion_runtime::Bundle::open(&path, &device).unwrap();
    for probe_recipe in [Probe::Linear { rate: 0.01, batch: 64, epochs: 60 }] {
        let probed = probe::probe(&bundle, &data.split, &probe_recipe, 0, &device, None, &mut |_| {}).unwrap();
        println!(
            "  probe {:?} {:?} wall {:.1} cpu {:.1}",
            probed.rate().accuracy,
            probed.train_loss.last(),
            t.elapsed().as_secs_f64(),
            cpu() - c
        );
        bundle.manifest.head = Some(Head { kind: probed.kind.unwrap(), recipe: probe_recipe });
        bundle.manifest.classes = probed.classes;
        bundle.head = probed.head;
        let (t, c) = (Instant::now(), cpu());
        let e = evaluate::evaluate(
            &bundle,
            &data.split.test,
            &Evaluate {
                protocol: Protocol::Paper,
                images: Some(300),
                seed: 0,
                epsilons: [1., 2., 4., 8.].map(Pixels::of_255).to_vec(),
            },
            evaluate::Options::default(),
            &device,
            &mut |_| {},
        )
        .unwrap();
        println!(
            "  clean {:.3} {:?} wall {:.1} cpu {:.1}",
            e.clean.accuracy,
            e.attacks.iter().map(|a| a.rate.accuracy).collect::<Vec<_>>(),
            t.elapsed().as_secs_f64(),
            cpu() - c
        );
    }
}
