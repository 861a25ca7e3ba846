//! Which attacks a protocol is made of.

use gabion_spec::{Attack, Objective, Pixels, Protocol, Start};

/// Attacks of one budget that belong together: each sees what the ones before it left.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What the whole is called where it has several attacks.
    pub name: Option<&'static str>,
    /// In their order.
    pub attacks: Vec<Attack>,
}

/// PGD on cross-entropy.
pub(super) fn pgd(steps: u32, step: Pixels, restarts: u32, start: Start) -> Attack {
    climb(Objective::CrossEntropy, steps, step, restarts, start)
}

fn climb(objective: Objective, steps: u32, step: Pixels, restarts: u32, start: Start) -> Attack {
    Attack::Pgd { objective, steps, step, restarts, start, momentum: 0.0, eot: 1 }
}

/// The stages of a protocol at a budget. Protocols that are more than attacks (trust, corruptions) have those of their
/// headline here. `objective` is what PGD climbs where a protocol is PGD alone.
pub fn stages(protocol: Protocol, objective: Objective, epsilon: Pixels) -> Vec<Stage> {
    let alone = |attack| vec![Stage { name: None, attacks: vec![attack] }];
    match protocol {
        Protocol::Paper => alone(climb(objective, 20, Pixels(0.01), 1, Start::Zero)),
        Protocol::Paper2Step => alone(climb(objective, 2, Pixels(0.01), 1, Start::Zero)),
        Protocol::Strong => alone(climb(objective, 50, Pixels(epsilon.0 / 4.0), 5, Start::Random)),
        Protocol::Apgd => vec![Stage { name: Some("apgd"), attacks: vec![Attack::APGD_CE, Attack::APGD_T] }],
        Protocol::AutoattackRand => vec![Stage { name: Some("autoattack rand"), attacks: Attack::autoattack_rand() }],
        Protocol::Autoattack | Protocol::Trust | Protocol::All => {
            vec![Stage { name: Some("autoattack"), attacks: Attack::autoattack() }]
        }
        Protocol::Views | Protocol::Corruptions => Vec::new(),
    }
}

/// What speaks against an attack before it has run: steps that cannot reach the budget.
pub(super) fn too_short(attack: &Attack, epsilon: Pixels) -> Option<String> {
    let Attack::Pgd { steps, step, start: Start::Zero, .. } = *attack else { return None };
    let reach = step.0 * steps as f32;
    (reach < epsilon.0 * 0.999)
        .then(|| format!("{} {epsilon}: {steps} steps of {step} reach only {reach:.4}", attack.name()))
}
