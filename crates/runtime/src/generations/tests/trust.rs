//! Signatures and the base that was adapted: what is served, written, kept and withdrawn under them.

use super::*;
use crate::signature::{keygen, sign};
use crate::{SignatureError, generations};

#[cfg(unix)]
#[test]
fn a_signature_replaces_a_link_and_not_what_it_leads_to() {
    let place = Place::new();
    let (key, other) = (keygen().unwrap(), place.bundle.with_file_name("other"));
    fs::write(&other, b"kept").unwrap();
    std::os::unix::fs::symlink(&other, place.bundle.join(crate::signature::SIGNATURE)).unwrap();
    sign(&place.bundle, &key).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"kept");
    open(&place.bundle, &Trust::Signed(key.public()), read).unwrap();
}

#[test]
fn a_required_signature_decides_what_is_served() {
    let place = Place::with(2);
    let (ours, other) = (keygen().unwrap(), keygen().unwrap());
    let strict = Trust::Signed(ours.public());
    let local = Trust::SignedWithLocalGenerations(ours.public());
    let source = |trust: &Trust| open(&place.bundle, trust, read).map(|served| served.origin.source);
    for trust in [&strict, &local] {
        let error = source(trust).unwrap_err();
        assert!(matches!(error, GenerationError::Signature(SignatureError::Missing { .. })), "{error}");
    }
    sign(&place.bundle, &other).unwrap();
    assert!(matches!(source(&local), Err(GenerationError::Signature(SignatureError::Refused { .. }))));
    sign(&place.bundle, &ours).unwrap();
    assert_eq!(source(&local).unwrap(), Source::Generation(2));
    assert_eq!(source(&Trust::Any).unwrap(), Source::Generation(2));
    let served = open(&place.bundle, &strict, read).unwrap();
    assert_eq!((served.origin.source, served.skipped.len()), (Source::Base, 2));
    assert!(matches!(served.skipped[0].why, Fault::Signature(SignatureError::Missing { .. })));
    assert!(matches!(list(&place.bundle, &strict).unwrap()[0].state, State::Faulty(Fault::Signature(_))));
    sign(&place.folder().join("000001"), &ours).unwrap();
    assert_eq!(source(&strict).unwrap(), Source::Generation(1));
    sign(&place.folder().join("000002"), &other).unwrap();
    assert_eq!(source(&strict).unwrap(), Source::Generation(1));
    // A generation whose record was made to fit another base is not of the signed one.
    fill(&place.bundle, b"new base", |_| {}).unwrap();
    sign(&place.bundle, &ours).unwrap();
    let served = open(&place.bundle, &local, read).unwrap();
    assert!(served.skipped.iter().all(|skipped| matches!(skipped.why, Fault::OtherBase { .. })));
    assert_eq!(served.bundle.weights, b"new base");
}

#[test]
fn what_is_not_signed_is_neither_written_nor_does_it_displace_what_is() {
    let place = Place::with(2);
    let key = keygen().unwrap();
    let (strict, local) = (Trust::Signed(key.public()), Trust::SignedWithLocalGenerations(key.public()));
    sign(&place.bundle, &key).unwrap();
    sign(&place.folder().join("000001"), &key).unwrap();
    assert!(matches!(adaptable(&strict), Err(GenerationError::Unsigned)));
    adaptable(&local).unwrap();
    let served = |trust: &Trust| open(&place.bundle, trust, read).unwrap().origin;
    let write = |trust: &Trust, sign_it: bool| {
        generations::write(&place.bundle, trust, &served(trust), |dir| {
            fill(dir, b"x", |_| {})?;
            if sign_it {
                sign(dir, &key).unwrap();
            }
            Ok(())
        })
    };
    let error = write(&strict, false).unwrap_err();
    let GenerationError::Unsound { why } = &error else { panic!("{error}") };
    assert!(matches!(**why, Fault::Signature(SignatureError::Missing { .. })), "{why}");
    assert_eq!(served(&strict).source, Source::Generation(1));
    // Of the signed ones two are kept, whatever else lies there.
    assert!(write(&strict, true).unwrap().removed.is_empty());
    assert_eq!(served(&strict).source, Source::Generation(3));
    let rolled = generations::rollback(&place.bundle, &strict, None).unwrap();
    assert_eq!(rolled, Rolled { to: Source::Generation(1), withdrawn: vec![3, 2] });
    generations::rollback(&place.bundle, &Trust::Signed(keygen().unwrap().public()), None).unwrap_err();
}

#[test]
fn what_was_adapted_from_a_replaced_base_is_not_kept() {
    let place = Place::with(1);
    let origin = place.open().origin;
    fill(&place.bundle, b"new base", |_| {}).unwrap();
    for source in [Source::Base, origin.source] {
        let origin = Origin { source, ..origin.clone() };
        let error = generations::write(&place.bundle, &Trust::Any, &origin, |dir| fill(dir, b"x", |_| {})).unwrap_err();
        assert!(matches!(error, GenerationError::BaseChanged { .. }), "{error}");
    }
    assert_eq!(place.names(), ["000001"]);
}
