//! From what was typed to a resolved recipe: presets, TOML files and `key=value` settings.

use gabion_spec::{Adapt, Pretrain, one_line};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// The embedded recipes by name.
        pub const PRESETS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../presets/", $name, ".toml")))),*];
    };
}

presets!(
    "cf-amc-ssl",
    "cifar10-small",
    "cifar10-small-standard",
    "synth-tiny",
    "synth-tiny-standard",
    "crop-emp-standard",
    "crop-emp-pgd",
    "crop-emp-free",
    "crop-simclr-standard",
    "crop-simclr-pgd",
    "crop-simclr-free",
    "patch-emp-standard",
    "patch-emp-pgd",
    "patch-emp-free",
    "patch-simclr-standard",
    "patch-simclr-pgd",
    "patch-simclr-free",
);

/// Most bytes of a recipe's file.
const MOST_BYTES: u64 = 1 << 20;

/// A recipe that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages are the documentation
pub enum RecipeError {
    #[error(
        "no preset is called `{}`; did you mean `{nearest}`? `gabion pretrain --list-presets` lists them",
        one_line(name)
    )]
    Preset { name: String, nearest: String },
    #[error("cannot read the recipe {}: {source}; check the path", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin} is not TOML: {}", one_line(message))]
    Toml { origin: String, message: String },
    #[error("`{}` is not a setting; write key=value, such as threat.replays=3", one_line(text))]
    Setting { text: String },
    #[error("{origin} does not know `{}`; did you mean `{nearest}`?", one_line(key))]
    Key { origin: String, key: String, nearest: String },
    #[error("{origin}: {}", one_line(message))]
    Value { origin: String, message: String },
    #[error(transparent)]
    Invalid(#[from] gabion_spec::Invalid),
}

/// Where a recipe starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// An embedded one.
    Preset(String),
    /// A TOML file.
    File(PathBuf),
}

/// Reads a base, applies `key=value` settings and checks the result.
///
/// # Errors
/// An unknown preset or key is named together with the nearest valid one, a contradiction with what to change.
pub fn resolve(base: &Base, settings: &[String]) -> Result<Pretrain, RecipeError> {
    let (origin, text) = match base {
        Base::Preset(name) => {
            let found = PRESETS.iter().find(|(preset, _)| preset == name);
            let Some((_, text)) = found else {
                let nearest = nearest(name, PRESETS.iter().map(|(preset, _)| *preset));
                return Err(RecipeError::Preset { name: name.clone(), nearest });
            };
            (format!("preset {name}"), (*text).to_string())
        }
        Base::File(path) => (path.display().to_string(), read(path)?),
    };
    parse(&origin, &text, settings)
}

fn read(path: &Path) -> Result<String, RecipeError> {
    let refused = |source| RecipeError::Read { path: path.into(), source };
    let bytes = std::fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        // A pipe is fine, one that never ends is not.
        std::io::Read::take(file, MOST_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = bytes.map_err(refused)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(refused(std::io::Error::other(format!("it has more than {MOST_BYTES} bytes"))));
    }
    String::from_utf8(bytes).map_err(|_| refused(std::io::Error::other("it is not text")))
}

/// Reads a recipe from TOML text, applies settings and checks the result.
///
/// # Errors
/// See [`resolve`].
pub fn parse(origin: &str, text: &str, settings: &[String]) -> Result<Pretrain, RecipeError> {
    let mut table = table_of(origin, text)?;
    settings.iter().try_for_each(|setting| set(&mut table, setting))?;
    let recipe: Pretrain = table.try_into().map_err(|error: toml::de::Error| explain(origin, error.message()))?;
    recipe.validate()?;
    Ok(recipe)
}

fn table_of(origin: &str, text: &str) -> Result<Table, RecipeError> {
    toml::from_str(text).map_err(|error| RecipeError::Toml { origin: origin.into(), message: error.to_string() })
}

/// Applies a `key=value` setting.
fn set(table: &mut Table, setting: &str) -> Result<(), RecipeError> {
    let wrong = || RecipeError::Setting { text: setting.into() };
    let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
    let value = value.trim();
    // What is no TOML value is a bare word: threat.kind=free.
    let value = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(value.into()));
    insert(table, key.trim(), value).ok_or_else(wrong)
}

/// A recipe of adaptation: `base` with the keys of a TOML file, where one is named, and `key=value` settings.
///
/// # Errors
/// See [`resolve`].
pub fn adapt(base: &Adapt, file: Option<&Path>, settings: &[String]) -> Result<Adapt, RecipeError> {
    let origin = file.map_or("--set".into(), |file| file.display().to_string());
    let mut table = Table::try_from(base).expect("a recipe is plain data");
    if let Some(file) = file {
        table.extend(table_of(&origin, &read(file)?)?);
    }
    settings.iter().try_for_each(|setting| set(&mut table, setting))?;
    let recipe: Adapt = table.try_into().map_err(|error: toml::de::Error| explain(&origin, error.message()))?;
    recipe.validate()?;
    Ok(recipe)
}

/// A recipe as TOML.
pub fn to_toml(recipe: &Pretrain) -> String {
    toml::to_string(recipe).expect("a recipe is plain data")
}

/// Sets a dotted key; `none` takes a key out.
fn insert(table: &mut Table, key: &str, value: Value) -> Option<()> {
    let (folders, leaf) = key.rsplit_once('.').map_or(("", key), |(folders, leaf)| (folders, leaf));
    if leaf.is_empty() {
        return None;
    }
    let mut table = table;
    for folder in folders.split('.').filter(|folder| !folder.is_empty()) {
        table = table.entry(folder).or_insert_with(|| Value::Table(Table::new())).as_table_mut()?;
    }
    // Another kind of loss or threat has other keys: what belonged to the old kind goes.
    if leaf == "kind" && table.get("kind").is_some_and(|old| *old != value) {
        table.clear();
    }
    if value.as_str() == Some("none") {
        table.remove(leaf);
    } else {
        table.insert(leaf.into(), value);
    }
    Some(())
}

/// serde names an unknown field and lists the valid ones; this names the nearest of them.
fn explain(origin: &str, message: &str) -> RecipeError {
    let unknown = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"));
    // From the end: the unknown one may hold any text.
    match unknown.and_then(|rest| rest.rsplit_once("`, expected ")) {
        Some((key, valid)) => RecipeError::Key {
            origin: origin.into(),
            key: key.into(),
            nearest: nearest(key, valid.split('`').skip(1).step_by(2)),
        },
        None => RecipeError::Value { origin: origin.into(), message: message.into() },
    }
}

fn nearest<'a>(word: &str, valid: impl Iterator<Item = &'a str>) -> String {
    valid.max_by(|a, b| strsim::jaro_winkler(word, a).total_cmp(&strsim::jaro_winkler(word, b))).unwrap_or("").into()
}

/// A first line of settings, separated by spaces, and a recipe, of any text: what is accepted can be written and read
/// again, as TOML and as the JSON of a manifest, what is refused says so in a line. `fuzz/` calls it.
#[cfg(any(test, fuzzing))]
pub fn fuzz(text: &str) {
    let (settings, text) = text.split_once('\n').unwrap_or((text, ""));
    let settings: Vec<String> = settings.split(' ').filter(|setting| !setting.is_empty()).map(String::from).collect();
    match parse("text", text, &settings) {
        Ok(recipe) => {
            assert_eq!(parse("again", &to_toml(&recipe), &[]).expect("what was written can be read"), recipe);
            let json = serde_json::to_vec(&recipe).expect("a recipe is plain data");
            assert_eq!(serde_json::from_slice::<Pretrain>(&json).expect("what was written can be read"), recipe);
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_spec::{Crop, Loss, Threat};

    fn set(settings: &[&str]) -> Result<Pretrain, RecipeError> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        resolve(&Base::Preset("cf-amc-ssl".into()), &settings)
    }

    #[test]
    fn the_corpus_passes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/recipe");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).for_each(|text| fuzz(&text));
    }

    #[test]
    fn a_recipe_without_an_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = resolve(&Base::File(path.clone()), &[]).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
        std::fs::write(&path, [0xFF]).unwrap();
        let error = resolve(&Base::File(path), &[]).unwrap_err().to_string();
        assert!(error.contains("not text"), "{error}");
    }

    #[test]
    fn every_preset_resolves_to_what_its_name_says() {
        for (name, _) in PRESETS {
            let recipe = resolve(&Base::Preset((*name).into()), &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(recipe.augment.crop == Crop::PATCH, name.starts_with("patch-"), "{name}");
            assert_eq!(matches!(recipe.loss, Loss::SimClr { .. }), name.contains("simclr"), "{name}");
            assert_eq!(matches!(recipe.threat, Threat::Standard), name.ends_with("standard"), "{name}");
            assert_eq!(matches!(recipe.threat, Threat::Pgd { .. }), name.ends_with("pgd"), "{name}");
            // What a recipe leaves out does not happen: SimCLR has neither blur nor solarization.
            assert_eq!(recipe.augment.blur.is_none(), name.contains("simclr"), "{name}");
            assert_eq!(
                recipe.augment.solarize.is_none(),
                name.contains("simclr") || name.starts_with("synth"),
                "{name}"
            );
            let again = parse("again", &toml::to_string(&recipe).unwrap(), &[]).unwrap();
            assert_eq!(again, recipe, "{name}");
        }
    }

    #[test]
    fn an_adaptation_is_its_defaults_but_for_what_is_set() {
        let base = Adapt::default();
        let set = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
            adapt(&base, None, &settings)
        };
        assert_eq!(set(&[]).unwrap(), base);
        let recipe =
            set(&["epsilon=4/255", "guard.steps=3", "statistics={ kind = \"re-estimate\", share = 0.5 }"]).unwrap();
        assert_eq!((recipe.epsilon.to_string(), recipe.guard.steps, recipe.rate), ("4/255".into(), 3, base.rate));
        assert_eq!(recipe.statistics, gabion_spec::Statistics::ReEstimate { share: 0.5 });
        assert!(set(&["replay=4"]).unwrap_err().to_string().contains("`replays`"));
        assert!(set(&["replays=0"]).unwrap_err().to_string().contains("1..=64"));
    }

    #[test]
    fn settings_change_keys_and_wrong_ones_are_named() {
        let recipe = set(&["epochs=3", "threat.epsilon=4/255", "encoder.depth=resnet34"]).unwrap();
        assert_eq!(recipe.epochs, 3);
        assert!(matches!(recipe.threat, Threat::Free { epsilon, .. } if epsilon.to_string() == "4/255"));
        assert!(matches!(set(&["threat.kind=standard"]).unwrap().threat, Threat::Standard));
        assert_eq!(set(&["augment.solarize=none"]).unwrap().augment.solarize, None);
        let message = |settings: &[&str]| set(settings).unwrap_err().to_string();
        assert!(message(&["epoch=3"]).contains("did you mean `epochs`"), "{}", message(&["epoch=3"]));
        assert!(message(&["threat.replay=3"]).contains("`replays`"), "{}", message(&["threat.replay=3"]));
        assert!(message(&["threat.kind=fre"]).contains("`free`"), "{}", message(&["threat.kind=fre"]));
        let quoting = message(&["threat.kind=`a`, expected `b`\u{1b}"]);
        assert!(quoting.contains("know ``a`, expected `b`\\u{1b}`; did you mean `free`"), "{quoting}");
        assert!(message(&["views=0"]).contains("at least one view"));
        assert!(message(&["threat.epsilon=-1/255"]).contains("pixel budget"));
        assert!(message(&["loss.kind=sim-clr"]).contains("exactly 2 views"));
        assert!(message(&["images=50"]).contains("batch of 100"));
        assert!(message(&["epochs"]).contains("key=value"));
        let unknown = resolve(&Base::Preset("cifar10-smal".into()), &[]).unwrap_err().to_string();
        assert!(unknown.contains("`cifar10-small`"), "{unknown}");
        for settings in [&["epoch=3"][..], &["views=0"], &["=3"]] {
            assert_eq!(message(settings).lines().count(), 1);
        }
    }
}
