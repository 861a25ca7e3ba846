use super::*;

fn row(subject: Subject, rounds: &[f64]) -> Row {
    let mut row = Entrant::new(subject).row;
    row.passes = vec![Passes { views: 16, rounds: rounds.to_vec(), ..Passes::default() }];
    row
}

#[test]
fn ratios_are_medians_of_rounds() {
    let settings = Settings { views: vec![16], rounds: 3, seconds: 1.0, threads: 2, starts: 1 };
    let rows = vec![row(Subject::Network, &[1.0, 2.0, 1.0]), row(Subject::Torch, &[3.0, 6.0, 9.0])];
    let mut compared = Compared { settings, energy: None, rows };
    compared.relate();
    assert_eq!(compared.rows[0].passes[0].ratio, Some(1.0));
    assert_eq!(compared.rows[1].passes[0].ratio, Some(3.0));
}

#[test]
fn other_logits_are_found_out() {
    assert_eq!(difference(&[1.0, -2.0], &[1.0, -2.0]), 0.0);
    assert!((difference(&[1.0, -2.1], &[1.0, -2.0]) - 0.05).abs() < 1e-6);
    assert!(difference(&[1.0], &[1.0, 2.0]).is_nan());
    assert!(difference(&[f32::NAN, 0.0], &[1.0, 2.0]).is_nan());
    let shifted: Vec<f32> = log_softmax(&[1.0, 2.0, 3.0]).iter().map(|value| value + 7.0).collect();
    assert!(difference(&log_softmax(&shifted), &log_softmax(&[1.0, 2.0, 3.0])) < 1e-6);
}

#[test]
fn percentiles_are_those_of_the_sorted() {
    let times: Vec<f64> = (0..101).map(f64::from).collect();
    assert_eq!([0.0, 0.5, 0.95, 1.0].map(|share| percentile(&times, share)), [0.0, 50.0, 95.0, 100.0]);
    assert_eq!(percentile(&[4.0], 0.99), 4.0);
}

#[test]
fn subjects_have_the_words_of_the_command_line() {
    assert_eq!(Subject::TorchChannelsLast.word(), "torch-channels-last");
    assert_eq!(Subject::Network.word(), "network");
}
