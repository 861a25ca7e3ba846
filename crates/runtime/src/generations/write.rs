//! Generations written and withdrawn.

use super::{
    Fault, GENERATIONS, GenerationError, KEPT, Names, Origin, Record, Source, folder, record, sound, trusted_base,
};
use crate::bundle::{MANIFEST, MANIFEST_BYTES};
use crate::signature::Trust;
use crate::{BundleError, durable, untrusted};
use gabion_spec::Manifest;
use std::io;
use std::path::Path;

/// A generation that is there to stay.
#[derive(Debug)]
pub struct Written {
    /// Its number.
    pub number: u64,
    /// Earlier ones that were removed, the newest first.
    pub removed: Vec<u64>,
    /// Why some that should go could not be; the next write tries again.
    pub left: Option<GenerationError>,
}

/// What a rollback did.
#[derive(Debug, PartialEq, Eq)]
pub struct Rolled {
    /// What is served now.
    pub to: Source,
    /// What never will be again, the newest first.
    pub withdrawn: Vec<u64>,
}

/// What went wrong in the folder of a new generation.
enum Filling {
    Io(io::Error),
    Typed(GenerationError),
}

impl From<io::Error> for Filling {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Refuses, before anything is trained, what would never be served: with [`Trust::Signed`] whatever is adapted here.
///
/// # Errors
/// [`GenerationError::Unsigned`].
pub fn adaptable(trust: &Trust) -> Result<(), GenerationError> {
    if trust.key_of_generations().is_some() { Err(GenerationError::Unsigned) } else { Ok(()) }
}

/// Writes a new generation, adapted from `parent`, and returns when it will outlast a loss of power: `fill` writes a
/// bundle into the folder that it gets, as [`crate::Stored::write`] does. The result is checked as a reader checks it before
/// it gets its name. Then all but the last [`KEPT`] sound generations are removed. Sound is what `trust` serves.
///
/// # Errors
/// When the base's manifest cannot be read or is not trusted, `fill` fails, what it wrote is not a whole bundle for what the
/// base is for, or not signed where that is required, `parent` was withdrawn or removed or the base replaced meanwhile,
/// another process holds the lock, the disk is full or the folder cannot be written. Nothing is left of the new one,
/// and what was served still is. (Where the very last step, syncing the folder, fails, the generation may be there
/// without having been promised.)
pub fn write<M>(
    bundle: &Path,
    trust: &Trust,
    parent: &Origin,
    fill: impl FnOnce(&Path) -> Result<M, BundleError>,
) -> Result<Written, GenerationError> {
    let generations = folder::make(bundle)?;
    let _lock = folder::lock(&generations)?;
    let base = trusted_base(bundle, trust)?;
    if base.weights.sha256 != parent.base {
        let (expected, found) = (parent.base.clone(), base.weights.sha256);
        return Err(GenerationError::BaseChanged { path: bundle.into(), expected, found });
    }
    let parent = parent.source;
    let names = Names::read(bundle)?;
    // First, since it frees room.
    folder::tidy(&names);
    if let Source::Generation(number) = parent
        && !sound_ones(&names, &base, trust).any(|(live, _)| live == number)
    {
        return Err(GenerationError::Parent { parent });
    }
    let Some(number) = names.highest.checked_add(1) else {
        return Err(GenerationError::Exhausted { path: generations, highest: names.highest });
    };
    let path = generations.join(folder::name_of(number));
    durable::create_folder(&path, |dir| fill_whole(dir, number, parent, (&base, trust), fill)).map_err(|filling| {
        match filling {
            Filling::Io(error) => GenerationError::io("write", &path, error),
            // The temporary folder that it names is gone.
            Filling::Typed(GenerationError::Bundle(BundleError::Io { source, .. })) => {
                GenerationError::io("write", &path, source)
            }
            Filling::Typed(error) => error,
        }
    })?;
    let (removed, left) = retire(&names, &base, trust);
    Ok(Written { number, removed, left })
}

fn fill_whole<M>(
    dir: &Path,
    number: u64,
    parent: Source,
    (base, trust): (&Manifest, &Trust),
    fill: impl FnOnce(&Path) -> Result<M, BundleError>,
) -> Result<(), Filling> {
    let typed = |error| Filling::Typed(error);
    fill(dir).map_err(|error| typed(error.into()))?;
    let unsound = |why: Fault| typed(GenerationError::Unsound { why: Box::new(why) });
    let path = dir.join(MANIFEST);
    let manifest = untrusted::read_within(&path, MANIFEST_BYTES);
    let manifest = manifest.map_err(|source| unsound(Fault::Io { path, source }))?;
    Record::new(number, parent, &base.weights.sha256, &manifest).write(dir)?;
    sound(dir, number, base, trust).map_err(unsound)?;
    Ok(record::sync(dir)?)
}

/// The live generations that pass every check, the newest first, looked at as they are asked for.
fn sound_ones<'a>(names: &'a Names, base: &'a Manifest, trust: &'a Trust) -> impl Iterator<Item = (u64, &'a Path)> {
    let live = names.live.iter().map(|(number, path)| (*number, path.as_path()));
    live.filter(|&(number, path)| sound(path, number, base, trust).is_ok())
}

/// Removes all that is older than the last [`KEPT`] sound generations, of which a new one is not in `names`.
fn retire(names: &Names, base: &Manifest, trust: &Trust) -> (Vec<u64>, Option<GenerationError>) {
    let last_kept = sound_ones(names, base, trust).nth(KEPT - 2).map(|(number, _)| number);
    let older = names.live.iter().filter(|&&(number, _)| last_kept.is_some_and(|kept| number < kept));
    let (mut removed, mut left) = (Vec::new(), None);
    for (number, path) in older.chain(names.withdrawn.iter().filter(|(_, path)| path.exists())) {
        match folder::remove(path) {
            Ok(()) => removed.push(*number),
            Err(error) => left = left.or(Some(GenerationError::io("remove", path, error))),
        }
    }
    (removed, left)
}

/// Withdraws every generation above `to`, without one the newest that is served, and returns when that will outlast a loss
/// of power. What is withdrawn does not come back and its number is not used again. What `trust` does not serve is
/// passed over as if it were not whole.
///
/// # Errors
/// When the generation that was asked for is not there or not whole, the base is not trusted where it is looked at,
/// another process holds the lock, or the folder cannot be written; nothing newer than what was served is served then.
pub fn rollback(bundle: &Path, trust: &Trust, to: Option<Source>) -> Result<Rolled, GenerationError> {
    let generations = bundle.join(GENERATIONS);
    if Names::read(bundle)?.highest == 0 {
        return match to {
            None | Some(Source::Base) => Ok(Rolled { to: Source::Base, withdrawn: Vec::new() }),
            Some(Source::Generation(number)) => Err(GenerationError::Target { number, why: "it is not there".into() }),
        };
    }
    let _lock = folder::lock(&generations)?;
    let names = Names::read(bundle)?;
    let target = match to {
        // Without a look at anything: this one has to work.
        Some(Source::Base) => 0,
        Some(Source::Generation(number)) => wanted(bundle, trust, &names, number)?,
        None => {
            let base = trusted_base(bundle, trust)?;
            sound_ones(&names, &base, trust).nth(1).map_or(0, |(number, _)| number)
        }
    };
    let mut withdrawn = Vec::new();
    for (number, path) in names.live.iter().filter(|&&(number, _)| number > target) {
        folder::withdraw(path).map_err(|error| GenerationError::io("withdraw", path, error))?;
        withdrawn.push(*number);
    }
    // Also where there was nothing to do: an earlier attempt may have ended before this.
    durable::sync_folder(&generations).map_err(|error| GenerationError::io("sync", &generations, error))?;
    let to = if target == 0 { Source::Base } else { Source::Generation(target) };
    Ok(Rolled { to, withdrawn })
}

/// The number, when a rollback to it serves it.
fn wanted(bundle: &Path, trust: &Trust, names: &Names, number: u64) -> Result<u64, GenerationError> {
    let refused = |why: String| GenerationError::Target { number, why };
    let Some((_, path)) = names.live.iter().find(|&&(live, _)| live == number) else {
        let withdrawn = names.withdrawn.iter().any(|&(withdrawn, _)| withdrawn == number);
        return Err(refused(if withdrawn { "it was withdrawn".into() } else { "it is not there".into() }));
    };
    let base = trusted_base(bundle, trust)?;
    sound(path, number, &base, trust).map_err(|fault| refused(fault.to_string()))?;
    Ok(number)
}
