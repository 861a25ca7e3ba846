//! Adaptation in colour: the picture goes on being classified; beside it the curve, below the guard's verdict.

use super::live::{MARGIN, TOP, width};
use super::palette::{BAD, BRIGHT, BUSY, DIM, GOOD, INK, OTHER, PANEL, TROUGH};
use super::plot::{area, bar, curve, fill, percent, picture, scaled, views};
use crate::canvas::Canvas;
use crate::lettering::{Face, Line, Side, write, write_lines};
use crate::state::{Adaptation, Stage, ViewState};
use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;

/// Side of the picture.
const PICTURE: i32 = 84;

pub(super) fn paint(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>, adaptation: &Adaptation<'_>) {
    let inner = width(canvas) - 2 * MARGIN;
    let room = area(MARGIN, TOP, PICTURE, PICTURE);
    fill(canvas, room, PANEL);
    if let Some(shown) = &state.picture {
        let inside = picture(canvas, shown, room);
        views(canvas, state.views, inside);
    }
    let y = TOP + PICTURE + 2;
    if let Some((name, probability)) = state.verdict.and_then(|verdict| verdict.classes.first()) {
        // The name goes before its figure where there is no room for both.
        let share = percent(*probability);
        let beside = Face::Strong.width(name) + 4 + Face::Text.width(&share) <= PICTURE;
        if beside {
            write(canvas, &share, Face::Text, DIM, (Point::new(MARGIN, y), PICTURE, Side::Right));
        }
        write(canvas, name, Face::Strong, BRIGHT, (Point::new(MARGIN, y), PICTURE, Side::Left));
    }

    let left = MARGIN + PICTURE + 10;
    let plot = area(left, TOP + 14, width(canvas) - MARGIN - left, PICTURE - 14);
    let mut title = "right under attack";
    if Face::Small.width(title) > plot.size.width.cast_signed() - 40 {
        title = "under attack";
    }
    write(canvas, title, Face::Small, DIM, (Point::new(left, TOP), plot.size.width.cast_signed() - 34, Side::Left));
    fill(canvas, plot, PANEL);
    for quarter in 1..4 {
        let row = scaled(quarter as f32 / 4.0, plot.size.height).cast_signed();
        fill(canvas, area(left, plot.top_left.y + row, plot.size.width.cast_signed(), 1), TROUGH);
    }
    if let Some(latest) = adaptation.curve.last() {
        let at = Point::new(left, TOP);
        write(canvas, &percent(*latest), Face::Small, BRIGHT, (at, plot.size.width.cast_signed(), Side::Right));
        curve(canvas, plot, adaptation.curve, (BUSY, BRIGHT));
    }

    let y = TOP + PICTURE + 22;
    stage(canvas, &adaptation.stage, (y, inner));
    let Some(guard) = adaptation.guard else { return };
    // Below the reason, where there is one.
    let y = y + if matches!(adaptation.stage, Stage::NotPromoted(_)) { 48 } else { 38 };
    let rows = [("clean", guard.clean), ("attacked", guard.attacked)];
    for (row, (name, [before, after])) in rows.into_iter().enumerate() {
        let y = y + 18 * i32::try_from(row).expect("two rows");
        let worse = after < before - 0.005;
        let colour = if worse { BAD } else { GOOD };
        write(canvas, name, Face::Text, DIM, (Point::new(MARGIN, y), 64, Side::Left));
        let change = Line::of(format_args!("{} \u{bb} {}", &*percent(before), &*percent(after)));
        let taken = write(canvas, &change, Face::Text, BRIGHT, (Point::new(MARGIN, y), inner, Side::Right));
        let long = inner - 70 - taken - 10;
        bar(canvas, area(MARGIN + 70, y + 2, long, 4), before, (TROUGH, OTHER));
        bar(canvas, area(MARGIN + 70, y + 8, long, 4), after, (TROUGH, colour));
    }
}

/// Where it stands, in a line and a bar.
fn stage(canvas: &mut Canvas<Rgb565>, stage: &Stage<'_>, (y, inner): (i32, i32)) {
    let (name, figure, done, colour) = match *stage {
        Stage::Collecting(have, want) => {
            #[allow(clippy::cast_precision_loss)] // a few hundred
            let share = have as f32 / want.max(1) as f32;
            (Line::of(format_args!("labelled frames")), Line::of(format_args!("{have}/{want}")), share, OTHER)
        }
        Stage::Training(share) => (Line::of(format_args!("training")), percent(share), share, BUSY),
        Stage::Promoted => return tag(canvas, ("PROMOTED", "the new weights classify", GOOD), (y, inner)),
        Stage::RolledBack => return tag(canvas, ("ROLLED BACK", "the old weights classify", BAD), (y, inner)),
        Stage::NotPromoted(why) => {
            tag(canvas, ("NOT PROMOTED", "the old weights classify", BAD), (y, inner));
            write_lines(canvas, why, Face::Small, DIM, (Point::new(MARGIN, y + 21), inner, 2));
            return;
        }
        Stage::Unavailable(why) => {
            write(canvas, "no adaptation here", Face::Strong, BAD, (Point::new(MARGIN, y), inner, Side::Left));
            write_lines(canvas, why, Face::Small, DIM, (Point::new(MARGIN, y + 18), inner, 4));
            return;
        }
    };
    let taken = write(canvas, &figure, Face::Strong, BRIGHT, (Point::new(MARGIN, y), inner, Side::Right));
    write(canvas, &name, Face::Strong, BRIGHT, (Point::new(MARGIN, y), inner - taken - 8, Side::Left));
    bar(canvas, area(MARGIN, y + 17, inner, 8), done, (TROUGH, colour));
}

/// A word on a colour, and what it means beside it.
fn tag(canvas: &mut Canvas<Rgb565>, (word, meaning, colour): (&str, &str, Rgb565), (y, inner): (i32, i32)) {
    let wide = Face::Strong.width(word) + 10;
    fill(canvas, area(MARGIN, y, wide, 17), colour);
    write(canvas, word, Face::Strong, INK, (Point::new(MARGIN + 5, y + 2), wide, Side::Left));
    let left = MARGIN + wide + 8;
    let room = inner + MARGIN - left;
    let meaning = if Face::Text.width(meaning) <= room { meaning } else { meaning.trim_start_matches("the ") };
    let face = if Face::Text.width(meaning) <= room { Face::Text } else { Face::Small };
    write(canvas, meaning, face, BRIGHT, (Point::new(left, y + 3), room, Side::Left));
}
