//! 128x64 in one colour: an icon for the mode, the label, how sure, and small print.

use super::plot::{area, bar, budget, curve, duration, fill, outline, percent, scaled};
use crate::canvas::Canvas;
use crate::lettering::{Face, Line, Side, write, write_lines};
use crate::state::{Adaptation, Badge, Duel, Feed, Scene, Stage, ViewState};
use embedded_graphics::pixelcolor::BinaryColor::{self, Off, On};
use embedded_graphics::prelude::*;

const WIDTH: i32 = 128;

/// Nine rows of nine bits, the left pixel the highest.
type Icon = [u16; 9];
const EYE: Icon = [0x000, 0x038, 0x0C6, 0x139, 0x17D, 0x139, 0x0C6, 0x038, 0x000];
const BOLT: Icon = [0x01C, 0x038, 0x070, 0x0FE, 0x03C, 0x078, 0x060, 0x0C0, 0x080];
const TURN: Icon = [0x07A, 0x086, 0x10E, 0x100, 0x101, 0x001, 0x0E1, 0x0C2, 0x0BC];
const BARS: Icon = [0x0EE, 0x0EE, 0x0EE, 0x0EE, 0x0EE, 0x0EE, 0x0EE, 0x0EE, 0x000];
const CROSS: Icon = [0x183, 0x1C7, 0x0EE, 0x07C, 0x038, 0x07C, 0x0EE, 0x1C7, 0x183];
const GLASS: Icon = [0x1FF, 0x082, 0x044, 0x028, 0x010, 0x028, 0x054, 0x0BA, 0x1FF];

fn icon(canvas: &mut Canvas<BinaryColor>, icon: &Icon, (x, y): (i32, i32)) {
    for (row, bits) in (y..).zip(icon) {
        for column in (0..9).filter(|column| bits >> (8 - column) & 1 == 1) {
            fill(canvas, area(x + column, row, 1, 1), On);
        }
    }
}

pub(super) fn paint(canvas: &mut Canvas<BinaryColor>, state: &ViewState<'_>) {
    fill(canvas, canvas.bounding_box(), Off);
    let mode = match state.badge {
        Badge::Clean => &EYE,
        Badge::Attacked(_) => &BOLT,
        Badge::Adapting => &TURN,
    };
    icon(canvas, mode, (0, 2));
    match &state.scene {
        Scene::Live => live(canvas, state),
        Scene::Attack(duel) => attack(canvas, duel),
        Scene::Adapt(adaptation) => adapt(canvas, state, adaptation),
    }
    foot(canvas, state);
}

/// Time at the right; at the left what is wrong with the source, else the small print.
fn foot(canvas: &mut Canvas<BinaryColor>, state: &ViewState<'_>) {
    const Y: i32 = 53;
    let taken = write(canvas, &duration(state.milliseconds), Face::Small, On, (Point::new(0, Y), WIDTH, Side::Right));
    let (mark, text) = match state.feed {
        Feed::Live => (None, Line::of(format_args!("{}", state.device))),
        Feed::Starting => (Some(&GLASS), Line::of(format_args!("starting"))),
        Feed::Paused => (Some(&BARS), Line::of(format_args!("paused"))),
        Feed::Stalled(seconds) => (Some(&GLASS), Line::of(format_args!("stalled {seconds} s"))),
        Feed::Lost(seconds) => (Some(&CROSS), Line::of(format_args!("lost, {seconds} s"))),
        Feed::Broken(frames) => (Some(&CROSS), Line::of(format_args!("broken: {frames}"))),
        Feed::Ended => (Some(&BARS), Line::of(format_args!("ended"))),
    };
    let mut left = 0;
    if let Some(mark) = mark {
        icon(canvas, mark, (0, Y + 1));
        left = 12;
    }
    write(canvas, &text, Face::Small, On, (Point::new(left, Y), WIDTH - taken - 5 - left, Side::Left));
}

fn live(canvas: &mut Canvas<BinaryColor>, state: &ViewState<'_>) {
    let Some((verdict, (name, probability))) = state.verdict.and_then(|v| Some((v, v.classes.first()?))) else {
        write(canvas, "no verdict yet", Face::Text, On, (Point::new(14, 0), WIDTH - 14, Side::Left));
        return;
    };
    let share = percent(*probability);
    let taken = write(canvas, &share, Face::Strong, On, (Point::new(0, 1), WIDTH, Side::Right));
    write(canvas, name, Face::Strong, On, (Point::new(14, 1), WIDTH - 14 - taken - 6, Side::Left));
    outline(canvas, area(0, 18, WIDTH, 9), On);
    bar(canvas, area(2, 20, WIDTH - 4, 5), *probability, (Off, On));
    let rest = verdict.classes.get(1);
    if let Some((name, probability)) = rest {
        let share = percent(*probability);
        let taken = write(canvas, &share, Face::Small, On, (Point::new(0, 29), WIDTH, Side::Right));
        write(canvas, name, Face::Small, On, (Point::new(0, 29), WIDTH - taken - 6, Side::Left));
    }
    let agree = percent(verdict.agreement);
    let text = Line::of(format_args!("{} views agree", verdict.views));
    let taken = write(canvas, &agree, Face::Small, On, (Point::new(0, 40), WIDTH, Side::Right));
    let text = if verdict.views == 1 { Line::of(format_args!("1 view")) } else { text };
    write(canvas, &text, Face::Small, On, (Point::new(0, 40), WIDTH - taken - 6, Side::Left));
}

fn attack(canvas: &mut Canvas<BinaryColor>, duel: &Duel<'_>) {
    if let Some(why) = duel.unavailable {
        write(canvas, "no attack here", Face::Strong, On, (Point::new(14, 0), WIDTH - 14, Side::Left));
        write_lines(canvas, why, Face::Small, On, (Point::new(0, 18), WIDTH, 2));
        return;
    }
    let title = Line::of(format_args!("attack {}", &*budget(duel.epsilon)));
    write(canvas, &title, Face::Strong, On, (Point::new(14, 0), WIDTH - 14, Side::Left));
    for (row, (views, effect)) in [(1, &duel.one), (duel.views, &duel.many)].into_iter().enumerate() {
        let y = 16 + 18 * i32::try_from(row).expect("two rows");
        let count = Line::of(format_args!("{views}"));
        let face = if Face::Strong.width(&count) <= 24 { Face::Strong } else { Face::Small };
        write(canvas, &count, face, On, (Point::new(0, y + 1), 26, Side::Left));
        let Some(effect) = effect else {
            write(canvas, "computing", Face::Small, On, (Point::new(26, y + 2), WIDTH - 26, Side::Left));
            continue;
        };
        let holds = effect.before.0 == effect.after.0;
        let word = if holds { "holds" } else { "fooled" };
        let taken = write(canvas, word, Face::Small, On, (Point::new(0, y), WIDTH, Side::Right));
        let name = effect.after.0;
        write(canvas, name, Face::Small, On, (Point::new(26, y), WIDTH - 26 - taken - 5, Side::Left));
        bar(canvas, area(26, y + 12, WIDTH - 26, 3), effect.after.1, (Off, On));
    }
}

fn adapt(canvas: &mut Canvas<BinaryColor>, state: &ViewState<'_>, adaptation: &Adaptation<'_>) {
    let name = state.verdict.and_then(|verdict| verdict.classes.first()).map_or("", |(name, _)| name);
    let (title, done) = match adaptation.stage {
        Stage::Collecting(have, want) => {
            #[allow(clippy::cast_precision_loss)] // a few hundred
            let share = have as f32 / want.max(1) as f32;
            (Line::of(format_args!("labels {have}/{want}")), Some(share))
        }
        Stage::Training(share) => (Line::of(format_args!("training {}", &*percent(share))), Some(share)),
        Stage::Promoted => (Line::of(format_args!("promoted")), None),
        Stage::RolledBack => (Line::of(format_args!("rolled back")), None),
        Stage::NotPromoted(why) => {
            write(canvas, "not promoted", Face::Strong, On, (Point::new(14, 0), WIDTH - 14, Side::Left));
            write_lines(canvas, why, Face::Small, On, (Point::new(0, 18), WIDTH, 3));
            return;
        }
        Stage::Unavailable(why) => {
            write(canvas, "no adapting", Face::Strong, On, (Point::new(14, 0), WIDTH - 14, Side::Left));
            write_lines(canvas, why, Face::Small, On, (Point::new(0, 18), WIDTH, 2));
            return;
        }
    };
    write(canvas, &title, Face::Strong, On, (Point::new(14, 0), WIDTH - 14, Side::Left));
    if let Some(done) = done {
        outline(canvas, area(0, 17, WIDTH, 7), On);
        fill(canvas, area(2, 19, scaled(done, (WIDTH - 4).unsigned_abs()).cast_signed(), 3), On);
        write(canvas, name, Face::Small, On, (Point::new(0, 27), 52, Side::Left));
        if let Some(latest) = adaptation.curve.last() {
            write(canvas, &percent(*latest), Face::Small, On, (Point::new(0, 39), 52, Side::Left));
        }
        curve(canvas, area(56, 27, WIDTH - 56, 22), adaptation.curve, (On, On));
    } else if let Some(guard) = adaptation.guard {
        for (y, name, [before, after]) in [(20, "clean", guard.clean), (34, "attacked", guard.attacked)] {
            let change = Line::of(format_args!("{} \u{bb} {}", &*percent(before), &*percent(after)));
            let taken = write(canvas, &change, Face::Small, On, (Point::new(0, y), WIDTH, Side::Right));
            write(canvas, name, Face::Small, On, (Point::new(0, y), WIDTH - taken - 5, Side::Left));
        }
    }
}
