//! Every state that a screen can be in, by name.

use firmware_host::state::*;
use gabion_spec::Pixels;

pub const LONG: &str = "grand piano, pianoforte with a very\nlong name: \u{fc}berlang \u{1f40c}";

/// Owns what a state borrows.
pub struct Stock {
    clean: Vec<u8>,
    attacked: Vec<u8>,
    tall: Vec<u8>,
    classes: Vec<(String, f32)>,
    long: Vec<(String, f32)>,
    views: Vec<View>,
    curve: Vec<f32>,
}

/// A bright disc on a slope of colours.
fn scene(height: u32, width: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let (dx, dy) = (i64::from(x) * 2 - i64::from(width), i64::from(y) * 2 - i64::from(height));
        if dx * dx + dy * dy < i64::from(width.min(height)).pow(2) / 3 {
            [230, 200, 90]
        } else {
            [(40 + 120 * x / width) as u8, (60 + 90 * y / height) as u8, 110]
        }
    };
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

impl Stock {
    pub fn new() -> Self {
        let clean = scene(48, 48);
        let sign = |at: usize| if at * 7919 % 13 < 6 { 8 } else { -8 };
        let attacked =
            clean.iter().enumerate().map(|(at, &value)| (i32::from(value) + sign(at)).clamp(0, 255) as u8).collect();
        let classes = |names: [&str; 3]| names.map(String::from).into_iter().zip([0.83, 0.121, 0.04]).collect();
        let areas = [[0.05, 0.1, 0.6, 0.7], [0.3, 0.2, 0.95, 0.9], [0.4, 0.5, 0.7, 0.98], [0.0, 0.0, 0.4, 0.35]];
        let views = (0..).zip(areas).map(|(at, area)| View { area, class: at / 3, agrees: at < 3 }).collect();
        let curve = vec![0.21, 0.2, 0.33, 0.41, 0.38, 0.52, 0.6, 0.63];
        let (tall, long) = (scene(64, 24), classes([LONG, LONG, LONG]));
        Self { clean, attacked, tall, classes: classes(["frog", "toad", "deer"]), long, views, curve }
    }

    fn live(&self) -> ViewState<'_> {
        ViewState {
            picture: Some(Picture { height: 48, width: 48, pixels: &self.clean }),
            views: &self.views,
            verdict: Some(Verdict { classes: &self.classes, views: 4, agreement: 0.75, margin: 0.709 }),
            badge: Badge::Clean,
            scene: Scene::Live,
            feed: Feed::Live,
            milliseconds: Some(12.34),
            device: "cpu",
            status: "cifar10-small",
        }
    }

    fn attack<'a>(&'a self, duel: Duel<'a>) -> ViewState<'a> {
        ViewState { badge: Badge::Attacked(duel.epsilon), scene: Scene::Attack(duel), ..self.live() }
    }

    fn adapt<'a>(&'a self, stage: Stage<'a>, rounds: usize, guard: Option<Guard>) -> ViewState<'a> {
        let badge = if matches!(stage, Stage::Training(_)) { Badge::Adapting } else { Badge::Clean };
        let scene = Scene::Adapt(Adaptation { stage, curve: &self.curve[..rounds], guard });
        ViewState { badge, scene, ..self.live() }
    }

    /// Name and state.
    pub fn states(&self) -> Vec<(&'static str, ViewState<'_>)> {
        let live = self.live();
        let long = Verdict { classes: &self.long, views: u32::MAX, agreement: -0.5, margin: f32::NAN };
        let perturbed = Some(Picture { height: 48, width: 48, pixels: &self.attacked });
        let epsilon = Pixels::of_255(8.0);
        let fooled = Some(Effect { before: ("frog", 0.83), after: ("bird", 0.61) });
        let holds = Some(Effect { before: ("frog", 0.88), after: ("frog", 0.52) });
        let duel = Duel { epsilon, perturbed, one: fooled, many: holds, views: 16, unavailable: None };
        let wordy = Some(Effect { before: (LONG, 1.0), after: ("automobile", 1.0) });
        let guard = Guard { clean: [0.92, 0.91], attacked: [0.23, 0.61] };
        let worse = Guard { clean: [0.92, 0.55], attacked: [0.23, 0.31] };
        let why = "gabion-runtime has no adaptation in this build: use the engine without a bundle";
        vec![
            (
                "starting",
                ViewState {
                    picture: None,
                    views: &[],
                    verdict: None,
                    feed: Feed::Starting,
                    milliseconds: None,
                    ..live
                },
            ),
            ("live", live),
            (
                "one-view",
                ViewState {
                    views: &[],
                    verdict: Some(Verdict { views: 1, agreement: 1.0, ..live.verdict.unwrap() }),
                    ..live
                },
            ),
            (
                "long",
                ViewState {
                    picture: Some(Picture { height: 64, width: 24, pixels: &self.tall }),
                    verdict: Some(long),
                    badge: Badge::Attacked(Pixels(0.012_345_678)),
                    feed: Feed::Lost(86_400),
                    milliseconds: Some(1e30),
                    device: "NVIDIA GeForce RTX 4090 (Vulkan)",
                    status: LONG,
                    ..live
                },
            ),
            ("paused", ViewState { feed: Feed::Paused, ..live }),
            ("stalled", ViewState { feed: Feed::Stalled(14), status: "/dev/video0", ..live }),
            ("lost", ViewState { feed: Feed::Lost(8), status: "no such device", ..live }),
            ("broken", ViewState { feed: Feed::Broken(3), status: "not a JPEG", ..live }),
            ("ended", ViewState { feed: Feed::Ended, ..live }),
            ("attack", self.attack(duel)),
            ("attack-computing", self.attack(Duel { perturbed: None, one: None, many: None, ..duel })),
            (
                "attack-long",
                self.attack(Duel { epsilon: Pixels(0.012_345_678), one: wordy, many: wordy, views: 4096, ..duel }),
            ),
            ("attack-unavailable", self.attack(Duel { perturbed: None, unavailable: Some(why), ..duel })),
            ("adapt-collecting", self.adapt(Stage::Collecting(37, 96), 0, None)),
            ("adapt-training", self.adapt(Stage::Training(0.42), 5, None)),
            ("adapt-long", ViewState { verdict: Some(long), ..self.adapt(Stage::Training(1.0), 8, None) }),
            ("adapt-promoted", self.adapt(Stage::Promoted, 8, Some(guard))),
            ("adapt-rolled-back", self.adapt(Stage::RolledBack, 8, Some(worse))),
            (
                "adapt-not-promoted",
                self.adapt(Stage::NotPromoted("no room for the new weights: free some"), 8, Some(guard)),
            ),
            ("adapt-unavailable", self.adapt(Stage::Unavailable(why), 0, None)),
        ]
    }
}
