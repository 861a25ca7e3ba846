use super::*;
use proptest::prelude::*;

/// A key from a fixed seed.
fn key(seed: u8) -> SecretKey {
    SecretKey(SigningKey::from_bytes(&[seed; 32]))
}

#[test]
fn a_signature_is_of_these_bytes_and_this_key() {
    let (ours, other) = (key(1), key(2));
    let manifest = b"{\"format\": 1}\n";
    let signature = sign_bytes(manifest, &ours);
    verify_bytes(manifest, &signature, &ours.public()).unwrap();
    assert_eq!(sign_bytes(manifest, &ours), signature, "Ed25519 draws nothing");
    assert_eq!(verify_bytes(b"{\"format\": 2}\n", &signature, &ours.public()), Err(Unverified::Wrong));
    let refused = verify_bytes(manifest, &signature, &other.public());
    assert_eq!(refused, Err(Unverified::OtherKey { found: ours.public().id(), wanted: other.public().id() }));
    // An id is not trusted.
    let text = String::from_utf8(signature).unwrap().replace(&ours.public().id(), &other.public().id());
    assert_eq!(verify_bytes(manifest, text.as_bytes(), &other.public()), Err(Unverified::Wrong));
    // A signature of the bare bytes is none of a manifest.
    let bare = hex(&ours.0.sign(manifest).to_bytes());
    let bare = format!("{SIGNATURE_HEADER}{}\n{bare}\n", ours.public().id());
    assert_eq!(verify_bytes(manifest, bare.as_bytes(), &ours.public()), Err(Unverified::Wrong));
}

#[test]
fn the_format_is_the_documented_one() {
    let signature = String::from_utf8(sign_bytes(b"{}", &key(7))).unwrap();
    // RFC 8032 over "gabion bundle manifest 1\n{}" with a seed of 32 bytes of 7: from Python's cryptography.
    assert_eq!(signature, include_str!("golden.sig"));
    assert_eq!(key(7).public().to_text(), include_str!("golden.pub"));
}

#[test]
fn every_changed_byte_of_a_signature_is_found() {
    let (key, manifest) = (key(3), b"{}");
    let signature = sign_bytes(manifest, &key);
    for at in 0..signature.len() {
        for bit in 0..8 {
            let mut changed = signature.clone();
            changed[at] ^= 1 << bit;
            assert!(verify_bytes(manifest, &changed, &key.public()).is_err(), "bit {bit} of byte {at}");
        }
        assert!(verify_bytes(manifest, &signature[..at], &key.public()).is_err(), "{at}");
    }
    let longer = [&signature[..], b"\n"].concat();
    assert_eq!(verify_bytes(manifest, &longer, &key.public()), Err(Unverified::Malformed));
}

#[test]
fn keys_are_written_read_and_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let made = keygen().unwrap();
    assert_ne!(made.public(), keygen().unwrap().public());
    made.write(&path).unwrap();
    assert!(matches!(made.write(&path), Err(SignatureError::Io { .. })), "a key is not overwritten");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap()) & 0o777, 0o600);
    assert_eq!(SecretKey::read(&path).unwrap().public(), made.public());
    let error = PublicKey::read(&path).unwrap_err().to_string();
    assert!(error.contains("the secret one") && !error.contains(&hex(made.0.as_bytes())), "{error}");
    assert!(!format!("{made:?}").contains(&hex(made.0.as_bytes())));
    let public = folder.path().join("key.pub");
    std::fs::write(&public, made.public().to_text()).unwrap();
    assert_eq!(PublicKey::read(&public).unwrap(), made.public());
    assert!(SecretKey::read(&public).unwrap_err().to_string().contains("the public one"));
    for text in [made.public().to_string(), made.public().to_text()] {
        assert_eq!(text.parse::<PublicKey>().unwrap(), made.public());
    }
    std::fs::write(&public, [0xFF; 4]).unwrap();
    assert!(PublicKey::read(&public).unwrap_err().to_string().contains("not text"));
    std::fs::write(&public, vec![b' '; 1 << 20]).unwrap();
    assert!(matches!(PublicKey::read(&public), Err(SignatureError::Io { .. })));
    // The neutral element, under which anything verifies.
    let weak = format!("01{}", "0".repeat(62));
    assert!(weak.parse::<PublicKey>().unwrap_err().to_string().contains("trusted"));
    assert!("xyz".parse::<PublicKey>().is_err());
}

proptest! {
    #[test]
    fn no_bytes_pass_for_a_signature(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let passed = verify_bytes(b"{}", &bytes, &key(4).public()).is_ok();
        prop_assert!(!passed);
    }
}
