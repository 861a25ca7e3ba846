//! Plots as SVG text to stand within the page.
//!
//! Colours are names here, not colours: the page's style sheet replaces each, so that a plot follows the reader's
//! scheme and the printer's.

use super::{MARKS, ModelReport, ReportError};
use crate::measure::Rate;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::error::Error;
use std::fmt::Display;
use std::ops::Range;

const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);

/// The place of the colour of a model.
fn colour(model: usize) -> RGBColor {
    RGBColor(3, u8::try_from(model % MARKS.len()).expect("there are few colours"), 3)
}

/// Small, so that text is still read where a phone shows the plot at half its size.
const SIZE: (u32, u32) = (560, 380);
/// Of text; plotters sets it at 1/1.24 of this.
const TEXT: u32 = 21;

fn text() -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&INK)
}

fn failed(what: &'static str) -> impl Fn(&dyn Display) -> ReportError {
    move |error| ReportError::Plot { what, why: error.to_string().replace('\n', " ") }
}

/// An axis with ticks where they are asked for.
struct Ticks {
    range: Range<f64>,
    at: Vec<f64>,
}

impl Ranged for Ticks {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.at.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Shares at places, in the colour and with the mark of a series.
pub(crate) struct Curve {
    /// Its place in [`MARKS`].
    pub series: usize,
    /// By rising place.
    pub points: Vec<(f64, Rate)>,
    /// What is drawn of it.
    pub drawn: Drawn,
}

/// What is drawn of a curve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drawn {
    /// A line, and at each point a mark and its interval.
    Through,
    /// Marks and intervals alone.
    Marks,
    /// A line with a mark at its end.
    Line,
}

/// The axis below shares.
pub(crate) struct Places<'a> {
    /// What it counts.
    pub what: &'a str,
    /// Where its ticks stand, rising.
    pub ticks: Vec<f64>,
    /// A place from which on distances shrink, so that budgets which double stand evenly; none for an even axis.
    pub unit: Option<f64>,
    /// A tick in words.
    pub label: &'a dyn Fn(f64) -> String,
}

impl Places<'_> {
    fn put(&self, x: f64) -> f64 {
        self.unit.map_or(x, |unit| (1.0 + x / unit).log2())
    }

    fn value(&self, place: f64) -> f64 {
        self.unit.map_or(place, |unit| unit * (place.exp2() - 1.0))
    }
}

/// Accuracy against budget, the clean accuracy at budget 0.
pub(super) fn accuracy(models: &[ModelReport]) -> Result<String, ReportError> {
    let curves: Vec<Curve> = models
        .iter()
        .enumerate()
        .map(|(series, model)| {
            let attacked = model.points.iter().map(|(epsilon, rate)| (255.0 * f64::from(epsilon.0), *rate));
            let mut points: Vec<_> = std::iter::once((0.0, model.clean)).chain(attacked).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Curve { series, points, drawn: Drawn::Through }
        })
        .collect();
    let places = Places { what: "budget of the attack (1/255)", ticks: ticks(&curves), unit: None, label: &levels };
    shares(&curves, &places, "Accuracy of each model against the budget of the attack; the table holds the numbers")
}

/// A tick at every place that a curve has a point at.
pub(crate) fn ticks(curves: &[Curve]) -> Vec<f64> {
    let mut ticks: Vec<f64> = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup_by(|a, b| (*a - *b).abs() < 0.05);
    ticks
}

/// Levels of 255, with a digit where they are not whole.
pub(crate) fn levels(x: f64) -> String {
    if x.fract().abs() < 0.05 { format!("{x:.0}") } else { format!("{x:.1}") }
}

/// Shares in percent against places; `name` says what is to be seen to a reader who does not see it.
pub(crate) fn shares(curves: &[Curve], places: &Places<'_>, name: &str) -> Result<String, ReportError> {
    let failed = failed("accuracy");
    let furthest = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).fold(0.0, f64::max);
    let widest = Some(places.put(furthest)).filter(|&widest| widest > 0.0).unwrap_or(1.0);
    let room = 0.035 * widest;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let x = Ticks { range: -room..widest + room, at: places.ticks.iter().map(|&tick| places.put(tick)).collect() };
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(52)
            .y_label_area_size(64)
            .build_cartesian_2d(x, 0.0..100.0)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(text())
            .axis_desc_style(text())
            .x_desc(places.what)
            .y_desc("accuracy (%)")
            .y_labels(6)
            .x_label_formatter(&|&place| (places.label)(places.value(place)))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .draw()
            .map_err(|error| failed(&error))?;
        for (at, curve) in curves.iter().enumerate() {
            let (colour, points) = (colour(curve.series), &curve.points);
            // Side by side, so that no interval hides another.
            let aside = match curve.drawn {
                Drawn::Line => 0.0,
                _ => (at as f64 - (curves.len() as f64 - 1.0) / 2.0) * 0.012 * widest,
            };
            let at = |(x, rate): &(f64, Rate)| (places.put(*x) + aside, 100.0 * rate.accuracy);
            if curve.drawn != Drawn::Marks {
                chart
                    .draw_series(LineSeries::new(points.iter().map(at), colour.stroke_width(3)))
                    .map_err(|error| failed(&error))?;
            }
            let marked = if curve.drawn == Drawn::Line { &points[points.len().saturating_sub(1)..] } else { points };
            let bars = marked.iter().map(|(x, rate)| {
                let ends = [100.0 * rate.low, 100.0 * rate.high].map(|y| (places.put(*x) + aside, y));
                PathElement::new(ends.to_vec(), colour.stroke_width(2))
            });
            chart.draw_series(bars).map_err(|error| failed(&error))?;
            marks(&mut chart, curve.series, marked.iter().map(at)).map_err(|error| failed(&error))?;
        }
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(named(&svg, name))
}

/// Loss against optimizer step; none where no model has a finite one.
pub(super) fn loss(models: &[ModelReport]) -> Result<Option<String>, ReportError> {
    let failed = failed("loss");
    let series: Vec<Vec<(f64, f64)>> = models
        .iter()
        .map(|model| {
            let finite = model.loss.iter().filter(|(_, loss)| loss.is_finite());
            finite.map(|&(step, loss)| (step as f64, f64::from(loss))).collect()
        })
        .collect();
    let Some(last) = series.iter().flatten().map(|point| point.0).reduce(f64::max) else { return Ok(None) };
    // A handful of outliers must not flatten the rest.
    let mut losses: Vec<f64> = series.iter().flatten().map(|point| point.1).collect();
    losses.sort_by(f64::total_cmp);
    let (low, high) = (losses[losses.len() / 200], losses[losses.len() - 1 - losses.len() / 200]);
    let room = (0.06 * (high - low)).max(1e-3 * high.abs()).max(1e-6);
    let (low, high) = (low - room, high + room);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(52)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..last.max(1.0), low..high)
            .map_err(|error| failed(&error))?;
        let digits = if high - low >= 10.0 { 0 } else { 2 };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(text())
            .axis_desc_style(text())
            .x_desc("optimizer step")
            .y_desc("loss")
            .x_labels(5)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.digits$}").replace('-', "−"))
            .draw()
            .map_err(|error| failed(&error))?;
        let within = |(x, y): (f64, f64)| (x, y.clamp(low, high));
        for (model, points) in series.iter().enumerate() {
            let colour = colour(model);
            let faint = LineSeries::new(thinned(points).into_iter().map(within), colour.mix(0.3).stroke_width(1));
            chart.draw_series(faint).map_err(|error| failed(&error))?;
        }
        for (model, points) in series.iter().enumerate() {
            let mean = thinned(&running_mean(points)).into_iter().map(within);
            chart.draw_series(LineSeries::new(mean, colour(model).stroke_width(3))).map_err(|error| failed(&error))?;
            // The mark of the legend, for readers who do not see the colours.
            let end = running_mean(points).last().copied().map(within);
            marks(&mut chart, model, end.into_iter()).map_err(|error| failed(&error))?;
        }
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(Some(named(&svg, "Loss of each model against the optimizer step")))
}

/// Points with the shape of [`MARKS`].
fn marks<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    model: usize,
    points: impl Iterator<Item = (f64, f64)>,
) -> Result<(), Box<dyn Error + 'a>>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let filled = colour(model).filled();
    let corners: &[(i32, i32)] = match model % MARKS.len() {
        0 => {
            chart.draw_series(points.map(|at| Circle::new(at, 6, filled)))?;
            return Ok(());
        }
        1 => &[(-6, -6), (6, -6), (6, 6), (-6, 6)],
        2 => &[(0, -8), (7, 6), (-7, 6)],
        3 => &[(0, -8), (8, 0), (0, 8), (-8, 0)],
        4 => &[(0, 8), (7, -6), (-7, -6)],
        _ => &CROSS,
    };
    chart.draw_series(points.map(|at| EmptyElement::at(at) + Polygon::new(corners.to_vec(), filled)))?;
    Ok(())
}

#[rustfmt::skip]
const CROSS: [(i32, i32); 12] = [
    (-3, -8), (3, -8), (3, -3), (8, -3), (8, 3), (3, 3), (3, 8), (-3, 8), (-3, 3), (-8, 3), (-8, -3), (-3, -3),
];

/// Means over windows of a 25th of the points, each at its middle.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 50;
    // Whole windows only: the replays of a minibatch differ so much that a shorter one would jump at the ends.
    points
        .windows(2 * reach + 1)
        .map(|window| (window[reach].0, window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64))
        .collect()
}

/// At most some 600 of the points, the last among them.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(600).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last).map(|(_, point)| *point).collect()
}

/// The SVG as an image with a name; as wide as its place.
fn named(svg: &str, name: &str) -> String {
    svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{name}\" "), 1)
}
