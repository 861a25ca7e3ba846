//! A bundle in service: the newest generation that is whole and trusted, served while the next one is made.
//!
//! Sessions are handed out by [`Deployed::serving`] and stay what they are; an adaptation works on a copy of the weights, and
//! only one that was promoted and written takes the place of what is served. A rollback is written first too.

use crate::bundle::{self, MANIFEST};
use crate::frozen::Precision;
use crate::generations::{self, GenerationError, Origin, Rolled, Skipped, Standing};
use crate::signature::Trust;
use crate::{BundleError, Session, Stored};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

/// What is served.
#[derive(Debug)]
pub struct Serving {
    /// Classifies.
    pub session: Session,
    /// Which weights those are, and of which base.
    pub origin: Origin,
    /// Newer generations that were passed over when it was opened.
    pub skipped: Vec<Skipped>,
    /// Of the folder, from before it was opened.
    standing: Standing,
    /// What other devices and adaptations start from.
    #[cfg(feature = "burn")]
    stored: Stored,
}

/// A bundle's folder in service.
#[derive(Debug)]
pub struct Deployed {
    path: PathBuf,
    trust: Trust,
    /// Of each session, see [`Session::with_memory`].
    memory: Option<u64>,
    /// Of each session.
    precision: Precision,
    serving: RwLock<Arc<Serving>>,
    /// Held by the one that changes what is served.
    changing: Mutex<()>,
}

/// Why what is served was not changed; it still is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeployedError {
    /// Another thread adapts or rolls back.
    #[error("the bundle is being adapted or rolled back: wait for that to end")]
    Busy,
    /// Generations could not be read or written.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// What was written could not be opened again.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// One view takes more memory than is allowed.
    #[error(transparent)]
    Memory(#[from] crate::ClassifyError),
    /// The adaptation.
    #[cfg(feature = "flex")]
    #[error(transparent)]
    Adapt(#[from] crate::AdaptError),
}

/// What came of an adaptation.
#[cfg(feature = "flex")]
#[derive(Debug)]
pub struct Adaptation {
    /// Whether the result may take the bundle's place.
    pub verdict: crate::Verdict,
    /// What was done and measured.
    pub report: crate::adapt::Report,
    /// The generation that is served from now on; none after a refusal.
    pub promoted: Option<u64>,
}

/// Adapted weights that serve nobody yet.
#[cfg(feature = "flex")]
#[derive(Debug)]
pub struct Candidate {
    /// The weights, the guard's verdict and what was measured.
    pub adapted: crate::Adapted,
    /// What they were adapted from.
    parent: Origin,
}

impl Deployed {
    /// Opens a bundle on the CPU, its sessions within `memory` bytes where that is given.
    ///
    /// # Errors
    /// When neither a generation nor the base can be served: the base's fault is told. When one view takes more memory.
    pub fn open(bundle: &Path, trust: Trust, memory: Option<u64>) -> Result<Self, DeployedError> {
        Self::open_in(Precision::F32, bundle, trust, memory)
    }

    /// [`Deployed::open`], its sessions multiplying in `precision`; what is adapted and guarded is in f32.
    ///
    /// # Errors
    /// As it does.
    pub fn open_in(
        precision: Precision,
        bundle: &Path,
        trust: Trust,
        memory: Option<u64>,
    ) -> Result<Self, DeployedError> {
        let serving = RwLock::new(Arc::new(serve(precision, bundle, &trust, memory)?));
        Ok(Self { path: bundle.into(), trust, memory, precision, serving, changing: Mutex::new(()) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is served now; it stays as it is for whoever holds it.
    pub fn serving(&self) -> Arc<Serving> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is served now on another device, where that is asked for or, for [`crate::Choice::Auto`], faster in a short
    /// trial, and in words where it is and why. It is the same weights, checked and trusted once; they stay as they are,
    /// for what is on another device does not adapt.
    ///
    /// # Errors
    /// When there is no such device.
    #[cfg(feature = "burn")]
    pub fn elsewhere(&self, choice: crate::Choice) -> Result<(Option<Session>, String), crate::SessionError> {
        let serving = self.serving();
        serving.session.elsewhere(&serving.stored, choice)
    }

    /// Serves what the folder says where another process has written, withdrawn or replaced something meanwhile, and says
    /// whether other weights are served now. Costs a look at names and a manifest where nothing has changed.
    ///
    /// # Errors
    /// When the folder cannot be read or what is there cannot be served; what was served still is.
    pub fn refresh(&self) -> Result<bool, DeployedError> {
        let before = self.serving();
        if generations::standing(&self.path)? == before.standing {
            return Ok(false);
        }
        self.renew()?;
        Ok(self.serving().origin != before.origin)
    }

    /// Withdraws generations above `to`, without one the newest, and serves what is left.
    ///
    /// # Errors
    /// As [`generations::rollback`]; when another thread changes what is served.
    pub fn rollback(&self, to: Option<generations::Source>) -> Result<Rolled, DeployedError> {
        self.changed(|_| Ok::<_, DeployedError>(generations::rollback(&self.path, &self.trust, to)?))
    }

    /// Keeps others from changing what is served while `work` does, and serves what the folder says afterwards: for those
    /// who write generations themselves.
    ///
    /// # Errors
    /// When another thread changes what is served; that of `work`; when what it left cannot be served.
    pub fn changed<T, E: From<DeployedError>>(&self, work: impl FnOnce(&Serving) -> Result<T, E>) -> Result<T, E> {
        let _alone = self.alone()?;
        let done = work(&self.serving())?;
        self.renew()?;
        Ok(done)
    }

    /// Adapts what is served to local images while it is served, see [`crate::adapt::adapt`]; a result that is promoted is
    /// written as a generation and then served.
    ///
    /// # Errors
    /// When another thread changes what is served, the adaptation fails or is cancelled, or the generation cannot be
    /// written. What was served still is.
    #[cfg(feature = "flex")]
    pub fn adapt(
        &self,
        local: &crate::Local<'_>,
        recipe: &gabion_spec::Adapt,
        observer: &mut dyn FnMut(crate::adapt::Progress) -> std::ops::ControlFlow<()>,
    ) -> Result<Adaptation, DeployedError> {
        let _alone = self.alone()?;
        let candidate = self.candidate(local, recipe, observer)?;
        let promoted = match candidate.adapted.verdict {
            crate::Verdict::Promoted => Some(self.put(&candidate)?),
            crate::Verdict::Refused { .. } => None,
        };
        let crate::Adapted { verdict, report, .. } = candidate.adapted;
        Ok(Adaptation { verdict, report, promoted })
    }

    /// The first half of [`Deployed::adapt`], for those who decide themselves when a candidate takes over.
    ///
    /// # Errors
    /// When nobody would be served the result, see [`generations::adaptable`]; when the adaptation fails or is cancelled.
    #[cfg(feature = "flex")]
    pub fn candidate(
        &self,
        local: &crate::Local<'_>,
        recipe: &gabion_spec::Adapt,
        observer: &mut dyn FnMut(crate::adapt::Progress) -> std::ops::ControlFlow<()>,
    ) -> Result<Candidate, DeployedError> {
        generations::adaptable(&self.trust)?;
        // Another process may have withdrawn it: what comes of it would not be taken.
        self.refresh()?;
        let serving = self.serving();
        let bundle = crate::Bundle::made_of(serving.stored.clone(), &burn::tensor::Device::flex())
            .map_err(|misfit| BundleError::Tensor { path: self.path.clone(), misfit })?;
        let adapted = crate::adapt::adapt(&bundle, local, recipe, observer)?;
        Ok(Candidate { adapted, parent: serving.origin.clone() })
    }

    /// The second half: writes a candidate as the next generation, whose number is returned, and serves it.
    ///
    /// # Errors
    /// When what it was adapted from was rolled back, another thread changes what is served, or the generation cannot be
    /// written.
    #[cfg(feature = "flex")]
    pub fn promote(&self, candidate: &Candidate) -> Result<u64, DeployedError> {
        let _alone = self.alone()?;
        self.put(candidate)
    }

    #[cfg(feature = "flex")]
    fn put(&self, candidate: &Candidate) -> Result<u64, DeployedError> {
        let number = promote(&self.path, &self.trust, &candidate.parent, &candidate.adapted.candidate)?;
        self.renew()?;
        Ok(number)
    }

    /// Keeps others from changing what is served.
    fn alone(&self) -> Result<std::sync::MutexGuard<'_, ()>, DeployedError> {
        match self.changing.try_lock() {
            Ok(alone) => Ok(alone),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(DeployedError::Busy),
        }
    }

    /// Serves what the folder says.
    fn renew(&self) -> Result<(), DeployedError> {
        let serving = Arc::new(serve(self.precision, &self.path, &self.trust, self.memory)?);
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = serving;
        Ok(())
    }
}

fn serve(precision: Precision, bundle: &Path, trust: &Trust, memory: Option<u64>) -> Result<Serving, DeployedError> {
    // Without Burn nothing is made of them but answers.
    let whole = if cfg!(feature = "burn") { Stored::read } else { Stored::read_to_answer };
    let read = |dir: &Path| {
        if let Some(budget) = memory {
            bundle::fits(&dir.join(MANIFEST), &bundle::read_manifest(&dir.join(MANIFEST))?, budget)?;
        }
        whole(dir)
    };
    let standing = generations::standing(bundle)?;
    let served = generations::open(bundle, trust, read)?;
    let session = Session::of_in(precision, &served.bundle)?;
    let session = match memory {
        Some(budget) => session.with_memory(budget)?,
        None => session,
    };
    Ok(Serving {
        session,
        origin: served.origin,
        skipped: served.skipped,
        standing,
        #[cfg(feature = "burn")]
        stored: served.bundle,
    })
}

/// Writes an adapted bundle as the next generation after `parent`; its number.
///
/// # Errors
/// As [`generations::write`].
#[cfg(feature = "burn")]
pub fn promote(
    bundle: &Path,
    trust: &Trust,
    parent: &Origin,
    candidate: &crate::Bundle,
) -> Result<u64, GenerationError> {
    let precision = candidate.manifest.weights.precision;
    let written = generations::write(bundle, trust, parent, |dir| candidate.stored().write(dir, precision))?;
    Ok(written.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::Source;
    use crate::session::tests::stored;
    use crate::{Classify, Rgb};
    use gabion_spec::Precision;

    fn image() -> Rgb {
        Rgb { height: 16, width: 16, pixels: (0..768u32).map(|at| (at * 7919 % 251) as u8).collect() }
    }

    #[test]
    fn a_network_beyond_the_memory_is_refused_by_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        let base = stored();
        base.write(&dir, Precision::F32).unwrap();
        let needs = bundle::least_memory(&base.manifest);
        // A lower bound: whoever is given what a session takes is not refused.
        assert!(needs <= Session::of(&base).unwrap().needs());
        // Weights that are not there are not looked for.
        std::fs::remove_file(dir.join(&base.manifest.weights.file)).ok();
        std::fs::remove_file(dir.join(bundle::WEIGHTS)).ok();
        let fail = |memory| Deployed::open(&dir, Trust::Any, memory).unwrap_err().to_string();
        assert!(fail(Some(needs - 1)).contains("takes at least"), "{}", fail(Some(needs - 1)));
        assert!(!fail(Some(needs)).contains("takes at least"));
        // What a stranger's manifest may say at most is more than any machine here has.
        let mut manifest = base.manifest.clone();
        (manifest.input.height, manifest.input.width, manifest.encoder.width) = (1024, 1024, 1024);
        assert!(bundle::least_memory(&manifest) > 4 << 30);
        let path = Path::new("manifest.json");
        let error = bundle::fits(path, &manifest, 1 << 30).unwrap_err().to_string();
        assert!(
            error.contains("manifest.json") && error.contains("the budget is 1073741824") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn a_generation_is_served_until_it_is_rolled_back() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        let base = stored();
        base.write(&dir, Precision::F32).unwrap();
        let deployed = Deployed::open(&dir, Trust::Any, None).unwrap();
        let old = deployed.serving();
        assert_eq!(old.origin.source, Source::Base);
        let mut other = base.clone();
        other.tensors.get_mut("head.bias").unwrap().values[3] += 100.0;
        generations::write(&dir, &Trust::Any, &deployed.serving().origin, |dir| other.write(dir, Precision::F32))
            .unwrap();
        deployed.renew().unwrap();
        let new = deployed.serving();
        assert_eq!(new.origin.source, Source::Generation(1));
        let label = |serving: &Serving| serving.session.classify(&image(), &Classify::default()).unwrap().label;
        assert_eq!(label(&new), 3);
        let before = label(&old);
        assert_ne!(before, 3, "what was handed out stays what it was");
        assert!(!deployed.refresh().unwrap(), "nothing has changed");
        assert_eq!(deployed.rollback(None).unwrap().to, Source::Base);
        assert_eq!(label(&deployed.serving()), before);
        // What another process does is seen too.
        let origin = deployed.serving().origin.clone();
        generations::write(&dir, &Trust::Any, &origin, |dir| other.write(dir, Precision::F32)).unwrap();
        assert!(deployed.refresh().unwrap());
        assert_eq!(label(&deployed.serving()), 3);
        generations::rollback(&dir, &Trust::Any, None).unwrap();
        assert!(deployed.refresh().unwrap());
        assert_eq!((label(&deployed.serving()), deployed.refresh().unwrap()), (before, false));
        other.write(&dir, Precision::F32).unwrap();
        assert!(deployed.refresh().unwrap(), "a base that was replaced");
        assert_eq!(label(&deployed.serving()), 3);
    }

    #[test]
    fn one_changes_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        stored().write(&dir, Precision::F32).unwrap();
        let deployed = Deployed::open(&dir, Trust::Any, None).unwrap();
        let alone = deployed.alone().unwrap();
        assert!(matches!(deployed.rollback(None), Err(DeployedError::Busy)));
        drop(alone);
        assert!(deployed.rollback(None).is_ok());
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn another_device_serves_the_same_generation() {
        use crate::{Choice, DeviceError, SessionError};
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("bundle");
        let base = stored();
        base.write(&dir, Precision::F32).unwrap();
        let mut other = base.clone();
        other.tensors.get_mut("head.bias").unwrap().values[3] += 100.0;
        let deployed = Deployed::open(&dir, Trust::Any, None).unwrap();
        generations::write(&dir, &Trust::Any, &deployed.serving().origin, |dir| other.write(dir, Precision::F32))
            .unwrap();
        deployed.renew().unwrap();
        assert!(matches!(deployed.elsewhere(Choice::Cpu), Ok((None, _))));
        let required = std::env::var_os("GABION_REQUIRE_GPU").is_some_and(|value| value == "1");
        let session = match deployed.elsewhere(Choice::Wgpu) {
            Ok((session, _)) => session.expect("it was asked for"),
            Err(SessionError::Device(DeviceError::Absent { .. })) if !required => {
                return println!("skipped: no wgpu adapter");
            }
            Err(error) => panic!("{error}"),
        };
        let there = session.classify(&image(), &Classify::default()).unwrap();
        let here = deployed.serving().session.classify(&image(), &Classify::default()).unwrap();
        assert_eq!((there.label, here.label, session.fallen()), (3, 3, None));
        assert!((there.margin - here.margin).abs() < 1e-4);
    }
}
