//! The colours of the colour screens.

use embedded_graphics::pixelcolor::Rgb565;

pub const GROUND: Rgb565 = Rgb565::new(1, 3, 2);
pub const PANEL: Rgb565 = Rgb565::new(3, 7, 4);
pub const TROUGH: Rgb565 = Rgb565::new(5, 12, 7);
pub const BRIGHT: Rgb565 = Rgb565::new(30, 60, 30);
pub const DIM: Rgb565 = Rgb565::new(19, 40, 21);
/// Clean, agreeing, passed.
pub const GOOD: Rgb565 = Rgb565::new(6, 50, 19);
/// Attacked, fooled, refused.
pub const BAD: Rgb565 = Rgb565::new(31, 22, 10);
/// Adapting, waiting.
pub const BUSY: Rgb565 = Rgb565::new(31, 46, 6);
/// What is neither.
pub const OTHER: Rgb565 = Rgb565::new(9, 34, 26);
/// Text on `GOOD`, `BAD` and `BUSY`.
pub const INK: Rgb565 = Rgb565::new(1, 3, 2);
/// Agreement that is low, middling and high.
pub const GRADES: [Rgb565; 3] = [BAD, BUSY, GOOD];
/// All of them.
pub const DRAWN: [Rgb565; 9] = [GROUND, PANEL, TROUGH, BRIGHT, DIM, GOOD, BAD, BUSY, OTHER];
