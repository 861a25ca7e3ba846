use super::*;

#[test]
fn sixels_decode_to_the_picture() {
    let mut image = RgbImage::from_pixel(9, 8, image::Rgb([0; 3]));
    image.put_pixel(2, 7, image::Rgb([255; 3]));
    let text = sixels(&image);
    assert!(text.starts_with("\x1bP0;1;0q\"1;1;9;8#") && text.ends_with("-\x1b\\"));
    // Two bands; the second has two rows of black but for one pixel, and one line more for white.
    assert_eq!(text.matches('-').count(), 2);
    assert!(text.contains("!9~"), "{text:?}");
    assert!(text.contains("BBA!6B") || text.contains("BB@!6B"), "{text:?}");
}

/// What does not change is not written again, a changed figure is a few cells, and at the end the cursor is back.
#[test]
fn only_what_changed_is_written() {
    let sizes: [fn() -> (u32, u32); 3] = [|| (24, 80), || (70, 170), || (125, 290)];
    for size in sizes {
        let mut terminal = Terminal::new(Vec::new(), Style::Blocks, Shape::Square, size);
        let classes = [("frog".to_owned(), 0.8), ("toad".to_owned(), 0.1)];
        let pixels = vec![90; 8 * 8 * 3];
        let verdict = crate::state::Verdict { classes: &classes, views: 4, agreement: 1.0, margin: 0.7 };
        let state = ViewState {
            picture: Some(crate::state::Picture { height: 8, width: 8, pixels: &pixels }),
            views: &[],
            verdict: Some(verdict),
            badge: Badge::Clean,
            scene: Scene::Live,
            feed: Feed::Live,
            milliseconds: Some(1.0),
            device: "cpu",
            status: "a model",
        };
        terminal.show(&state, Duration::ZERO).unwrap();
        let whole = terminal.out.len();
        assert!(String::from_utf8_lossy(&terminal.out).contains(" 80 % frog"));
        terminal.show(&state, Duration::ZERO).unwrap();
        assert_eq!(terminal.out.len(), whole);
        terminal.show(&ViewState { milliseconds: Some(2.0), ..state }, Duration::ZERO).unwrap();
        let more = terminal.out.len() - whole;
        assert!((1..4000).contains(&more), "{:?}: {more} of {whole} bytes", size());
        terminal.finish().unwrap();
        assert!(terminal.out.ends_with(b"\x1b[?25h\r\n"));
    }
}

fn paused(status: &str) -> ViewState<'_> {
    ViewState { feed: Feed::Paused, milliseconds: None, ..ViewState::saying(status) }
}

/// The rest of what was shown is somewhere else, though nothing else changed.
#[test]
fn another_size_is_drawn_anew() {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static ROWS: AtomicU32 = AtomicU32::new(24);
    let mut terminal = Terminal::new(Vec::new(), Style::Blocks, Shape::Square, || (ROWS.load(Relaxed), 80));
    terminal.show(&paused("a model"), Duration::ZERO).unwrap();
    assert!(!terminal.owes());
    ROWS.store(40, Relaxed);
    assert!(terminal.owes());
    terminal.out.clear();
    terminal.show(&paused("a model"), Duration::ZERO).unwrap();
    let again = String::from_utf8(terminal.out.clone()).unwrap();
    assert!(again.contains("\x1b[2J") && again.contains("a model") && !terminal.owes());
}

/// The smallest screen has no room for it.
#[test]
fn words_are_written_where_the_screen_stays_the_same() {
    let mut terminal = Terminal::new(Vec::new(), Style::Blocks, Shape::Mono, || (40, 170));
    terminal.show(&paused("a model"), Duration::ZERO).unwrap();
    terminal.out.clear();
    terminal.show(&paused("epsilon 9/255"), Duration::ZERO).unwrap();
    assert!(String::from_utf8_lossy(&terminal.out).contains("epsilon 9/255"));
}

/// A row below the last one is the last one for a terminal, and words there are gone.
#[test]
fn nothing_is_written_below_the_last_row() {
    let mut terminal = Terminal::new(Vec::new(), Style::Blocks, Shape::Square, || (8, 40));
    let scene = Scene::Adapt(crate::state::Adaptation { stage: Stage::Training(0.5), curve: &[0.5], guard: None });
    for state in [ViewState { scene, ..paused("a model") }, paused("a model")] {
        terminal.show(&state, Duration::ZERO).unwrap();
    }
    let text = String::from_utf8(terminal.out).unwrap();
    let rows = text.split("\x1b[").filter_map(|piece| piece.split_once('H')?.0.split_once(';')?.0.parse::<u32>().ok());
    assert!(rows.max() <= Some(8), "{text:?}");
}

#[test]
fn long_lines_are_shortened() {
    assert!(KEYS.iter().all(|line| line.len() <= COLUMN as usize - 2));
    assert_eq!(shortened("grand piano", 20), "grand piano");
    assert_eq!(shortened("grand piano", 9), "grand...");
    assert_eq!(shortened("grand piano", 2), "..");
    assert_eq!(bar(0.5), "##########----------");
}
