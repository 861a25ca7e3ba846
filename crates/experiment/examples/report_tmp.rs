//! temp
use gabion_experiment::{
    data::{Data, synth::Synth},
    measure::Rate,
    report::*,
};
use gabion_runtime::Rgb;
use gabion_spec::Pixels;
fn main() {
    let data = Data::synth(&Synth { seed: 0, train: 10, test: 20 });
    let mut r = 1u64;
    let mut rnd = move || {
        r = r.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (r >> 40) as f32 / (1 << 24) as f32
    };
    let mut model = |name: &str, d: &str, a: [u64; 5], s: u64| ModelReport {
        name: name.into(),
        description: d.into(),
        loss: (0..s).map(|i| (i, -62.0 - 13.0 * (1.0 - (-(i as f32) / 90.0).exp()) + 2.0 * rnd())).collect(),
        clean: Rate::new(a[0], 300),
        points: [1., 2., 4., 8.].iter().zip(&a[1..]).map(|(e, a)| (Pixels::of_255(*e), Rate::new(*a, 300))).collect(),
        seconds: 61.0,
    };
    let models = vec![
        model(
            "standard",
            "Self-supervised pretraining on unperturbed crops. 12 epochs, 95 232 crop passes.",
            [205, 105, 46, 5, 0],
            744,
        ),
        model(
            "free-AT",
            "Self-supervised pretraining with free adversarial training: each minibatch is replayed, and the gradient that moves the weights moves the perturbation too. 4 epochs of 3 replays at 4/255.",
            [180, 160, 130, 80, 21],
            744,
        ),
    ];
    let mut examples = vec![];
    for i in 0..4 {
        for (k, m) in models.iter().enumerate() {
            let c = Rgb { height: 32, width: 32, pixels: data.split.test.image(i).to_vec() };
            let mut a = c.clone();
            for (j, p) in a.pixels.iter_mut().enumerate() {
                *p = p.saturating_add_signed(if (j * 7919 / 13 + i) % 3 == 0 { 4 } else { -4 });
            }
            let t = data.split.test.classes[i].clone();
            examples.push(Example {
                model: m.name.clone(),
                truth: t.clone(),
                epsilon: Pixels::of_255(4.),
                clean: c,
                adversarial: a,
                predicted_clean: (t.clone(), 0.93),
                predicted_adversarial: (if k == 0 { "checkerboard".into() } else { t }, 0.61),
            });
        }
    }
    let report = Report { title: "Gabion demo: free adversarial training against standard training".into(), facts: [("command", "gabion demo --seed 0"), ("version", "gabion 0.1.0 (abc123), Burn 0.22.1"), ("device", "AMD EPYC 9B14"), ("seed", "0 (weights, views, heads, test images), 0 (drawn images)"), ("presets", "synth-tiny-standard, synth-tiny"), ("bundle", "/tmp/some/very/long/path/that/does/not/break/easily/gabion-demo/bundle")].map(|(a, b)| (a.to_string(), b.to_string())).to_vec(), models, examples, notes: vec!["Both models went through the same number of crops, every replay counted. PGD is an upper bound: stronger attacks leave less.".into(); 3] };
    std::fs::write(std::env::args().nth(1).unwrap(), render(&report).unwrap()).unwrap();
}
