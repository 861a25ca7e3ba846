use super::super::tests::{picture, stored};
use super::super::{Classify, seen_on_cpu};
use super::*;
use crate::Rgb;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

/// When a device breaks.
#[derive(Clone, Copy, Debug)]
enum Breaks {
    /// It panics, as drivers' wrappers do, at this pass and ever after.
    LostAt(usize),
    /// It says that it is lost, the same.
    SaysLostAt(usize),
    /// It panics for want of memory where there are more views than these at once.
    MemoryAbove(usize),
    /// In half precision a logit overflows.
    Overflows,
}

/// What was asked of a device.
#[derive(Debug, Default)]
struct Log {
    passes: AtomicUsize,
    /// Views of the largest pass that was computed.
    largest: AtomicUsize,
    abandoned: AtomicBool,
}

/// The CPU's network, behaving as a device that breaks.
#[derive(Debug)]
struct Breaking {
    network: Network,
    size: [u32; 2],
    breaks: Breaks,
    precision: Precision,
    log: Arc<Log>,
}

impl Device for Breaking {
    fn compute_in(&mut self, precision: Precision) {
        self.precision = precision;
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn logits(&self, seen: Seen<'_>, pixels: &[f32]) -> Result<Vec<f32>, Trouble> {
        let net = &self.network.net;
        let mut pixels = pixels.to_vec();
        let views = seen_on_cpu(seen, net.input_len(), self.size, &mut pixels);
        let pass = self.log.passes.fetch_add(1, Ordering::SeqCst);
        match self.breaks {
            Breaks::LostAt(last) if pass >= last => panic!("wgpu error: Validation Error\n  Parent device is lost"),
            Breaks::SaysLostAt(last) if pass >= last => return Err(Trouble::Lost("device lost".into())),
            Breaks::MemoryAbove(most) if views > most => panic!("wgpu error: Out of Memory: {views} views"),
            _ => self.log.largest.fetch_max(views, Ordering::SeqCst),
        };
        let mut logits = vec![0.0; views * net.len_of(net.last())];
        net.forward(&pixels, net.last(), &mut logits);
        if matches!(self.breaks, Breaks::Overflows) && self.precision == Precision::F16 {
            logits[views - 1] = f32::INFINITY;
        }
        Ok(logits)
    }

    fn abandon(&self) {
        assert!(!self.log.abandoned.swap(true, Ordering::SeqCst), "it is abandoned once");
    }
}

fn session(breaks: Breaks) -> (Session, Arc<Log>) {
    let (stored, log) = (stored(), Arc::<Log>::default());
    let input = stored.manifest.input;
    let size = [input.height, input.width];
    let device = Breaking {
        network: network(&stored, input).unwrap(),
        size,
        breaks,
        precision: Precision::F32,
        log: log.clone(),
    };
    (Session::behind(Box::new(device), stored), log)
}

const VOTE: Classify = Classify { views: 50, confidence: 1.0, seed: 4 };

fn on_the_cpu(image: &Rgb, options: &Classify) -> Vec<f32> {
    Session::of(&stored()).unwrap().classify(image, options).unwrap().probabilities
}

#[test]
fn a_device_lost_in_the_middle_of_an_image_costs_no_answer() {
    for breaks in [Breaks::LostAt(0), Breaks::LostAt(2), Breaks::SaysLostAt(2)] {
        let (session, log) = session(breaks);
        let image = picture(20, 24, 1);
        let said = session.classify(&image, &VOTE).unwrap();
        assert_eq!(said.probabilities, on_the_cpu(&image, &VOTE), "{breaks:?}");
        assert!(session.fallen().is_some_and(|why| why.contains("lost")), "{:?}", session.fallen());
        // The passes that went well, and the one that did not.
        let (Breaks::LostAt(last) | Breaks::SaysLostAt(last)) = breaks else { unreachable!() };
        assert_eq!(log.passes.load(Ordering::SeqCst), last + 1);
        assert!(log.abandoned.load(Ordering::SeqCst));
    }
}

#[test]
fn a_device_lost_while_a_stream_runs_costs_no_answer() {
    for options in [Classify::default(), VOTE, Classify { confidence: 0.99, ..VOTE }] {
        let (session, log) = session(Breaks::LostAt(3));
        let mut stream = session.stream(options).unwrap();
        for seed in 0..6 {
            let image = picture(16, 16, seed);
            assert_eq!(stream.classify(&image).unwrap().probabilities, on_the_cpu(&image, &options));
            assert_eq!(session.fallen().is_some(), log.passes.load(Ordering::SeqCst) > 3);
        }
        assert_eq!(session.fallen(), Some("wgpu error: Validation Error Parent device is lost"));
    }
}

#[test]
fn without_memory_for_many_views_there_are_fewer_at_once() {
    for most in [1, 3, 5, 8, 16, 33] {
        let (session, log) = session(Breaks::MemoryAbove(most));
        for seed in 0..4 {
            let image = picture(30, 20, seed);
            let said = session.classify(&image, &VOTE).unwrap();
            assert_eq!(said.probabilities, on_the_cpu(&image, &VOTE), "{most}");
        }
        assert_eq!(session.fallen(), None);
        let largest = log.largest.load(Ordering::SeqCst);
        assert!((most / 2..=most).contains(&largest), "{largest} views at once where {most} would do");
        // Once it is known, no pass is tried in vain.
        let before = log.passes.load(Ordering::SeqCst);
        session.classify(&picture(30, 20, 9), &VOTE).unwrap();
        let views = session_views(&session);
        assert_eq!(log.passes.load(Ordering::SeqCst) - before, 50usize.div_ceil(views));
    }
}

fn session_views(session: &Session) -> usize {
    let Engine::Device(on) = &session.engine else { panic!("it is on a device") };
    on.chunk().views()
}

#[test]
fn without_memory_for_one_view_the_cpu_takes_over() {
    let (session, _) = session(Breaks::MemoryAbove(0));
    for options in [Classify::default(), VOTE] {
        let image = picture(16, 16, 2);
        assert_eq!(session.classify(&image, &options).unwrap().probabilities, on_the_cpu(&image, &options));
    }
    assert!(session.fallen().is_some_and(|why| why.contains("Out of Memory")));
}

#[test]
fn whoever_classifies_meanwhile_gets_an_answer_too() {
    let images: Vec<Rgb> = (0..6).map(|seed| picture(18, 18, seed)).collect();
    let expected: Vec<_> = images.iter().map(|image| on_the_cpu(image, &VOTE)).collect();
    for breaks in [Breaks::LostAt(11), Breaks::SaysLostAt(11), Breaks::MemoryAbove(5)] {
        let (session, log) = session(breaks);
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut stream = session.stream(VOTE).unwrap();
                    start.wait();
                    for (image, expected) in images.iter().zip(&expected) {
                        assert_eq!(&stream.classify(image).unwrap().probabilities, expected, "{breaks:?}");
                    }
                });
            }
        });
        let lost = !matches!(breaks, Breaks::MemoryAbove(_));
        assert_eq!((session.fallen().is_some(), log.abandoned.load(Ordering::SeqCst)), (lost, lost));
    }
}

#[test]
fn what_makes_no_sense_is_an_error_and_no_loss() {
    let (session, _) = session(Breaks::LostAt(usize::MAX));
    assert!(matches!(
        session.classify(&picture(16, 16, 0), &Classify { views: 0, ..VOTE }),
        Err(ClassifyError::Views { .. })
    ));
    assert_eq!(session.fallen(), None);
}

#[test]
fn half_precision_that_does_not_fit_costs_no_answer() {
    let image = picture(16, 16, 2);
    let (mut session, _) = session(Breaks::Overflows);
    assert_eq!(session.arithmetic(), Arithmetic::F32);
    assert_eq!(session.classify(&image, &VOTE).unwrap().probabilities, on_the_cpu(&image, &VOTE));
    assert_eq!(session.fallen(), None);
    session = session.with_precision(Precision::F16);
    assert_eq!(session.arithmetic(), Arithmetic::F16);
    assert_eq!(session.classify(&image, &VOTE).unwrap().probabilities, on_the_cpu(&image, &VOTE));
    assert!(session.fallen().is_some_and(|why| why.contains("half precision")));
    assert_eq!(session.arithmetic(), Arithmetic::F32);
    // A weight that 16 bits cannot hold.
    let mut stored = stored();
    stored.tensors.get_mut("head.bias").unwrap().values[0] = 1e5;
    let (input, log) = (stored.manifest.input, Arc::default());
    let (network, size) = (network(&stored, input).unwrap(), [input.height, input.width]);
    let device = Breaking { network, size, breaks: Breaks::Overflows, precision: Precision::F32, log };
    let session = Session::behind(Box::new(device), stored).with_precision(Precision::F16);
    assert_eq!(session.arithmetic(), Arithmetic::F32);
    // Kernels of our own compute in f32.
    let cpu = Session::of(&super::super::tests::stored()).unwrap().with_precision(Precision::F16);
    assert_eq!(cpu.arithmetic(), Arithmetic::F32);
}

#[cfg(feature = "wgpu")]
#[test]
fn half_precision_says_nearly_the_same() {
    let required = std::env::var_os("GABION_REQUIRE_GPU").is_some_and(|value| value == "1");
    let (device, offered) = match crate::choose(Choice::Wgpu) {
        Ok(chosen) => chosen,
        Err(crate::DeviceError::Absent { .. }) if !required => return println!("skipped: no wgpu adapter"),
        Err(error) => panic!("{error}"),
    };
    let on_device = || Session::new(Bundle::made_of(stored(), &device).unwrap()).unwrap();
    let (full, half) = (on_device(), on_device().with_precision(Precision::F16));
    let has = offered.limits.is_some_and(|limits| limits.f16);
    println!("{}: f16 {has}, computes in {:?}", offered.name, half.arithmetic());
    assert_eq!(full.arithmetic(), Arithmetic::F32);
    assert!(has || half.arithmetic() == Arithmetic::F32);
    let mut most = 0f32;
    // One view: another number would compile the kernels once more.
    for seed in 0..6 {
        let image = picture(20, 20, seed);
        let [a, b] = [&full, &half].map(|on| on.classify(&image, &Classify::default()).unwrap().probabilities);
        most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
    }
    println!("largest difference of a probability: {most}");
    assert!(most < 0.02 && half.fallen().is_none() && full.fallen().is_none(), "{:?}", half.fallen());
}
