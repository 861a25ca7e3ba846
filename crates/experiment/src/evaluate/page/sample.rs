//! Made-up assessments, from nothing but PGD to everything.

use super::About;
use crate::data::order::Random;
use crate::evaluate::{
    Assessment, Check, CorruptionRow, Corruptions, Cost, Evaluation, Grade, Headline, Row, Trust, Verdict, ViewRow,
    Views,
};
use crate::measure::Rate;
use crate::report::Picture;
use gabion_runtime::Rgb;
use gabion_spec::{Attack, Norm, Objective, Pixels, Protocol, Start};

pub(super) const IMAGES: usize = 1000;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck <&\">"];

/// Two budgets under PGD, and nothing else.
pub(super) fn plain() -> Assessment {
    let mut made = Made::new();
    for levels in [4.0, 8.0] {
        let (objective, step) = (Objective::CrossEntropy, Pixels(0.01));
        let attack = Attack::Pgd { objective, steps: 20, step, restarts: 1, start: Start::Zero, momentum: 0.0, eot: 1 };
        made.attack(levels, attack, None, 0.05 * f64::from(levels));
    }
    made.assessment(Protocol::Paper)
}

/// AutoAttack at two budgets and all that can be asked for beside it.
pub(super) fn everything() -> Assessment {
    let mut made = Made::new();
    for levels in [4.0, 8.0] {
        for (attack, share) in Attack::autoattack().into_iter().zip([0.045, 0.012, 0.001, 0.0005]) {
            made.attack(levels, attack, Some("autoattack"), share * f64::from(levels));
        }
        made.sum(levels);
    }
    let mut assessment = made.assessment(Protocol::All);
    let row = assessment.evaluation.attacks[0].clone();
    assessment.trust = [4, 9].into_iter().zip([4.0, 8.0]).map(|(at, levels)| trust(&assessment, at, levels)).collect();
    let beyond =
        |name: &str, epsilon: Pixels, right| Row { name: name.into(), epsilon, rate: rate(right), ..row.clone() };
    assessment.wide = vec![
        beyond("transfer from resnet-18-standard", Pixels::of_255(8.0), 741),
        beyond("patch 5x5", Pixels(1.0), 214),
    ];
    assessment.corruptions = Some(corruptions());
    assessment.views = Some(views());
    assessment.evaluation.warnings = vec![
        "apgd-ce 8/255: 31 of 40112 gradients were 0 everywhere: look for a vanishing gradient".into(),
        "the bundle's weights are stored at half precision <f16>".into(),
    ];
    assessment
}

/// The same, where the second budget fails.
pub(super) fn withheld() -> Assessment {
    let mut assessment = everything();
    let check = &mut assessment.trust[1].checks[5];
    check.grade = Grade::Fail;
    check.figure = "12.30 % stand PGD-40 at 0.5".into();
    assessment.trust[1].headline =
        Headline::Withheld("a boundless attack always succeeds: 12.30 % stand PGD-40 at 0.5 (and 1 more)".into());
    assessment
}

/// One budget in L2.
pub(super) fn in_l2() -> Assessment {
    let mut assessment = everything();
    let evaluation = &mut assessment.evaluation;
    evaluation.attacks.truncate(5);
    for verdict in &mut evaluation.verdicts {
        verdict.robust.truncate(5);
        verdict.fooled_at.truncate(5);
    }
    evaluation.attacks.iter_mut().for_each(|row| (row.norm, row.epsilon) = (Norm::L2, Pixels(0.5)));
    assessment.trust.truncate(1);
    let trust = &mut assessment.trust[0];
    (trust.norm, trust.epsilon) = (Norm::L2, Pixels(0.5));
    trust.sweep.iter_mut().for_each(|(epsilon, _)| *epsilon = Pixels(epsilon.0 * 255.0 / 16.0));
    assessment
}

pub(super) fn about() -> About {
    let fact = |name: &str, value: &str| (name.to_string(), value.to_string());
    About {
        bundle: "cf-amc-ssl <small>".into(),
        data: "cifar10".into(),
        command: "gabion evaluate models/cifar10-small --data cifar10 --protocol all --epsilon 4/255 --epsilon 8/255 \
                  --images 1000 --patch 5 --transfer models/cifar10-small-standard --out 'runs/x & y'"
            .into(),
        facts: vec![
            fact("SHA-256 of weights", &"0123456789abcdef".repeat(4)),
            fact("device", "AMD EPYC, 2 cores (flex)"),
            fact("machine", "Debian 12, 8 GiB"),
            fact("versions", "gabion 0.1.0 (1bd7e86), Burn 0.22.1"),
        ],
        classes: CLASSES.map(String::from).to_vec(),
        pictures: (0..4).map(picture).collect(),
    }
}

pub(super) fn rate(right: u64) -> Rate {
    Rate::new(right, IMAGES as u64)
}

/// Verdicts as they fall.
struct Made {
    verdicts: Vec<Verdict>,
    rows: Vec<Row>,
    random: Random,
}

impl Made {
    fn new() -> Self {
        let mut random = Random::named(&[7]);
        let verdict = |index: usize| {
            let label = u16::try_from(index % CLASSES.len()).unwrap();
            let wrong = random.below(100) < 8 + 3 * usize::from(label);
            let predicted = if wrong { (label + 1) % 10 } else { label };
            Verdict { index, label, predicted, robust: Vec::new(), fooled_at: Vec::new() }
        };
        let verdicts = (0..IMAGES).map(verdict).collect();
        Self { verdicts, rows: Vec::new(), random }
    }

    fn attack(&mut self, levels: f32, attack: Attack, cascade: Option<&'static str>, share: f64) {
        let before =
            self.rows.last().filter(|row| row.cascade.is_some() && row.cascade == cascade && row.attack.is_some());
        let before = before.map(|_| self.rows.len() - 1);
        let (mut attacked, mut right) = (0, 0);
        for verdict in &mut self.verdicts {
            let standing = before.map_or(verdict.predicted == verdict.label, |at| verdict.robust[at]);
            let falls = (self.random.below(10_000) as f64) < 10_000.0 * share * (0.6 + 0.1 * f64::from(verdict.label));
            let at = u32::try_from(1 + self.random.below(4) * self.random.below(5)).unwrap();
            attacked += u64::from(standing);
            right += u64::from(standing && !falls);
            verdict.robust.push(standing && !falls);
            verdict.fooled_at.push((standing && falls).then_some(at));
        }
        let passes = Cost { gradients: attacked * 61, forwards: attacked * 3, ..Cost::default() };
        let (name, epsilon) = (attack.name(), Pixels::of_255(levels));
        let (farthest, attack) = (epsilon.0, Some(attack));
        let rate = rate(right);
        self.rows.push(Row {
            name,
            norm: Norm::Linf,
            epsilon,
            withheld: false,
            attack,
            cascade,
            rate,
            attacked,
            farthest,
            passes,
            seconds: 41.5,
        });
    }

    fn sum(&mut self, levels: f32) {
        let last = self.rows.last().unwrap().clone();
        let at = self.rows.len() - 1;
        let attacked = self.verdicts.iter().filter(|verdict| verdict.predicted == verdict.label).count() as u64;
        for verdict in &mut self.verdicts {
            verdict.robust.push(verdict.robust[at]);
            verdict.fooled_at.push(None);
        }
        let (name, epsilon) = ("autoattack".into(), Pixels::of_255(levels));
        self.rows.push(Row { name, epsilon, attack: None, attacked, seconds: 1230.0, ..last });
    }

    fn assessment(self, protocol: Protocol) -> Assessment {
        let clean = self.verdicts.iter().filter(|verdict| verdict.predicted == verdict.label).count() as u64;
        let evaluation = Evaluation {
            over: None,
            protocol,
            seed: 7,
            images: IMAGES as u64,
            data_sha256: "fedcba9876543210".repeat(4),
            weights_sha256: "0123456789abcdef".repeat(4),
            clean: rate(clean),
            attacks: self.rows,
            verdicts: self.verdicts,
            warnings: Vec::new(),
            seconds: 2700.0,
            adversarial: None,
            size: [32, 32],
        };
        Assessment { evaluation, trust: Vec::new(), corruptions: None, wide: Vec::new(), views: None }
    }
}

fn trust(assessment: &Assessment, at: usize, levels: f32) -> Trust {
    let check = |grade, name, figure: &str, meaning| Check { name, grade, figure: figure.into(), meaning };
    let masking = "an attack without gradients does better: masking";
    let checks = vec![
        check(
            Grade::Pass,
            "evaluation mode, no matter the batch",
            "logits alone and in a batch differ by 3.1e-7 of their spread",
            "batch statistics in use, or images that influence each other: the number is of a batch, not of the model",
        ),
        check(
            Grade::Pass,
            "no budget changes nothing",
            "0 of 812 images fall to an attack without a budget",
            "the attack or the accuracy is computed on other images than it says",
        ),
        check(
            Grade::Pass,
            "gradients are there",
            "zero or lost in f32 at the image: CE 0.4 %, DLR 0.0 %",
            "attacks that follow gradients see nothing: masking",
        ),
        check(
            Grade::Warn,
            "the loss has come to rest",
            "in the last quarter of APGD the loss of what stands rose by 1.214 % (median)",
            "with more steps the accuracy would go on falling",
        ),
        check(
            Grade::Pass,
            "more budget, less accuracy",
            "greatest rise 0.00 points",
            "a larger ball holds the smaller one: an attack that does worse in it has lost its way",
        ),
        check(
            Grade::Pass,
            "a boundless attack always succeeds",
            "0.00 % stand PGD-40 at 0.5",
            "at half of the pixel range an image can be made gray: what stands there hides its gradient",
        ),
        check(
            Grade::Pass,
            "nothing falls to queries alone",
            "2 images (0.20 %) stand APGD and FAB and fall to Square",
            masking,
        ),
    ];
    let sweep = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 127.5].map(Pixels::of_255);
    let clean = assessment.evaluation.clean.right;
    let sweep = sweep.into_iter().zip([clean, 770, 712, 655, 470, 190, 24, 0, 0].map(rate)).collect();
    let headline = Headline::Accuracy(assessment.evaluation.attacks[at].rate);
    Trust { norm: Norm::Linf, epsilon: Pixels::of_255(levels), headline, checks, sweep }
}

fn corruptions() -> Corruptions {
    let names = [
        ("noise", &["gaussian-noise", "shot-noise", "impulse-noise"][..]),
        ("blur", &["defocus-blur", "glass-blur", "motion-blur", "zoom-blur"]),
        ("weather", &["snow", "frost", "fog", "brightness"]),
        ("digital", &["contrast", "elastic-transform", "pixelate", "jpeg-compression"]),
    ];
    let mut rows = Vec::new();
    for (at, (family, name)) in
        names.iter().flat_map(|(family, names)| names.iter().map(move |name| (family, name))).enumerate()
    {
        for severity in 1..=5u8 {
            let right = 800 - (at as u64 * 37 % 90 + 25) * u64::from(severity);
            rows.push(CorruptionRow { name: (*name).into(), family: (*family).into(), severity, rate: rate(right) });
        }
    }
    let mean = rows.iter().map(|row| row.rate.accuracy).sum::<f64>() / rows.len() as f64;
    Corruptions { rows, mean }
}

fn views() -> Views {
    let mut rows = Vec::new();
    for (levels, rights) in [(4.0, [702, 690, 664, 659]), (8.0, [588, 541, 472, 431])] {
        for (eot, right) in [None, Some(1), Some(5), Some(20)].into_iter().zip(rights) {
            let name = eot.map_or("pgd-20 on drawn crops".into(), |eot| format!("pgd-20 on the image, eot-{eot}"));
            let epsilon = Pixels::of_255(levels);
            rows.push(ViewRow {
                name,
                norm: Norm::Linf,
                epsilon,
                eot,
                rate: rate(right),
                passes: Cost::default(),
                seconds: 60.0,
            });
        }
    }
    Views { views: 16, images: IMAGES as u64, clean: rate(846), rows }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to a byte
fn picture(at: usize) -> Picture {
    let value = |place: usize| {
        let (x, y, channel) = ((place / 3 % 32) as f64, (place / 96) as f64, (place % 3) as f64);
        let near = (x - 15.0).hypot(y - 15.0);
        let inside = if near < 6.0 + 2.0 * at as f64 { 90.0 } else { 0.0 };
        (70.0 + inside + 30.0 * channel + 1.5 * y).clamp(0.0, 255.0) as u8
    };
    let clean = Rgb { height: 32, width: 32, pixels: (0..32 * 32 * 3).map(value).collect() };
    let shifted = |(place, &value): (usize, &u8)| {
        if place * (at + 3) * 2_654_435_761 % 97 < 48 { value.saturating_add(8) } else { value.saturating_sub(8) }
    };
    let pixels = clean.pixels.iter().enumerate().map(shifted).collect();
    let truth = CLASSES[(9 + 3 * at) % 10].to_string();
    let wrong = if at == 2 { truth.clone() } else { CLASSES[at + 2].to_string() };
    Picture {
        predicted_clean: (truth.clone(), 0.97),
        predicted_adversarial: (wrong, 0.64),
        truth,
        epsilon: Pixels::of_255(8.0),
        adversarial: Rgb { pixels, ..clean },
        clean,
    }
}
