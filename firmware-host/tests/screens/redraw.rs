//! What is sent piece by piece is what a whole redraw would send, and little of it.

use crate::states::Stock;
use embedded_graphics::mock_display::MockDisplay;
use embedded_graphics::pixelcolor::{BinaryColor, Rgb565};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use firmware_host::canvas::Canvas;
use firmware_host::screen::{MONO, Paint, SQUARE, Screen, WIDE};
use firmware_host::state::{Verdict, ViewState};
use proptest::prelude::*;

fn whole<C: Paint>(size: Size, state: &ViewState<'_>) -> Canvas<C> {
    let mut display = Canvas::new(size, C::GROUND);
    Screen::new(size).update(state, &mut display).unwrap();
    display
}

fn pieces_make_the_whole<C: Paint>(size: Size, order: &[usize]) {
    let stock = Stock::new();
    let states = stock.states();
    let mut display = Canvas::new(size, C::GROUND);
    let mut screen = Screen::new(size);
    for at in order {
        let (name, state) = &states[at % states.len()];
        screen.update(state, &mut display).unwrap();
        assert!(display == whole::<C>(size, state), "{name} of {order:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_sequence_of_updates_is_a_redraw(order in proptest::collection::vec(0usize..64, 1..12)) {
        pieces_make_the_whole::<Rgb565>(SQUARE, &order);
        pieces_make_the_whole::<Rgb565>(WIDE, &order);
        pieces_make_the_whole::<BinaryColor>(MONO, &order);
    }

    #[test]
    fn any_figures_can_be_shown(
        figures in proptest::collection::vec(any::<f32>(), 6),
        milliseconds in any::<Option<f64>>(),
        views in any::<u32>(),
        name in "\\PC{0,80}",
    ) {
        let stock = Stock::new();
        let classes: Vec<_> = figures[..4].iter().map(|&p| (name.clone(), p)).collect();
        let verdict = Verdict { classes: &classes, views, agreement: figures[4], margin: figures[5] };
        for (_, state) in stock.states() {
            let state = ViewState { verdict: Some(verdict), milliseconds, status: &name, device: &name, ..state };
            whole::<Rgb565>(SQUARE, &state);
            whole::<BinaryColor>(MONO, &state);
        }
    }
}

#[test]
fn a_changed_time_sends_few_pixels() {
    let stock = Stock::new();
    let (_, state) = stock.states()[1];
    for size in [SQUARE, WIDE] {
        let mut display = Canvas::new(size, Rgb565::GROUND);
        let mut screen = Screen::new(size);
        assert_eq!(screen.update(&state, &mut display).unwrap().pixels, size.width * size.height);
        assert_eq!(screen.update(&state, &mut display).unwrap().pixels, 0);
        let later = ViewState { milliseconds: Some(15.31), ..state };
        let sent = screen.update(&later, &mut display).unwrap();
        assert!(sent.areas <= 3 && (1..=1024).contains(&sent.pixels), "{sent:?}");
        screen.forget();
        assert_eq!(screen.update(&later, &mut display).unwrap().pixels, size.width * size.height);
    }
}

/// Refuses everything.
struct Unplugged;

impl OriginDimensions for Unplugged {
    fn size(&self) -> Size {
        SQUARE
    }
}

impl DrawTarget for Unplugged {
    type Color = Rgb565;
    type Error = &'static str;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb565>>>(&mut self, _: I) -> Result<(), Self::Error> {
        Err("unplugged")
    }
}

#[test]
fn a_display_that_refused_gets_every_pixel_the_next_time() {
    let stock = Stock::new();
    let states = stock.states();
    let mut screen = Screen::new(SQUARE);
    let mut display = Canvas::new(SQUARE, Rgb565::GROUND);
    screen.update(&states[0].1, &mut display).unwrap();
    screen.update(&states[1].1, &mut Unplugged).unwrap_err();
    screen.update(&states[2].1, &mut display).unwrap();
    assert!(display == whole::<Rgb565>(SQUARE, &states[2].1));
}

/// embedded-graphics' own display, 64x64, panics at what lies outside and at what is drawn twice.
#[test]
fn no_pixel_is_sent_twice() {
    struct Corner(MockDisplay<Rgb565>);
    impl OriginDimensions for Corner {
        fn size(&self) -> Size {
            SQUARE
        }
    }
    impl DrawTarget for Corner {
        type Color = Rgb565;
        type Error = std::convert::Infallible;
        fn draw_iter<I: IntoIterator<Item = Pixel<Rgb565>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
            let corner = Rectangle::new(Point::zero(), Size::new_equal(64));
            self.0.draw_iter(pixels.into_iter().filter(|Pixel(at, _)| corner.contains(*at)))
        }
    }
    let stock = Stock::new();
    let mut screen = Screen::new(SQUARE);
    for (_, state) in stock.states() {
        screen.update(&state, &mut Corner(MockDisplay::new())).unwrap();
    }
}
