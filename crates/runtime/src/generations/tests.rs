//! Generations of a bundle whose weights are a few bytes: nothing here needs a network.

use super::*;
use crate::bundle::WEIGHTS;
use crate::signature::hex;
use gabion_spec::{Depth, Encoder, Head, HeadKind, Input, Precision, Probe, Projector, Stem, Weights};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;

mod trust;

/// What a generic reader makes of a bundle.
#[derive(Debug, PartialEq)]
struct Plain {
    manifest: Manifest,
    weights: Vec<u8>,
}

impl AsRef<Manifest> for Plain {
    fn as_ref(&self) -> &Manifest {
        &self.manifest
    }
}

fn read(dir: &Path) -> Result<Plain, BundleError> {
    let (_, manifest) = manifest_of(dir)?;
    record::check_weights(dir, &manifest)?;
    let path = dir.join(WEIGHTS);
    match fs::read(&path) {
        Ok(weights) => Ok(Plain { manifest, weights }),
        Err(source) => Err(BundleError::Io { doing: "read", path, source }),
    }
}

fn manifest(weights: &[u8]) -> Manifest {
    Manifest {
        format: gabion_spec::FORMAT_VERSION,
        name: "test".into(),
        encoder: Encoder { depth: Depth::Resnet18, width: 1, stem: Stem::Cifar },
        projector: Projector { hidden: 1, output: 1 },
        input: Input { height: 4, width: 4 },
        classes: vec!["ant".into(), "bee".into()],
        head: Some(Head { kind: HeadKind::Linear, recipe: Probe::Linear { rate: 1e-3, batch: 8, epochs: 1 } }),
        pretrain: None,
        finetune: Vec::new(),
        adapted: Vec::new(),
        data: None,
        weights: Weights { file: WEIGHTS.into(), sha256: hex(&Sha256::digest(weights)), precision: Precision::F16 },
        claims: Vec::new(),
        writer: "test".into(),
    }
}

fn fill(dir: &Path, weights: &[u8], change: impl FnOnce(&mut Manifest)) -> Result<(), BundleError> {
    let mut manifest = manifest(weights);
    change(&mut manifest);
    let io = |source| BundleError::Io { doing: "write", path: dir.into(), source };
    fs::write(dir.join(WEIGHTS), weights).map_err(io)?;
    fs::write(dir.join(MANIFEST), serde_json::to_vec_pretty(&manifest).unwrap()).map_err(io)
}

/// A write of what anybody may serve, adapted from this very base.
fn write<M>(
    bundle: &Path,
    source: Source,
    fill: impl FnOnce(&Path) -> Result<M, BundleError>,
) -> Result<Written, GenerationError> {
    let base = manifest_of(bundle)?.1.weights.sha256;
    super::write(bundle, &Trust::Any, &Origin { source, base }, fill)
}

fn rollback(bundle: &Path, to: Option<Source>) -> Result<Rolled, GenerationError> {
    super::rollback(bundle, &Trust::Any, to)
}

/// A bundle in a folder that goes away with it.
struct Place {
    _temporary: tempfile::TempDir,
    bundle: PathBuf,
}

impl Place {
    fn new() -> Self {
        // In memory where there is such a folder: syncing is a matter of the tests that kill.
        let memory = Path::new("/dev/shm");
        let temporary = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let bundle = temporary.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        fill(&bundle, b"base", |_| {}).unwrap();
        Self { _temporary: temporary, bundle }
    }

    /// Writes `count` generations, each from the one before it.
    fn with(count: u64) -> Self {
        let place = Self::new();
        for _ in 0..count {
            place.adapt();
        }
        place
    }

    /// Adapts what is served; the weights are the number.
    fn adapt(&self) -> u64 {
        let parent = self.open().origin.source;
        self.write(parent).unwrap().number
    }

    fn write(&self, parent: Source) -> Result<Written, GenerationError> {
        let number = Names::read(&self.bundle).unwrap().highest + 1;
        write(&self.bundle, parent, |dir| fill(dir, number.to_string().as_bytes(), |_| {}))
    }

    fn open(&self) -> Served<Plain> {
        let served = open(&self.bundle, &Trust::Any, read).unwrap();
        let weights = match served.origin.source {
            Source::Base => "base".to_string(),
            Source::Generation(number) => number.to_string(),
        };
        assert_eq!(served.bundle.weights, weights.as_bytes(), "{}", served.origin.source);
        served
    }

    fn folder(&self) -> PathBuf {
        self.bundle.join(GENERATIONS)
    }

    fn file(&self, number: u64, name: &str) -> PathBuf {
        self.folder().join(folder::name_of(number)).join(name)
    }

    /// Everything in the folder of generations but the lock, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }
}

#[test]
fn the_last_two_are_kept_and_the_newest_is_served() {
    let place = Place::new();
    let base: Vec<_> = [MANIFEST, WEIGHTS].map(|name| fs::read(place.bundle.join(name)).unwrap()).into();
    assert_eq!(place.open().origin.source, Source::Base);
    for (number, names) in
        [(1, &["000001"][..]), (2, &["000001", "000002"]), (3, &["000002", "000003"]), (4, &["000003", "000004"])]
    {
        let written = place.write(place.open().origin.source).unwrap();
        assert_eq!((written.number, written.left.is_none()), (number, true));
        assert_eq!(place.names(), names);
        let served = place.open();
        assert_eq!((served.origin.source, served.skipped.len()), (Source::Generation(number), 0));
    }
    let listed = list(&place.bundle, &Trust::Any).unwrap();
    let parents: Vec<_> = listed
        .iter()
        .map(|listed| match &listed.state {
            State::Sound(record) => (listed.number, record.parent()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(parents, [(4, Source::Generation(3)), (3, Source::Generation(2))]);
    assert_eq!(base, [MANIFEST, WEIGHTS].map(|name| fs::read(place.bundle.join(name)).unwrap()));
    assert_eq!(fs::read_dir(&place.bundle).unwrap().count(), 3);
}

#[test]
fn a_rollback_lasts_and_its_numbers_are_not_used_again() {
    let place = Place::with(3);
    let back = |to| rollback(&place.bundle, to).unwrap();
    assert_eq!(back(None), Rolled { to: Source::Generation(2), withdrawn: vec![3] });
    assert_eq!(place.open().origin.source, Source::Generation(2));
    assert!(back(Some(Source::Generation(2))).withdrawn.is_empty());
    assert_eq!(back(Some(Source::Base)), Rolled { to: Source::Base, withdrawn: vec![2] });
    assert_eq!(place.open().origin.source, Source::Base);
    assert_eq!(back(None), Rolled { to: Source::Base, withdrawn: vec![] });
    assert_eq!(place.names(), ["000002.withdrawn", "000003.withdrawn"]);
    let states = list(&place.bundle, &Trust::Any).unwrap();
    assert!(states.iter().all(|listed| matches!(listed.state, State::Withdrawn)), "{states:?}");
    for (number, why) in [(3, "withdrawn"), (1, "not there"), (9, "not there")] {
        let error = rollback(&place.bundle, Some(Source::Generation(number))).unwrap_err();
        assert!(matches!(error, GenerationError::Target { .. }) && error.to_string().contains(why), "{error}");
    }
    // Whoever still adapts what was withdrawn does not bring it back.
    let error = place.write(Source::Generation(3)).unwrap_err();
    assert!(matches!(error, GenerationError::Parent { parent: Source::Generation(3) }), "{error}");
    assert_eq!(place.names(), ["000003.withdrawn"], "the highest number stays");
    assert_eq!(fs::read_dir(place.folder().join("000003.withdrawn")).unwrap().count(), 0);
    assert_eq!(place.adapt(), 4);
    assert_eq!(place.names(), ["000004"]);
    assert_eq!(back(None).to, Source::Base);
    assert_eq!(place.adapt(), 5);
    assert_eq!(place.open().origin.source, Source::Generation(5));
}

#[test]
fn nothing_to_roll_back_makes_no_folder() {
    let place = Place::new();
    for to in [None, Some(Source::Base)] {
        assert_eq!(rollback(&place.bundle, to).unwrap(), Rolled { to: Source::Base, withdrawn: vec![] });
    }
    rollback(&place.bundle, Some(Source::Generation(1))).unwrap_err();
    assert!(!place.folder().exists());
}

#[test]
fn a_rollback_to_base_needs_nothing_whole() {
    let place = Place::with(2);
    fs::write(place.bundle.join(MANIFEST), b"torn").unwrap();
    fs::remove_file(place.file(2, MANIFEST)).unwrap();
    assert_eq!(rollback(&place.bundle, Some(Source::Base)).unwrap().withdrawn, [2, 1]);
    fill(&place.bundle, b"base", |_| {}).unwrap();
    assert_eq!(place.open().origin.source, Source::Base);
}

#[test]
fn every_flipped_bit_is_found() {
    let place = Place::with(2);
    for name in [RECORD, MANIFEST, WEIGHTS] {
        let path = place.file(2, name);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            let served = place.open();
            assert_eq!(served.origin.source, Source::Generation(1), "bit {bit} of {name}");
            assert_eq!(served.skipped[0].number, 2);
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(place.open().origin.source, Source::Generation(2));
}

#[test]
fn what_is_passed_over_says_why() {
    let why = |spoil: &dyn Fn(&Place)| {
        let place = Place::with(2);
        spoil(&place);
        let mut served = place.open();
        let text = served.skipped[0].why.to_string();
        assert!(!text.contains('\n'), "{text}");
        served.skipped.remove(0).why
    };
    let renamed = why(&|place| fs::rename(place.folder().join("000002"), place.folder().join("000007")).unwrap());
    assert!(matches!(renamed, Fault::Number { found: 2 }), "{renamed}");
    let other = why(&|place| {
        let manifest = fs::read(place.file(2, MANIFEST)).unwrap();
        let record = Record::new(2, Source::Base, &"0".repeat(64), &manifest);
        record.write(&place.folder().join("000002")).unwrap();
    });
    assert!(matches!(&other, Fault::OtherBase { found, .. } if found.starts_with("000")), "{other}");
    let file = why(&|place| {
        fs::remove_dir_all(place.folder().join("000002")).unwrap();
        fs::write(place.folder().join("000002"), b"").unwrap();
    });
    assert!(matches!(file, Fault::NotAFolder { .. }), "{file}");
    let lost = why(&|place| fs::remove_file(place.file(2, WEIGHTS)).unwrap());
    assert!(matches!(lost, Fault::Bundle(BundleError::Io { .. })), "{lost}");
    let endless =
        why(&|place| File::options().write(true).open(place.file(2, WEIGHTS)).unwrap().set_len(1 << 40).unwrap());
    assert!(matches!(endless, Fault::Bundle(BundleError::TooLarge { .. })), "{endless}");
}

#[test]
fn a_generation_is_served_though_the_bases_weights_are_lost() {
    let place = Place::with(2);
    fs::write(place.bundle.join(WEIGHTS), b"rot").unwrap();
    assert_eq!(place.open().origin.source, Source::Generation(2));
    rollback(&place.bundle, Some(Source::Base)).unwrap();
    let error = open(&place.bundle, &Trust::Any, read).unwrap_err();
    assert!(matches!(error, GenerationError::Bundle(BundleError::Hash { .. })), "{error}");
}

#[test]
fn what_would_not_open_is_not_kept() {
    let place = Place::with(1);
    let refused = |filled: &dyn Fn(&Path) -> Result<(), BundleError>| {
        let error = write(&place.bundle, Source::Generation(1), filled).unwrap_err();
        assert_eq!(place.names(), ["000001"], "{error}");
        assert_eq!(place.open().origin.source, Source::Generation(1));
        error
    };
    let full = |kind: io::ErrorKind| BundleError::Io { doing: "write", path: "x".into(), source: kind.into() };
    let error = refused(&|_| Err(full(io::ErrorKind::StorageFull)));
    assert!(matches!(error, GenerationError::Full { .. }), "{error}");
    let error = refused(&|_| Err(full(io::ErrorKind::ReadOnlyFilesystem)));
    assert!(matches!(error, GenerationError::ReadOnly { .. }), "{error}");
    let unsound = |error: GenerationError| match error {
        GenerationError::Unsound { why } => *why,
        other => panic!("{other}"),
    };
    assert!(matches!(unsound(refused(&|_| Ok(()))), Fault::Io { .. }));
    let wrong = unsound(refused(&|dir| fill(dir, b"x", |manifest| manifest.weights.sha256.clear())));
    assert!(matches!(wrong, Fault::Bundle(BundleError::Hash { .. })), "{wrong}");
    let elsewhere = unsound(refused(&|dir| fill(dir, b"x", |manifest| manifest.weights.file = "../x".into())));
    assert!(matches!(elsewhere, Fault::Bundle(BundleError::FileName { .. })), "{elsewhere}");
    for (key, change) in [
        ("classes", (|manifest| manifest.classes.swap(0, 1)) as fn(&mut Manifest)),
        ("input", |manifest| manifest.input.height = 5),
        ("encoder", |manifest| manifest.encoder.width = 2),
        ("projector", |manifest| manifest.projector.output = 2),
        ("head", |manifest| manifest.head = None),
    ] {
        let differs = unsound(refused(&|dir| fill(dir, b"x", change)));
        assert!(matches!(differs, Fault::Differs { key: found } if found == key), "{differs}");
    }
}

#[test]
fn what_a_crash_left_goes_and_what_others_put_there_stays() {
    let place = Place::with(2);
    for name in [".000003.17.tmp", ".000001.old", ".000002.withdrawn.old", "notes", ".hidden", "0000002"] {
        fs::create_dir(place.folder().join(name)).unwrap();
        fs::write(place.folder().join(name).join("file"), b"x").unwrap();
    }
    fs::write(place.folder().join(".000003.18.tmp"), b"x").unwrap();
    assert_eq!(place.open().origin.source, Source::Generation(2));
    assert_eq!(place.adapt(), 3);
    assert_eq!(place.names(), [".hidden", "0000002", "000002", "000003", "notes"]);
}

#[test]
fn a_number_without_a_next_is_named() {
    let place = Place::new();
    fs::create_dir_all(place.folder().join(u64::MAX.to_string())).unwrap();
    assert_eq!(place.open().origin.source, Source::Base);
    let error = write(&place.bundle, Source::Base, |dir| fill(dir, b"x", |_| {})).unwrap_err();
    assert!(matches!(error, GenerationError::Exhausted { highest: u64::MAX, .. }), "{error}");
    rollback(&place.bundle, Some(Source::Base)).unwrap();
}

#[test]
fn a_writer_waits_for_another_and_gives_up() {
    let place = Place::with(1);
    let held = folder::lock(&place.folder()).unwrap();
    for error in [place.write(Source::Base).unwrap_err(), rollback(&place.bundle, Some(Source::Base)).unwrap_err()] {
        assert!(matches!(error, GenerationError::Locked { .. }), "{error}");
    }
    assert_eq!(place.open().origin.source, Source::Generation(1), "readers need no lock");
    drop(held);
    assert_eq!(place.adapt(), 2);
}

#[test]
fn readers_never_go_back_while_others_write() {
    let place = Place::with(1);
    std::thread::scope(|scope| {
        let writers = [(); 2].map(|()| {
            scope.spawn(|| {
                for _ in 0..60 {
                    // Its number is known before under the lock alone.
                    write(&place.bundle, Source::Base, |dir| {
                        let name = dir.file_name().unwrap().to_str().unwrap();
                        let number: u64 = name[1..7].parse().unwrap();
                        fill(dir, number.to_string().as_bytes(), |_| {})
                    })
                    .unwrap();
                }
            })
        });
        let mut last = Source::Base;
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let served = place.open();
            assert!(served.origin.source >= last, "{} after {last}", served.origin.source);
            assert!(served.skipped.is_empty(), "{:?}", served.skipped);
            last = served.origin.source;
        }
    });
    assert_eq!(place.open().origin.source, Source::Generation(121));
    assert_eq!(place.names(), ["000120", "000121"]);
}

#[cfg(unix)]
#[test]
fn no_link_leads_out_of_the_folder() {
    use std::os::unix::fs::symlink;
    let (place, other) = (Place::with(1), Place::with(2));
    symlink(other.folder().join("000002"), place.folder().join("000002")).unwrap();
    let served = place.open();
    assert!(matches!(served.skipped[0].why, Fault::NotAFolder { .. }));
    // Another's whole files, by link.
    fs::remove_file(place.folder().join("000002")).unwrap();
    fs::create_dir(place.folder().join("000002")).unwrap();
    for name in [RECORD, MANIFEST, WEIGHTS] {
        symlink(other.file(2, name), place.file(2, name)).unwrap();
    }
    let served = place.open();
    assert!(served.skipped[0].why.to_string().contains("link"), "{}", served.skipped[0].why);
    fs::rename(place.folder(), place.bundle.join("aside")).unwrap();
    symlink("aside", place.folder()).unwrap();
    let error = open(&place.bundle, &Trust::Any, read).unwrap_err();
    assert!(matches!(error, GenerationError::NotAFolder { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn a_withdrawn_link_is_removed_and_not_what_it_leads_to() {
    let (place, elsewhere) = (Place::new(), tempfile::tempdir().unwrap());
    let thesis = elsewhere.path().join("thesis");
    fs::write(&thesis, b"kept").unwrap();
    fs::create_dir(place.folder()).unwrap();
    let withdrawn = place.folder().join("000001.withdrawn");
    std::os::unix::fs::symlink(elsewhere.path(), &withdrawn).unwrap();
    // A write that ends after it has tidied: the number stays used.
    let nothing = |dir: &Path| Err::<(), _>(BundleError::NoManifest { path: dir.into() });
    write(&place.bundle, Source::Base, nothing).unwrap_err();
    assert!(fs::symlink_metadata(&withdrawn).unwrap().is_dir());
    assert_eq!(place.adapt(), 2);
    assert_eq!(fs::read(&thesis).unwrap(), b"kept");
    // A whole folder that is a link: not even a lock is made in it.
    fs::rename(place.folder(), place.bundle.join("aside")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), place.folder()).unwrap();
    let error = write(&place.bundle, Source::Base, |dir| fill(dir, b"x", |_| {})).unwrap_err();
    assert!(matches!(error, GenerationError::NotAFolder { .. }), "{error}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn what_is_read_twice_is_compared() {
    let place = Place::with(1);
    let sneaky = |dir: &Path| {
        let mut opened = read(dir)?;
        opened.manifest.name = "another".into();
        Ok(opened)
    };
    let error = open(&place.bundle, &Trust::Any, sneaky).unwrap_err();
    assert!(matches!(error, GenerationError::Changed { .. }), "{error}");
}

/// What can happen to a folder beside a crash of its writer.
#[derive(Clone, Debug)]
enum Damage {
    Cut { newest: bool, file: usize, keep: f64 },
    Flip { newest: bool, file: usize, at: f64, bit: u8 },
    Lose { newest: bool, file: usize },
    Fill { newest: bool, file: usize },
    Rename { newest: bool, to: String },
    Leave { name: String },
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = || (any::<bool>(), 0..3usize);
    let number =
        prop_oneof![(1..9u64).prop_map(folder::name_of), Just("000002.withdrawn".into()), Just(".000001.old".into())];
    prop_oneof![
        (place(), 0.0..1.0).prop_map(|((newest, file), keep)| Damage::Cut { newest, file, keep }),
        (place(), 0.0..1.0, 0..8u8).prop_map(|((newest, file), at, bit)| Damage::Flip { newest, file, at, bit }),
        place().prop_map(|(newest, file)| Damage::Lose { newest, file }),
        place().prop_map(|(newest, file)| Damage::Fill { newest, file }),
        (any::<bool>(), number).prop_map(|(newest, to)| Damage::Rename { newest, to }),
        "(\\.[0-9]{6}\\.[0-9]{1,3}\\.tmp|\\.[0-9]{6}\\.old|[0-9]{6}|[0-9]{6}\\.withdrawn|[a-z.]{1,8})"
            .prop_map(|name| Damage::Leave { name }),
    ]
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn inflict(place: &Place, damage: &Damage) {
    let names = [RECORD, MANIFEST, WEIGHTS];
    let number = |newest: bool| if newest { 3 } else { 2 };
    let change = |newest, file: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let path = place.file(number(newest), names[file]);
        if let Ok(mut bytes) = fs::read(&path) {
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
    };
    match damage {
        Damage::Cut { newest, file, keep } => {
            change(*newest, *file, &|bytes| bytes.truncate((bytes.len() as f64 * keep) as usize));
        }
        Damage::Flip { newest, file, at, bit } => change(*newest, *file, &|bytes| {
            let at = (bytes.len() as f64 * at) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }),
        Damage::Lose { newest, file } => drop(fs::remove_file(place.file(number(*newest), names[*file]))),
        Damage::Fill { newest, file } => change(*newest, *file, &|bytes| bytes.extend_from_slice(&[0; 100])),
        Damage::Rename { newest, to } => {
            let _ = fs::rename(place.folder().join(folder::name_of(number(*newest))), place.folder().join(to));
        }
        Damage::Leave { name } if name != "." && name != ".." => {
            let _ = fs::create_dir(place.folder().join(name));
            let _ = fs::write(place.folder().join(name).join(MANIFEST), b"{");
        }
        Damage::Leave { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[allow(clippy::cast_possible_truncation)]
    fn whatever_is_damaged_something_whole_is_served(damages in prop::collection::vec(damage(), 0..6)) {
        let place = Place::with(3);
        let bytes = |number| [RECORD, MANIFEST, WEIGHTS].map(|name| fs::read(place.file(number, name)).ok());
        let written = [2, 3].map(bytes);
        damages.iter().for_each(|damage| inflict(&place, damage));
        let whole = |number: u64| bytes(number) == written[number as usize - 2];
        let newest = [3, 2].into_iter().find(|&number| whole(number)).map_or(Source::Base, Source::Generation);
        prop_assert_eq!(place.open().origin.source, newest);
        // And it can be written and rolled back again.
        let highest = Names::read(&place.bundle).unwrap().highest;
        let number = place.adapt();
        prop_assert_eq!(number, highest + 1);
        prop_assert_eq!(place.open().origin.source, Source::Generation(number));
        rollback(&place.bundle, Some(Source::Base)).unwrap();
        prop_assert_eq!(place.open().origin.source, Source::Base);
        prop_assert_eq!(place.adapt(), number + 1);
    }
}
