//! Ed25519 signatures of a bundle: `manifest.sig` beside `manifest.json`.
//!
//! The manifest holds the SHA-256 of the weights, so a signature of the manifest's bytes covers the bundle. The file is
//! text of two lines, nothing before, between or after them:
//!
//! ```text
//! gabion-signature-1 KEY
//! SIGNATURE
//! ```
//!
//! `KEY` is the public key's id, the first 8 bytes of its SHA-256 in 16 lowercase hexadecimal digits; it says which key
//! to look for and is not itself trusted. `SIGNATURE` is 128 such digits: Ed25519 (RFC 8032) over the bytes
//! `gabion bundle manifest 1\n` followed by those of `manifest.json`. The first part keeps a signature of something else
//! from passing for one of a manifest. Verification is the strict one: no key of small order, no second form of a
//! signature.
//!
//! A key's file is a line: `gabion-public-key-1` or `gabion-secret-key-1`, a space, 64 digits.

use crate::bundle::{MANIFEST, MANIFEST_BYTES};
use crate::{durable, untrusted};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The signature's file name.
pub const SIGNATURE: &str = "manifest.sig";

const SIGNATURE_HEADER: &str = "gabion-signature-1 ";
const PUBLIC_HEADER: &str = "gabion-public-key-1 ";
const SECRET_HEADER: &str = "gabion-secret-key-1 ";
/// What is signed before the manifest's bytes.
const DOMAIN: &[u8] = b"gabion bundle manifest 1\n";
/// More than a key or a signature takes.
const FILE_BYTES: u64 = 1024;

/// Which bundles are served.
///
/// Generations that a device adapted are signed by nobody. [`Trust::SignedWithLocalGenerations`] trusts, beside the key,
/// whoever can write the bundle's folder: what a stranger delivers must not bring a `generations` folder along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Any bundle that is whole, and any of its generations.
    Any,
    /// A bundle signed with this key, and a generation only when it is signed with it too.
    Signed(PublicKey),
    /// A bundle signed with this key, and generations, signed or not, that name the weights of that very bundle as their
    /// base and do not change what they are for: network, input and classes.
    SignedWithLocalGenerations(PublicKey),
}

impl Trust {
    /// The key that a bundle's own signature needs.
    pub fn key(&self) -> Option<&PublicKey> {
        match self {
            Self::Any => None,
            Self::Signed(key) | Self::SignedWithLocalGenerations(key) => Some(key),
        }
    }

    /// The key that a generation's signature needs.
    pub(crate) fn key_of_generations(&self) -> Option<&PublicKey> {
        match self {
            Self::Any | Self::SignedWithLocalGenerations(_) => None,
            Self::Signed(key) => Some(key),
        }
    }
}

/// What signs; kept from logs.
pub struct SecretKey(SigningKey);

/// What verifies: 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unverified {
    /// Bytes that are no signature file.
    #[error("it is not a signature's two lines: sign the bundle again")]
    Malformed,
    /// Signed with another key.
    #[error("it was made with the key {found}, {wanted} is required: use the public key of the bundle's author")]
    OtherKey {
        /// Its id.
        found: String,
        /// The required one's.
        wanted: String,
    },
    /// The key's, but not of these bytes.
    #[error("it is not of this manifest: manifest or signature was changed since, copy both again or sign again")]
    Wrong,
}

/// Why something cannot be signed, verified, or a key not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A bundle without a signature where one is required.
    #[error("{} is missing and a signature is required: sign it with `gabion sign`, or get a signed one", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A signature that does not count.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The signature's file.
        path: PathBuf,
        /// Why not.
        why: Unverified,
    },
    /// A bundle that is not whole is not signed.
    #[error(transparent)]
    Bundle(#[from] crate::BundleError),
    /// Text that is no key.
    #[error("{origin} is not a {kind} key ({why}): make one with `gabion keygen`")]
    Key {
        /// The file, or `the text`.
        origin: String,
        /// `public` or `secret`.
        kind: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system has no random numbers.
    #[error("cannot make a key: {why}")]
    Random {
        /// Its reason.
        why: String,
    },
}

/// A new key pair from the system's random numbers.
///
/// # Errors
/// When the system has none.
pub fn keygen() -> Result<SecretKey, SignatureError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| SignatureError::Random { why: error.to_string() })?;
    Ok(SecretKey(SigningKey::from_bytes(&seed)))
}

/// Signs the manifest of a bundle whose weights are those of the manifest; an earlier signature is replaced, whole or
/// not at all.
///
/// # Errors
/// When the bundle is not whole, or the system refuses.
pub fn sign(dir: &Path, key: &SecretKey) -> Result<(), SignatureError> {
    let manifest = crate::generations::whole(dir)?;
    let path = dir.join(SIGNATURE);
    durable::write_here(&path, &sign_bytes(&manifest, key)).map_err(|source| SignatureError::Io {
        doing: "write",
        path,
        source,
    })
}

/// The signature file of a manifest's bytes.
pub fn sign_bytes(manifest: &[u8], key: &SecretKey) -> Vec<u8> {
    let signature = key.0.sign(&message(manifest));
    format!("{SIGNATURE_HEADER}{}\n{}\n", key.public().id(), hex(&signature.to_bytes())).into_bytes()
}

/// Checks that the manifest in a folder is signed with a key. To open the bundle afterwards reads the manifest a second
/// time; [`crate::generations::open`] compares the two, and a reader of its own has [`verify_bytes`].
///
/// # Errors
/// When manifest or signature cannot be read, or the signature does not count.
pub fn verify(dir: &Path, key: &PublicKey) -> Result<(), SignatureError> {
    let path = dir.join(MANIFEST);
    let manifest = untrusted::read_within(&path, MANIFEST_BYTES);
    verify_beside(dir, &manifest.map_err(|source| SignatureError::Io { doing: "read", path, source })?, key)
}

/// [`verify_bytes`] with the signature in a folder.
pub(crate) fn verify_beside(dir: &Path, manifest: &[u8], key: &PublicKey) -> Result<(), SignatureError> {
    let path = dir.join(SIGNATURE);
    let signature = match untrusted::read_within(&path, FILE_BYTES) {
        Ok(signature) => signature,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SignatureError::Missing { path }),
        Err(source) => return Err(SignatureError::Io { doing: "read", path, source }),
    };
    verify_bytes(manifest, &signature, key).map_err(|why| SignatureError::Refused { path, why })
}

/// Checks a signature file against the very bytes of a manifest that are parsed next.
///
/// # Errors
/// Why it does not count.
pub fn verify_bytes(manifest: &[u8], signature: &[u8], key: &PublicKey) -> Result<(), Unverified> {
    let parts = || {
        let text = std::str::from_utf8(signature).ok()?.strip_prefix(SIGNATURE_HEADER)?.strip_suffix('\n')?;
        let (id, signature) = text.split_once('\n')?;
        Some((id, unhex::<8>(id)?, unhex::<64>(signature)?))
    };
    let (id, _, signature) = parts().ok_or(Unverified::Malformed)?;
    let wanted = key.id();
    if id != wanted {
        return Err(Unverified::OtherKey { found: id.into(), wanted });
    }
    key.0.verify_strict(&message(manifest), &Signature::from_bytes(&signature)).map_err(|_| Unverified::Wrong)
}

fn message(manifest: &[u8]) -> Vec<u8> {
    [DOMAIN, manifest].concat()
}

impl SecretKey {
    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Reads a key's file.
    ///
    /// # Errors
    /// When it cannot be read or holds no secret key.
    pub fn read(path: &Path) -> Result<Self, SignatureError> {
        let wrong = |why| SignatureError::Key { origin: path.display().to_string(), kind: "secret", why };
        let text = key_text(path, wrong("it is not text"))?;
        let seed = key_digits(&text, SECRET_HEADER).map_err(wrong)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Writes the key into a new file that its owner alone can read. A file that is there stays.
    ///
    /// # Errors
    /// When there is one, or the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), SignatureError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let io = |source| SignatureError::Io { doing: "write", path: path.into(), source };
        let mut file = options.open(path).map_err(io)?;
        let written = file.write_all(format!("{SECRET_HEADER}{}\n", hex(self.0.as_bytes())).as_bytes());
        let written = written.and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = std::fs::remove_file(path);
        }
        written.and_then(|()| durable::sync_folder(durable::folder_of(path))).map_err(io)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {:?})", self.public())
    }
}

impl PublicKey {
    /// 16 digits that tell keys apart.
    pub fn id(&self) -> String {
        hex(&Sha256::digest(self.0.as_bytes())[..8])
    }

    /// Reads a key's file.
    ///
    /// # Errors
    /// When it cannot be read or holds no public key.
    pub fn read(path: &Path) -> Result<Self, SignatureError> {
        let wrong = |why| SignatureError::Key { origin: path.display().to_string(), kind: "public", why };
        let text = key_text(path, wrong("it is not text"))?;
        Self::of(&key_digits(&text, PUBLIC_HEADER).map_err(wrong)?).map_err(wrong)
    }

    /// A key's file, as text.
    pub fn to_text(&self) -> String {
        format!("{PUBLIC_HEADER}{self}\n")
    }

    fn of(bytes: &[u8; 32]) -> Result<Self, &'static str> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err("no signature could be trusted under it"),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = SignatureError;

    /// 64 digits, or a key's file as text.
    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let wrong = |why| SignatureError::Key { origin: "the text".into(), kind: "public", why };
        let digits = match unhex(text) {
            Some(digits) => digits,
            None => key_digits(text, PUBLIC_HEADER).map_err(wrong)?,
        };
        Self::of(&digits).map_err(wrong)
    }
}

fn key_text(path: &Path, no_text: SignatureError) -> Result<String, SignatureError> {
    // The user's own file: a link to it is followed.
    let resolved = std::fs::canonicalize(path);
    let bytes = resolved.and_then(|path| untrusted::read_within(&path, FILE_BYTES));
    let bytes = bytes.map_err(|source| SignatureError::Io { doing: "read the key", path: path.into(), source })?;
    String::from_utf8(bytes).map_err(|_| no_text)
}

fn key_digits(text: &str, header: &str) -> Result<[u8; 32], &'static str> {
    let text = text.trim_end();
    match text.strip_prefix(header) {
        Some(digits) => unhex(digits).ok_or("64 lowercase hexadecimal digits should follow its first word"),
        None if text.starts_with(SECRET_HEADER) => Err("it is the secret one"),
        None if text.starts_with(PUBLIC_HEADER) => Err("it is the public one"),
        None => Err("its first word is another"),
    }
}

/// Lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// Bytes of exactly so many lowercase hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().as_chunks::<2>();
    if text.len() != 2 * N || !pairs.1.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs.0) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
