//! Draws against torchvision's distributions.

use super::{integer, json, list, number, pair, size};
use gabion_augment::{Augment, Draw, ViewId, sample};
use gabion_spec::{Crop, Jitter};
use serde_json::Value;
use std::collections::BTreeMap;

/// How many standard errors two samples may differ by. There are some 200 comparisons; one of them is beyond five
/// by chance once in ten thousand seeds.
const STANDARD_ERRORS: f64 = 5.0;

/// One number of a draw.
type Column = fn(&Draw) -> f64;

fn draws(augment: &Augment, source: [u32; 2], count: u32) -> Vec<Draw> {
    (0..count).map(|image| sample(augment, ViewId { seed: 1, epoch: 2, image, view: 3 }, source)).collect()
}

/// Compares a sample with the mean, standard deviation and quantiles of torchvision's of the same size.
fn assert_distributed(name: &str, mut values: Vec<f64>, expected: &Value) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let moment = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / n;
    let (deviation, fourth) = (moment(2).sqrt(), moment(4));
    // Both sides are samples, hence the 2.
    let of_mean = deviation * (2.0 / n).sqrt();
    let of_deviation = ((fourth - deviation.powi(4)).max(0.0) * 2.0 / n).sqrt() / (2.0 * deviation).max(1e-12);
    for (what, found, standard_error) in [("mean", mean, of_mean), ("std", deviation, of_deviation)] {
        let expected = number(&expected[what]);
        assert!(
            (found - expected).abs() <= STANDARD_ERRORS * standard_error + 1e-9,
            "{name}: {what} {found}, torchvision {expected}, standard error {standard_error}"
        );
    }
    values.sort_by(f64::total_cmp);
    for (percent, value) in expected["quantiles"].as_object().expect("quantiles") {
        let (share, value) = (percent.parse::<f64>().expect("a percentage") / 100.0, number(value));
        let tolerance = STANDARD_ERRORS * (2.0 * share * (1.0 - share) / n).sqrt();
        let below = values.partition_point(|&other| other < value - 1e-9) as f64 / n;
        let up_to = values.partition_point(|&other| other <= value + 1e-9) as f64 / n;
        assert!(
            below <= share + tolerance && up_to >= share - tolerance,
            "{name}: {percent} % of torchvision's are up to {value}; here {below} are below and {up_to} up to it"
        );
    }
}

#[test]
fn crops_are_distributed_as_torchvision_s() {
    for expected in list(&json("augment.json")["random_resized_crop"]) {
        let crop = Crop { scale: pair(&expected["scale"]), ratio: pair(&expected["ratio"]) };
        let source = size(&expected["source"]);
        let draws = draws(&Augment { crop, ..Augment::default() }, source, integer(&expected["draws"]));
        let area = f64::from(source[0] * source[1]);
        let columns: [(&str, Column); 5] = [
            ("top", |draw| draw.top.into()),
            ("left", |draw| draw.left.into()),
            ("height", |draw| draw.height.into()),
            ("width", |draw| draw.width.into()),
            ("area_fraction", |draw| f64::from(draw.height * draw.width)),
        ];
        for (name, column) in columns {
            let scale = if name == "area_fraction" { area } else { 1.0 };
            let values = draws.iter().map(|draw| column(draw) / scale).collect();
            assert_distributed(&format!("{} {name}", expected["name"]), values, &expected[name]);
        }
    }
}

#[test]
fn jitter_is_distributed_as_torchvision_s() {
    let expected = &json("augment.json")["color_jitter"];
    let jitter = Jitter { probability: 1.0, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.2 };
    let draws = draws(&Augment { jitter: Some(jitter), ..Augment::default() }, [32, 32], integer(&expected["draws"]));
    let columns: [(&str, Column); 4] = [
        ("brightness", |draw| draw.brightness.into()),
        ("contrast", |draw| draw.contrast.into()),
        ("saturation", |draw| draw.saturation.into()),
        ("hue", |draw| draw.hue.into()),
    ];
    for (name, column) in columns {
        let values = draws.iter().map(column).collect();
        assert_distributed(name, values, &expected["factors"][name]);
    }
    let mut orders: BTreeMap<String, f64> = BTreeMap::new();
    for draw in &draws {
        *orders.entry(draw.jitter_order().map(|op| (op as u32).to_string()).concat()).or_default() += 1.0;
    }
    let frequencies = expected["order_frequencies"].as_object().expect("frequencies");
    assert_eq!(orders.len(), frequencies.len());
    let n = draws.len() as f64;
    for (order, expected) in frequencies {
        let (found, expected) = (orders[order] / n, number(expected));
        let standard_error = (2.0 / 24.0 * (23.0 / 24.0) / n).sqrt();
        assert!((found - expected).abs() <= STANDARD_ERRORS * standard_error, "{order}: {found}, {expected}");
    }
}

#[test]
fn crop_sizes_round_as_torchvision_s() {
    for case in list(&json("augment.json")["crop_sizes"]) {
        let (scale, ratio) = (number(&case["scale"]), number(&case["ratio"]));
        let crop = Crop { scale: [scale, scale], ratio: [ratio, ratio] };
        let source = size(&case["source"]);
        let draw = draws(&Augment { crop, ..Augment::default() }, source, 1)[0];
        if case["fits"].as_bool().expect("a bool") {
            assert_eq!([draw.height, draw.width], size(case), "{case}");
        }
    }
}

#[test]
fn crops_that_never_fit_are_torchvision_s() {
    for case in list(&json("augment.json")["crop_fallbacks"]) {
        let crop = Crop { scale: pair(&case["scale"]), ratio: pair(&case["ratio"]) };
        let draw = draws(&Augment { crop, ..Augment::default() }, size(&case["source"]), 1)[0];
        let found = [draw.top, draw.left, draw.height, draw.width];
        assert_eq!(found, ["top", "left", "height", "width"].map(|key| integer(&case["box"][key])), "{case}");
    }
}
