//! Contestants that take turns, and the statistics of their rounds.

use super::peers::Round;

/// Works for about so many seconds, or says why it cannot.
pub(super) type Work<'a> = Box<dyn FnMut(f64) -> Result<Round, String> + 'a>;

/// One that is measured.
pub(super) struct Contestant<'a> {
    /// Its name, for whoever watches.
    pub name: String,
    /// What it does in a round.
    pub work: Work<'a>,
}

/// Views a second of every contestant in every round, or why it could not go on. Each round has all of them one after
/// the other, so that what slows the machine for a while slows them all.
pub(super) fn interleave(
    mut contestants: Vec<Contestant<'_>>,
    rounds: usize,
    seconds: f64,
    tell: &mut dyn FnMut(&str),
) -> Vec<Result<Vec<f64>, String>> {
    let mut rates: Vec<Result<Vec<f64>, String>> = contestants.iter().map(|_| Ok(Vec::new())).collect();
    for number in 1..=rounds {
        for (contestant, rates) in contestants.iter_mut().zip(&mut rates) {
            let Ok(done) = rates else { continue };
            tell(&format!("round {number} of {rounds}: {}", contestant.name));
            match (contestant.work)(seconds) {
                Ok(round) => done.push(round.rate()),
                Err(why) => *rates = Err(why),
            }
        }
    }
    rates
}

/// The middle value, or the mean of the two middle ones; none of no values.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(sorted[half - 1], sorted[half])),
        _ => Some(sorted[half]),
    }
}

/// The median of the rounds' ratios; none where one of the two has no rounds.
pub(super) fn median_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_pythons() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[9.0, 1.0, 4.0, 5.0]), Some(4.5));
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        // The machine was half as fast in the second round: no ratio changes.
        assert_eq!(median_ratio(&[20.0, 10.0, 22.0], &[10.0, 5.0, 11.0]), Some(2.0));
        assert_eq!(median_ratio(&[8.0, 9.0, 10.0], &[1.0, 9.0, 5.0]), Some(2.0));
        assert_eq!(median_ratio(&[8.0], &[]), None);
    }

    #[test]
    fn contestants_take_turns_and_one_that_fails_stops() {
        let order = std::cell::RefCell::new(String::new());
        let contestant = |name: char, lives: usize| {
            let (order, mut left) = (&order, lives);
            let work = move |seconds: f64| {
                order.borrow_mut().push(name);
                left = left.checked_sub(1).ok_or("it broke")?;
                Ok(Round { views: 10, seconds })
            };
            Contestant { name: name.into(), work: Box::new(work) }
        };
        let mut told = 0;
        let rates =
            interleave(vec![contestant('a', 9), contestant('b', 1), contestant('c', 9)], 3, 0.5, &mut |_| told += 1);
        assert_eq!(*order.borrow(), "abcabcac");
        assert_eq!(rates, [Ok(vec![20.0; 3]), Err("it broke".into()), Ok(vec![20.0; 3])]);
        assert_eq!(told, 8);
    }
}
