//! The colour screens: what is above and below in every mode, and the picture with its verdict.

use super::palette::{BAD, BRIGHT, BUSY, DIM, GOOD, GRADES, GROUND, INK, OTHER, PANEL, TROUGH};
use super::plot::{area, bar, budget, duration, fill, percent, picture, scaled, views};
use super::{adapt, attack};
use crate::canvas::Canvas;
use crate::lettering::{Face, Line, Side, fit, write};
use crate::state::{Badge, Feed, Scene, Verdict, ViewState};
use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;

/// Columns that stay empty at either side.
pub(super) const MARGIN: i32 = 6;
/// The first row under the bar above.
pub(super) const TOP: i32 = 22;
/// The first row of the small print.
const FOOT: i32 = 225;
/// Side of the picture that is classified.
const PICTURE: i32 = 104;

/// Columns of a canvas.
pub(super) fn width(canvas: &Canvas<Rgb565>) -> i32 {
    canvas.size().width.cast_signed()
}

/// Draws the whole screen.
pub(super) fn paint(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>) {
    fill(canvas, canvas.bounding_box(), GROUND);
    head(canvas, state);
    match &state.scene {
        Scene::Live => live(canvas, state),
        Scene::Attack(duel) => attack::paint(canvas, state, duel),
        Scene::Adapt(adaptation) => adapt::paint(canvas, state, adaptation),
    }
    foot(canvas, state);
}

/// The badge, and how the source does.
fn head(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>) {
    let (text, colour) = match state.badge {
        Badge::Clean => (Line::of(format_args!("CLEAN")), GOOD),
        Badge::Attacked(epsilon) => (Line::of(format_args!("ATTACKED {}", &*budget(epsilon))), BAD),
        Badge::Adapting => (Line::of(format_args!("ADAPTING")), BUSY),
    };
    let text = fit(&text, Face::Strong, width(canvas) * 3 / 5);
    let wide = Face::Strong.width(&text);
    fill(canvas, area(MARGIN, 3, wide + 10, 16), colour);
    write(canvas, &text, Face::Strong, INK, (Point::new(MARGIN + 5, 5), wide, Side::Left));

    let (text, colour) = feed(state.feed);
    let left = MARGIN + wide + 18;
    let room = width(canvas) - MARGIN - left;
    let taken = write(canvas, &text, Face::Small, DIM, (Point::new(left + 10, 7), room - 10, Side::Right));
    fill(canvas, area(width(canvas) - MARGIN - taken - 10, 8, 6, 6), colour);
}

/// How a source does, in a word or two.
pub(super) fn feed(feed: Feed) -> (Line, Rgb565) {
    match feed {
        Feed::Starting => (Line::of(format_args!("starting")), BUSY),
        Feed::Live => (Line::of(format_args!("live")), GOOD),
        Feed::Paused => (Line::of(format_args!("paused")), OTHER),
        Feed::Stalled(seconds) => (Line::of(format_args!("no frame for {seconds} s")), BUSY),
        Feed::Lost(seconds) => (Line::of(format_args!("lost, retry in {seconds} s")), BAD),
        Feed::Broken(frames) => (Line::of(format_args!("broken frames: {frames}")), BAD),
        Feed::Ended => (Line::of(format_args!("ended")), OTHER),
    }
}

/// Time, device and small print.
fn foot(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>) {
    let right = width(canvas) - MARGIN;
    let time = duration(state.milliseconds);
    let figures = Line::of(format_args!("{} {}", &*time, state.device));
    let room = right - MARGIN;
    let taken = write(canvas, &figures, Face::Small, BRIGHT, (Point::new(MARGIN, FOOT), room * 3 / 5, Side::Left));
    let left = MARGIN + taken + 8;
    write(canvas, state.status, Face::Small, DIM, (Point::new(left, FOOT), right - left, Side::Right));
}

/// The picture with its crops, the verdict beside it, three classes below.
fn live(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>) {
    let room = area(MARGIN, TOP, PICTURE, PICTURE);
    if let Some(shown) = &state.picture {
        let inside = picture(canvas, shown, room);
        views(canvas, state.views, inside);
    } else {
        fill(canvas, room, PANEL);
        let at = Point::new(MARGIN, TOP + PICTURE / 2 - 6);
        write(canvas, "no picture yet", Face::Small, DIM, (at, PICTURE, Side::Middle));
    }
    let Some(verdict) = &state.verdict else { return };
    let left = MARGIN + PICTURE + 10;
    beside(canvas, verdict, left);
    let right = width(canvas) - MARGIN;
    for (rank, (name, probability)) in verdict.classes.iter().take(3).enumerate() {
        let y = TOP + PICTURE + 7 + 31 * i32::try_from(rank).expect("three at most");
        let (text, colour) = if rank == 0 { (BRIGHT, GOOD) } else { (DIM, OTHER) };
        let face = if rank == 0 { Face::Strong } else { Face::Text };
        let share = percent(*probability);
        let taken = write(canvas, &share, face, text, (Point::new(MARGIN, y), right - MARGIN, Side::Right));
        write(canvas, name, face, text, (Point::new(MARGIN, y), right - MARGIN - taken - 8, Side::Left));
        bar(canvas, area(MARGIN, y + 16, right - MARGIN, 8), *probability, (TROUGH, colour));
    }
}

/// The verdict, its probability, and how far the views agree.
fn beside(canvas: &mut Canvas<Rgb565>, verdict: &Verdict<'_>, left: i32) {
    let room = width(canvas) - MARGIN - left;
    let Some((name, probability)) = verdict.classes.first() else { return };
    // The largest face that the whole name fits in.
    let face = [Face::Huge, Face::Large].into_iter().find(|face| face.width(name) <= room).unwrap_or(Face::Large);
    write(canvas, name, face, BRIGHT, (Point::new(left, TOP), room, Side::Left));
    write(canvas, &percent(*probability), Face::Large, GOOD, (Point::new(left, TOP + 25), room, Side::Left));

    let agreed = if verdict.views > 1 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most the number of views
        let votes = (f64::from(verdict.agreement.clamp(0.0, 1.0)) * f64::from(verdict.views)).round() as u32;
        Line::of(format_args!("{votes}/{}", verdict.views))
    } else {
        Line::of(format_args!("1 view"))
    };
    let y = TOP + 50;
    let taken = write(canvas, &agreed, Face::Small, BRIGHT, (Point::new(left, y), room, Side::Right));
    write(canvas, "views agree", Face::Small, DIM, (Point::new(left, y), room - taken - 6, Side::Left));
    gauge(canvas, (left, y + 13, room), verdict.agreement);

    let y = TOP + 79;
    let margin = percent(verdict.margin);
    let taken = write(canvas, &margin, Face::Small, BRIGHT, (Point::new(left, y), room, Side::Right));
    write(canvas, "margin", Face::Small, DIM, (Point::new(left, y), room - taken - 6, Side::Left));
    bar(canvas, area(left, y + 13, room, 5), verdict.margin, (TROUGH, OTHER));
}

/// A gauge of ten cells: green as far as the views agree, red beyond it.
fn gauge(canvas: &mut Canvas<Rgb565>, (left, top, room): (i32, i32, i32), agreement: f32) {
    let colour = GRADES[usize::from(agreement >= 0.5) + usize::from(agreement >= 0.8)];
    bar(canvas, area(left, top, room, 8), agreement, (TROUGH, colour));
    for cell in 1..10 {
        let offset = scaled(cell as f32 / 10.0, room.unsigned_abs()).cast_signed();
        fill(canvas, area(left + offset, top, 1, 8), GROUND);
    }
}
