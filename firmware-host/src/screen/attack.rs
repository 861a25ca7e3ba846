//! Attack in colour: the picture, what was added and the sum; below, what one view and what many say.

use super::live::{MARGIN, TOP, width};
use super::palette::{BAD, BRIGHT, DIM, GOOD, INK, OTHER, PANEL, TROUGH};
use super::plot::{area, bar, budget, difference, fill, percent, picture, views};
use crate::canvas::Canvas;
use crate::lettering::{Face, Line, Side, write, write_lines};
use crate::state::{Duel, Effect, ViewState};
use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;

/// Columns between pictures and between the two columns of text.
const GAP: i32 = 6;

pub(super) fn paint(canvas: &mut Canvas<Rgb565>, state: &ViewState<'_>, duel: &Duel<'_>) {
    let inner = width(canvas) - 2 * MARGIN;
    let side = ((inner - 2 * GAP) / 3).min(86);
    let pitch = (inner - side) / 2;
    let [first, second, third] = [0, 1, 2].map(|at| area(MARGIN + at * pitch, TOP, side, side));
    [first, second, third].into_iter().for_each(|room| fill(canvas, room, PANEL));
    if let Some(shown) = &state.picture {
        let inside = picture(canvas, shown, first);
        views(canvas, state.views, inside);
        if let Some(perturbed) = &duel.perturbed {
            difference(canvas, shown, perturbed, second);
            picture(canvas, perturbed, third);
        }
    }
    let y = TOP + side + 2;
    let added = Line::of(format_args!("+ {}", &*budget(duel.epsilon)));
    for (room, text) in [(first, "clean"), (second, &*added), (third, "attacked")] {
        write(canvas, text, Face::Small, DIM, (Point::new(room.top_left.x, y), side, Side::Middle));
    }
    if let Some(why) = duel.unavailable {
        write(canvas, "no attack here", Face::Strong, BAD, (Point::new(MARGIN, y + 24), inner, Side::Left));
        write_lines(canvas, why, Face::Small, DIM, (Point::new(MARGIN, y + 42), inner, 4));
        return;
    }
    let column = (inner - GAP - 2) / 2;
    let many = Line::of(format_args!("{} views", duel.views));
    effect(canvas, "1 view", duel.one.as_ref(), (MARGIN, y + 16, column));
    effect(canvas, &many, duel.many.as_ref(), (MARGIN + column + GAP + 2, y + 16, column));
}

/// A column: what it was taken for before and after, and whether that held.
fn effect(canvas: &mut Canvas<Rgb565>, title: &str, effect: Option<&Effect<'_>>, (x, y, room): (i32, i32, i32)) {
    let Some(Effect { before, after }) = effect else {
        write(canvas, title, Face::Strong, BRIGHT, (Point::new(x, y), room, Side::Left));
        write(canvas, "computing", Face::Small, DIM, (Point::new(x, y + 18), room, Side::Left));
        return;
    };
    let holds = before.0 == after.0;
    let (word, colour) = if holds { ("HOLDS", GOOD) } else { ("FOOLED", BAD) };
    let wide = Face::Small.width(word) + 6;
    fill(canvas, area(x + room - wide, y, wide, 13), colour);
    write(canvas, word, Face::Small, INK, (Point::new(x + room - wide + 3, y + 2), wide, Side::Left));
    let room_left = room - wide - 2;
    let face = if Face::Strong.width(title) <= room_left { Face::Strong } else { Face::Small };
    write(canvas, title, face, BRIGHT, (Point::new(x, y), room_left, Side::Left));
    for (row, ((name, probability), colour)) in [(before, OTHER), (after, colour)].into_iter().enumerate() {
        let y = y + 18 + if row == 0 { 0 } else { 25 };
        let share = percent(*probability);
        let taken = write(canvas, &share, Face::Text, BRIGHT, (Point::new(x, y), room, Side::Right));
        write(canvas, name, Face::Text, BRIGHT, (Point::new(x, y), room - taken - 5, Side::Left));
        bar(canvas, area(x, y + 15, room, 5), *probability, (TROUGH, colour));
    }
}
