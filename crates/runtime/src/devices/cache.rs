//! Compiled kernels on disk, where the backend has such a cache: a later start need not compile them again.

use crate::durable;
use burn::tensor::wgpu::wgpu::{AdapterInfo, Device, Features, PipelineCache, PipelineCacheDescriptor, util};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Largest file that is read.
const MOST_BYTES: u64 = 64 << 20;

/// A cache and the file that it is kept in.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) cache: PipelineCache,
    path: PathBuf,
    kept: Arc<Mutex<[u8; 32]>>,
}

impl Cache {
    /// Filled with what an earlier process kept for this adapter; none where the device has no caches or the system no
    /// folder for them.
    pub(super) fn open(device: &Device, info: &AdapterInfo) -> Option<Self> {
        if !device.features().contains(Features::PIPELINE_CACHE) {
            return None;
        }
        Self::at(folder()?.join(util::pipeline_cache_key(info)?), device)
    }

    fn at(path: PathBuf, device: &Device) -> Option<Self> {
        let kept = read(&path);
        let hash = kept.as_deref().map_or([0; 32], |data| Sha256::digest(data).into());
        let descriptor = PipelineCacheDescriptor { label: Some("gabion"), data: kept.as_deref(), fallback: true };
        // SAFETY: the data is whole, as its hash says, and is what `get_data` gave to this program; wgpu checks that it
        // was for this adapter and driver, and starts an empty cache where it was not.
        #[allow(unsafe_code)]
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, path, kept: Arc::new(Mutex::new(hash)) })
    }

    /// Keeps what is new. A cache that cannot be written is one that the next start does without.
    pub(crate) fn keep(&self) {
        let Some(data) = self.cache.get_data() else { return };
        let hash: [u8; 32] = Sha256::digest(&data).into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept == hash {
            return;
        }
        let made = self.path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok());
        if made && durable::write(&self.path, &[hash.as_slice(), &data].concat()).is_ok() {
            *kept = hash;
        }
    }
}

/// The data of a file, where it has the hash that stands before it.
fn read(path: &PathBuf) -> Option<Vec<u8>> {
    if std::fs::metadata(path).ok()?.len() > MOST_BYTES {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let (hash, data) = bytes.split_first_chunk::<32>()?;
    (<[u8; 32]>::from(Sha256::digest(data)) == *hash).then(|| data.to_vec())
}

/// `$XDG_CACHE_HOME/gabion`, `~/.cache/gabion` or `%LOCALAPPDATA%\gabion`.
fn folder() -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || named("HOME").map(|home| home.join(".cache"));
    named("XDG_CACHE_HOME").or_else(|| named("LOCALAPPDATA")).or_else(home).map(|folder| folder.join("gabion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        assert_eq!(read(&path), None);
        let hash: [u8; 32] = Sha256::digest(b"data").into();
        std::fs::write(&path, [hash.as_slice(), b"data"].concat()).unwrap();
        assert_eq!(read(&path).as_deref(), Some(b"data".as_slice()));
        std::fs::write(&path, [hash.as_slice(), b"dat"].concat()).unwrap();
        assert_eq!(read(&path), None);
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(read(&path), None);
    }
}
