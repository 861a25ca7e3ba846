//! Which attacks a protocol is made of.

use gabion_spec::{Attack, Evaluate, Objective, Pixels, Protocol, Start};

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
/// headline here.
pub fn stages(recipe: &Evaluate, epsilon: Pixels) -> Vec<Stage> {
    let Evaluate { protocol, objective, restarts, .. } = *recipe;
    let apgd = [Attack::APGD_CE, Attack::APGD_T].map(|attack| attack.restarted(restarts.unwrap_or(1)));
    let alone = |attack| vec![Stage { name: None, attacks: vec![attack] }];
    match protocol {
        Protocol::Paper => alone(climb(objective, 20, Pixels(0.01), 1, Start::Zero)),
        Protocol::Paper2Step => alone(climb(objective, 2, Pixels(0.01), 1, Start::Zero)),
        Protocol::Strong => alone(climb(objective, 50, Pixels(epsilon.0 / 4.0), restarts.unwrap_or(5), Start::Random)),
        Protocol::Apgd => vec![Stage { name: Some("apgd"), attacks: apgd.to_vec() }],
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
