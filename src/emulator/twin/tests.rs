//! Merging, versions, and what is refused without a trace.

use super::{Change, Object, Twin, TwinError, TwinSizes};
use crate::runtime::clock::Unix;
use serde_json::{Value, json};

const SIZES: TwinSizes = TwinSizes {
    tags: 200,
    desired: 200,
    reported: 200,
};

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

fn report(twin: &mut Twin, patch: Value, version: Option<i64>) -> Result<i64, TwinError> {
    twin.report(&object(patch), version, Unix::default(), SIZES)
}

fn update(twin: &mut Twin, desired: Value, replace: bool) -> Result<Option<Object>, TwinError> {
    let change = Change {
        desired: Some(object(desired)),
        replace,
        ..Change::default()
    };
    twin.update(&change, None, Unix::default(), SIZES)
}

#[test]
fn a_patch_merges_and_null_deletes() {
    let mut twin = Twin::new();
    assert_eq!(
        report(&mut twin, json!({"a": {"b": 1, "c": 2}, "d": 3}), None),
        Ok(2)
    );
    assert_eq!(
        report(
            &mut twin,
            json!({"a": {"b": null, "e": [4]}, "d": {"f": 5}}),
            None
        ),
        Ok(3)
    );
    assert_eq!(
        twin.for_device()["reported"],
        json!({"a": {"c": 2, "e": [4]}, "d": {"f": 5}, "$version": 3})
    );
    let whole = twin.for_service();
    let metadata = &whole["properties"]["reported"]["$metadata"];
    assert!(metadata["a"]["b"].is_null());
    assert!(metadata["d"]["f"]["$lastUpdated"].is_string());
}

#[test]
fn a_report_for_another_version_changes_nothing() {
    let mut twin = Twin::new();
    assert_eq!(
        report(&mut twin, json!({"a": 1}), Some(2)),
        Err(TwinError::Version)
    );
    assert_eq!(report(&mut twin, json!({"a": 1}), Some(1)), Ok(2));
    assert_eq!(
        twin.for_device()["reported"],
        json!({"a": 1, "$version": 2})
    );
}

#[test]
fn devices_are_told_the_patch_and_its_version() {
    let mut twin = Twin::new();
    let told = update(&mut twin, json!({"a": 1, "b": {"c": 2}}), false);
    assert_eq!(
        told.unwrap().unwrap(),
        object(json!({"a": 1, "b": {"c": 2}, "$version": 2}))
    );
    let told = update(&mut twin, json!({"b": {"d": 3}}), true);
    assert_eq!(
        told.unwrap().unwrap(),
        object(json!({"a": null, "b": {"c": null, "d": 3}, "$version": 3}))
    );
    assert_eq!(
        twin.for_device()["desired"],
        json!({"b": {"d": 3}, "$version": 3})
    );
    let tags = Change {
        tags: Some(object(json!({"site": "north"}))),
        ..Change::default()
    };
    let told = twin.update(&tags, Some("*"), Unix::default(), SIZES);
    assert_eq!(told, Ok(None));
    assert_eq!(
        twin.update(&tags, Some("old"), Unix::default(), SIZES),
        Err(TwinError::Version)
    );
}

#[test]
fn what_was_read_can_be_written_back() {
    let mut twin = Twin::new();
    update(&mut twin, json!({"a": 1}), false).unwrap();
    let read = twin.for_service()["properties"]["desired"].clone();
    update(&mut twin, read, false).unwrap();
    assert_eq!(twin.for_device()["desired"], json!({"a": 1, "$version": 3}));
}

#[test]
fn what_the_service_does_not_take_is_refused_and_leaves_no_trace() {
    let mut deep = json!(1);
    for _ in 0..11 {
        deep = json!({ "a": deep });
    }
    let mut twin = Twin::new();
    for patch in [
        json!({"a.b": 1}),
        json!({"a b": 1}),
        json!({"$a": 1}),
        json!({"": 1}),
        json!({"a\u{1}": 1}),
        json!({"a": {"$b": 1}}),
        json!({"a": "x".repeat(4097)}),
        json!({"a": 4_503_599_627_370_497_i64}),
        json!({"a": u64::MAX}),
        deep,
    ] {
        assert!(
            matches!(
                report(&mut twin, patch.clone(), None),
                Err(TwinError::Invalid(_))
            ),
            "{patch}"
        );
    }
    let large = json!({"a": "x".repeat(200)});
    assert_eq!(
        report(&mut twin, large.clone(), None),
        Err(TwinError::TooLarge("reported properties", 200))
    );
    assert!(update(&mut twin, large, false).is_err());
    assert_eq!(
        twin.for_device(),
        json!({"desired": {"$version": 1}, "reported": {"$version": 1}})
    );
}
