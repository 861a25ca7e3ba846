use super::checkpoints;

#[test]
fn checkpoints_are_the_published_ones() {
    assert_eq!(checkpoints(100), [22, 41, 57, 70, 80, 87, 93, 99]);
    assert_eq!(checkpoints(1), [1]);
    assert_eq!(checkpoints(3), [1, 2, 3]);
}

/// Iterates of the official program on the small CNN of `tests/golden/autoattack.py`.
#[cfg(feature = "flex")]
mod official {
    use super::super::*;
    use crate::attack::golden::Golden;
    use gabion_spec::Objective;

    /// Share of pixels that may be elsewhere after five iterations: where a gradient is 0 but for rounding its sign is
    /// anyone's, and the official f32 differs from its f64 likewise.
    const ASTRAY: f64 = 0.01;
    /// Relative error of a loss.
    const LOSS: f64 = 2e-3;

    #[test]
    fn iterates_are_the_official_ones() {
        let golden = Golden::read();
        let victim = golden.victim();
        let numbers = golden.json["apgd"]["images"].as_array().unwrap();
        let chosen: Vec<Image<'_>> = numbers.iter().map(|n| golden.image(n.as_u64().unwrap() as usize)).collect();
        for (norm, name) in [(Norm::Linf, "Linf"), (Norm::L2, "L2")] {
            let region = Region { norm, epsilon: golden.epsilon(name) };
            for (objective, loss) in [(Objective::CrossEntropy, "ce"), (Objective::Dlr, "dlr")] {
                let from = golden.values(&format!("apgd/{name}/start"));
                let run = Run { iterations: 5, seed: 0, name: "", from: Some(from) };
                let goals = vec![Goal::Untargeted(objective); chosen.len()];
                let target = Target { victim: &victim, eot: 1 };
                let mut flights = begin(region, &chosen, &goals, run);
                target.gradient(Wanted::All, &mut flights, 0, |own| own.goal, |flight, row| see(flight, &row, 0));
                for iteration in 1..=5 {
                    flights.iter_mut().for_each(|flight| advance(region, flight, iteration == 1));
                    target.gradient(
                        Wanted::All,
                        &mut flights,
                        iteration,
                        |own| own.goal,
                        |flight, row| see(flight, &row, iteration),
                    );
                    if matches!(iteration, 1 | 2 | 5) {
                        let official = golden.values(&format!("apgd/{name}/{loss}/x{iteration}"));
                        let ours: Vec<f32> = flights.iter().flat_map(|flight| flight.x.iter().copied()).collect();
                        let astray = ours.iter().zip(official).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
                        let share = astray as f64 / ours.len() as f64;
                        println!("{name} {loss} after {iteration}: {astray} of {} pixels elsewhere", ours.len());
                        assert!(share <= ASTRAY, "{name} {loss} after {iteration}: {astray} of {}", ours.len());
                    }
                }
                for (flight, losses) in
                    flights.iter().zip(golden.json["apgd"][name][loss]["losses"].as_array().unwrap())
                {
                    for (ours, official) in flight.own.losses.iter().zip(losses.as_array().unwrap()) {
                        let (ours, official) = (f64::from(*ours), official.as_f64().unwrap());
                        assert!((ours - official).abs() <= LOSS * official.abs().max(1.0), "{ours} is not {official}");
                    }
                }
            }
        }
    }
}
