//! Manifests: those of earlier versions are read, those of fine-tuned encoders say what was done.

use gabion_spec::{AdversarialLoss, FineTune, Manifest, Probe};
use std::path::Path;

#[test]
fn a_manifest_from_before_fine_tuning_is_read_and_written_alike() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/cifar10-small/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    assert!(manifest.finetune.is_empty());
    let [was, is] =
        [serde_json::from_str(&text), serde_json::to_value(&manifest)].map(Result::<serde_json::Value, _>::unwrap);
    assert_eq!(was, is);
}

#[test]
fn a_recipe_of_fine_tuning_is_one_flat_table_that_refuses_unknown_keys() {
    for (recipe, head) in [(Probe::Alf(FineTune::ALF), "alf"), (Probe::Aff(FineTune::AFF), "aff")] {
        let mut value = serde_json::to_value(recipe).unwrap();
        assert_eq!((&value["head"], &value["epsilon"]), (&head.into(), &"8/255".into()));
        assert_eq!(serde_json::from_value::<Probe>(value.clone()).unwrap(), recipe);
        value["epoch"] = 3.into();
        let error = serde_json::from_value::<Probe>(value).unwrap_err().to_string();
        assert!(error.contains("epoch"), "{error}");
    }
    let objective: AdversarialLoss = serde_json::from_str(r#"{"kind": "trades"}"#).unwrap();
    assert_eq!(objective, AdversarialLoss::TRADES);
    serde_json::from_str::<AdversarialLoss>(r#"{"kind": "trades", "betta": 1.0}"#).unwrap_err();
}
