//! A window, through embedded-graphics-simulator and SDL2.

use super::{Kept, Shape, Target, TargetError, desktop};
use crate::command::{Command, Mode};
use crate::state::ViewState;
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics_simulator::sdl2::Keycode;
use embedded_graphics_simulator::{OutputSettingsBuilder, SimulatorDisplay, SimulatorEvent, Window};
use std::time::{Duration, Instant};

/// How often the window is looked after.
const PATIENCE: Duration = Duration::from_millis(33);
/// How often it is painted though nothing changed: what another window covered is not there, and the simulator tells of none.
const REPAINT: Duration = Duration::from_secs(1);

/// A window that shows a screen, enlarged.
pub struct Pane {
    window: Window,
    display: SimulatorDisplay<Rgb888>,
    screen: Kept,
    painted: Instant,
}

impl Pane {
    /// Opens a window.
    ///
    /// # Errors
    /// Without a display to open it on.
    pub fn open(shape: Shape) -> Result<Self, TargetError> {
        desktop().map_err(|why| TargetError::new("window", format!("{why}: use terminal")))?;
        let screen = Kept::new(shape);
        let scale = if shape == Shape::Mono { 5 } else { 2 };
        let settings = OutputSettingsBuilder::new().scale(scale).build();
        let mut window = Window::new("Gabion", &settings);
        let display = SimulatorDisplay::new(screen.size());
        // The first update makes the window; events are there only after it.
        window.update(&display);
        Ok(Self { window, display, screen, painted: Instant::now() })
    }

    fn paint(&mut self) {
        self.window.update(&self.display);
        self.painted = Instant::now();
    }
}

/// What a key of a keyboard asks for.
fn command(key: Keycode) -> Option<Command> {
    match key {
        Keycode::Escape => Some(Command::Quit),
        Keycode::Up => Some(Command::Nudge(1)),
        Keycode::Down => Some(Command::Nudge(-1)),
        Keycode::Left => Some(Command::Mode(Mode::Live)),
        Keycode::Right => Some(Command::Mode(Mode::Attack)),
        key => u8::try_from(i32::from(key)).ok().and_then(|code| Command::of_key(char::from(code))),
    }
}

impl Target for Pane {
    fn show(&mut self, state: &ViewState<'_>, _: Duration) -> Result<(), TargetError> {
        let Some(area) = self.screen.update(state) else { return Ok(()) };
        let image = self.screen.image();
        let pixels = area.points().map(|at| {
            let [r, g, b] = image.get_pixel(at.x.unsigned_abs(), at.y.unsigned_abs()).0;
            Rgb888::new(r, g, b)
        });
        let Ok(()) = self.display.fill_contiguous(&area, pixels);
        self.paint();
        Ok(())
    }

    fn commands(&mut self) -> Vec<Command> {
        if self.painted.elapsed() >= REPAINT {
            self.paint();
        }
        let of = |event| match event {
            SimulatorEvent::Quit => Some(Command::Quit),
            SimulatorEvent::KeyDown { keycode, .. } => command(keycode),
            _ => None,
        };
        self.window.events().filter_map(of).collect()
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }
}
