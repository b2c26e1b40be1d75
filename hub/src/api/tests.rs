//! The chart's CRD files are the ones generated here, and say what they should.

use std::{fs, path::PathBuf};

use super::*;

fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts/berth-hub/crds")
}

#[test]
fn the_charts_crds_are_the_generated_ones() {
    for (file, generated) in crd_files().unwrap() {
        let path = chart().join(file);
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == generated,
            "{} is not what the Rust types say: run `make generate`",
            path.display()
        );
    }
    let kept = fs::read_dir(chart()).unwrap().count();
    assert_eq!(
        kept,
        crd_files().unwrap().len(),
        "a file that nothing generates"
    );
}

#[test]
fn the_stream_holds_both_documents() {
    let stream = crds().unwrap();
    assert_eq!(stream.matches("kind: CustomResourceDefinition").count(), 2);
    assert_eq!(stream.matches("\n---\n").count(), 1);
}

/// What `kubectl explain` shows is never empty: every property of both kinds has a description.
#[test]
fn every_property_is_described() {
    fn walk(path: &str, schema: &serde_json::Value, bare: &mut Vec<String>) {
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            if !property["description"].is_string() && !path.ends_with(".metadata") {
                bare.push(path.clone());
            }
            walk(&path, property, bare);
            walk(&format!("{path}[]"), &property["items"], bare);
        }
    }
    let mut bare = Vec::new();
    for crd in [LoadBalancer::crd(), Tenant::crd()] {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let kind = &crd.spec.names.kind;
        for part in ["spec", "status"] {
            let root = &schema["openAPIV3Schema"]["properties"][part];
            walk(&format!("{kind}.{part}"), root, &mut bare);
        }
    }
    assert!(bare.is_empty(), "{bare:?}");
}
