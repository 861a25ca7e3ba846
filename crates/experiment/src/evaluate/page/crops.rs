//! The classifier over crops: what the attack on every crop by itself says, beside the attack on the image.

use super::{bar, number};
use crate::evaluate::{ViewRow, Views};
use crate::measure::Rate;
use gabion_spec::Norm;
use minijinja::context;
use minijinja::value::Value;

pub(super) fn section(views: &Views) -> Value {
    let groups = views.rows.chunk_by(|a, b| a.epsilon == b.epsilon);
    context! {
        views => views.views,
        clean => number(views.clean),
        clean_bar => bar(views.clean),
        groups => groups.map(group).collect::<Vec<_>>(),
    }
}

/// The attacks of one budget.
fn group(rows: &[ViewRow]) -> Value {
    let alone = rows.iter().find(|row| row.eot.is_none());
    let row = |row: &ViewRow| {
        let (name, series) = match row.eot {
            None => ("every crop by itself".to_string(), 1),
            Some(1) => ("the image, 1 draw a step".to_string(), 0),
            Some(draws) => (format!("the image, {draws} draws a step"), 0),
        };
        let beside = alone.filter(|_| row.eot.is_some());
        context! {
            name,
            series,
            rate => number(row.rate),
            bar => bar(row.rate),
            difference => beside.map(|alone| points(row.rate.accuracy - alone.rate.accuracy)),
        }
    };
    context! {
        budget => rows.first().map(|row| super::budget(Norm::Linf, row.epsilon)),
        rows => rows.iter().map(row).collect::<Vec<_>>(),
        words => words(rows).iter().map(|words| super::unbroken(words)).collect::<Vec<_>>(),
    }
}

/// Such as `−12.8`.
fn points(share: f64) -> String {
    format!("{:+.1}", 100.0 * share).replace('-', "−")
}

/// What the rows of one budget say about each other.
fn words(rows: &[ViewRow]) -> Vec<String> {
    let image: Vec<(u32, Rate)> = rows.iter().filter_map(|row| Some((row.eot?, row.rate))).collect();
    let crops = rows.iter().find(|row| row.eot.is_none()).map(|row| row.rate);
    let mut words = Vec::new();
    let least = image.iter().copied().min_by(|a, b| a.1.accuracy.total_cmp(&b.1.accuracy));
    if let (Some(crops), Some((draws, least))) = (crops, least) {
        let percent = |rate: Rate| format!("{:.1} %", 100.0 * rate.accuracy);
        let gap = 100.0 * (crops.accuracy - least.accuracy);
        let apart = crops.low > least.high || least.low > crops.high;
        let chance = if apart { "their 95 % intervals lie apart" } else { "their 95 % intervals overlap" };
        let times = if draws == 1 { "1 draw".to_string() } else { format!("{draws} draws") };
        words.push(if gap > 0.0 {
            let found = if apart { "is the stronger one" } else { "finds a little more" };
            format!(
                "The attack on the image {found}: with {times} a step it leaves {}, {gap:.1} points less than the {} of the \
                 attack on every crop ({chance}).{}",
                percent(least),
                percent(crops),
                if apart { " The figure per crop says too much of what stands an attacker who has the image." } else { "" }
            )
        } else if gap < 0.0 {
            let found = if apart { "is the stronger one" } else { "finds a little more" };
            format!(
                "The attack on every crop {found}: it leaves {}, {:.1} points less than the strongest attack on the image \
                 ({}, {times} a step; {chance}). It perturbs each crop by itself, which nobody can do to one image.",
                percent(crops),
                -gap,
                percent(least)
            )
        } else {
            format!("The attack on every crop and that on the image leave the same {}.", percent(crops))
        });
    }
    if let [(first, from), .., (last, to)] = image[..] {
        let path: Vec<String> = image.iter().map(|(_, rate)| format!("{:.1}", 100.0 * rate.accuracy)).collect();
        let fall = 100.0 * (from.accuracy - to.accuracy);
        words.push(format!(
            "From {first} to {last} draws a step accuracy goes {} %: {}",
            path.join(" → "),
            if fall >= 1.0 {
                "more draws find more, so that the last figure is no floor."
            } else {
                "more draws find less than a point more."
            }
        ));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Cost;
    use gabion_spec::Pixels;

    fn rows(rights: [u64; 4]) -> Vec<ViewRow> {
        let eot = [None, Some(1), Some(5), Some(20)];
        let row = |(eot, right)| ViewRow {
            name: String::new(),
            norm: gabion_spec::Norm::Linf,
            epsilon: Pixels::of_255(8.0),
            eot,
            rate: Rate::new(right, 1000),
            passes: Cost::default(),
            seconds: 1.0,
        };
        eot.into_iter().zip(rights).map(row).collect()
    }

    #[test]
    fn words_say_which_attack_is_stronger_and_whether_it_may_be_chance() {
        let said = words(&rows([500, 450, 420, 400]));
        assert!(said[0].contains("leaves 40.0 %, 10.0 points less than the 50.0 %") && said[0].contains("apart"));
        assert!(said[1].contains("45.0 → 42.0 → 40.0 %") && said[1].contains("no floor"), "{}", said[1]);
        let said = words(&rows([480, 510, 505, 502]));
        assert!(said[0].contains("every crop finds a little more") && said[0].contains("2.2 points"), "{}", said[0]);
        assert!(said[0].contains("overlap") && said[1].contains("less than a point"));
        assert!(words(&rows([500; 4]))[0].contains("the same 50.0 %"));
        assert_eq!(points(-0.128), "−12.8");
        assert!(words(&[]).is_empty());
    }
}
