//! Desired properties against a hub that is played here: nothing is lost, nothing comes twice.

use super::{Ask, Desired, Push, Unanswered, Update, merge, object};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn twin(version: i64, desired: &Value) -> Vec<u8> {
    let mut desired = desired.clone();
    desired["$version"] = version.into();
    json!({"desired": desired, "reported": {"$version": 9}})
        .to_string()
        .into_bytes()
}

fn patch(version: i64, patch: &Value) -> Bytes {
    let mut patch = patch.clone();
    patch["$version"] = version.into();
    patch.to_string().into()
}

fn value(update: &Update) -> Value {
    serde_json::from_slice(&update.body).unwrap()
}

/// A device that has subscribed and follows from `version`.
fn following(version: i64, desired: &Value) -> Desired {
    let mut device = Desired::new(1 << 15);
    device.attached();
    for (ask, again) in [(Ask::Get, false), (Ask::Put, false), (Ask::Get, true)] {
        assert_eq!(device.due(), Some(ask), "{again}");
        device.asked();
        match ask {
            Ask::Put => device.subscribed(),
            Ask::Get => assert_eq!(device.read(&twin(version, desired)), Ok(None)),
        }
    }
    assert!(device.follows());
    device
}

#[test]
fn a_change_is_passed_on_as_it_came_and_once() {
    let mut device = following(4, &json!({"a": 1}));
    let change = patch(5, &json!({"a": 2}));
    let body = change.clone();
    assert_eq!(
        device.pushed(&change),
        Push::Next(Update { version: 5, body })
    );
    assert_eq!(device.pushed(&change), Push::Repeated);
    assert_eq!(device.pushed(&patch(3, &json!({}))), Push::Repeated);
    assert!(device.follows());
}

#[test]
fn what_was_changed_while_there_was_no_link_comes_as_one_change() {
    let before = json!({"a": 1, "gone": {"x": 1}, "deep": {"same": 1, "old": 2}});
    let mut device = following(4, &before);
    device.attached();
    assert_eq!(device.due(), Some(Ask::Put));
    device.asked();
    device.subscribed();
    device.asked();
    let after = json!({"a": 1, "new": [1], "deep": {"same": 1, "old": 3}});
    let update = device.read(&twin(7, &after)).unwrap().unwrap();
    let expected = json!({"new": [1], "deep": {"old": 3}, "gone": null, "$version": 7});
    assert_eq!((update.version, value(&update)), (7, expected));
    // The pushes of the same changes that were still on their way.
    assert_eq!(device.pushed(&patch(6, &json!({}))), Push::Repeated);
    assert_eq!(device.pushed(&patch(7, &json!({}))), Push::Repeated);
    let next = device.pushed(&patch(8, &json!({"a": 3})));
    assert!(matches!(next, Push::Next(Update { version: 8, .. })));
}

#[test]
fn a_change_between_the_first_read_and_the_subscription_is_not_lost() {
    let mut device = Desired::new(1 << 15);
    device.asked();
    assert_eq!(device.read(&twin(1, &json!({}))), Ok(None));
    device.asked();
    device.subscribed();
    device.asked();
    let update = device.read(&twin(2, &json!({"a": 1}))).unwrap().unwrap();
    assert_eq!(value(&update), json!({"a": 1, "$version": 2}));
}

#[test]
fn a_missing_version_is_read_and_what_showed_it_comes_with_it() {
    let mut device = following(1, &json!({}));
    assert_eq!(device.pushed(&patch(3, &json!({"b": 1}))), Push::Gap);
    assert_eq!(device.due(), Some(Ask::Get));
    device.asked();
    let update = device.read(&twin(3, &json!({"a": 1, "b": 1}))).unwrap();
    let update = update.unwrap();
    assert_eq!(value(&update), json!({"a": 1, "b": 1, "$version": 3}));
    assert!(device.follows());
}

#[test]
fn a_gap_that_shows_while_the_twin_is_on_its_way_is_read_once_more() {
    let mut device = following(1, &json!({}));
    assert_eq!(device.pushed(&patch(3, &json!({"b": 1}))), Push::Gap);
    device.asked();
    assert_eq!(device.pushed(&patch(5, &json!({"d": 1}))), Push::Gap);
    // This twin was read before the latest push.
    let stale = twin(3, &json!({"a": 1, "b": 1}));
    assert!(device.read(&stale).unwrap().is_some());
    assert_eq!(device.due(), Some(Ask::Get));
    device.asked();
    let all = json!({"a": 1, "b": 1, "c": 1, "d": 1});
    let update = device.read(&twin(5, &all)).unwrap().unwrap();
    assert_eq!(value(&update), json!({"c": 1, "d": 1, "$version": 5}));
}

#[test]
fn nonsense_is_no_change_and_the_twin_is_read_instead() {
    let mut device = following(1, &json!({}));
    for nonsense in ["", "[1]", "{\"a\":1}", "{\"$version\":\"2\"}", "{"] {
        let push = device.pushed(&Bytes::from_static(nonsense.as_bytes()));
        assert_eq!(push, Push::Unreadable, "{nonsense}");
        assert_eq!(device.due(), Some(Ask::Get), "{nonsense}");
        device.asked();
        assert_eq!(device.read(b"{}"), Err(Unanswered));
        assert_eq!(device.due(), Some(Ask::Get));
        device.asked();
        assert_eq!(device.read(&twin(1, &json!({}))), Ok(None));
    }
}

#[test]
fn a_twin_that_was_made_anew_counts_from_the_beginning() {
    let mut device = following(40, &json!({"a": 1, "b": 2}));
    device.attached();
    device.asked();
    device.subscribed();
    device.asked();
    let update = device.read(&twin(1, &json!({"a": 1}))).unwrap().unwrap();
    assert_eq!(value(&update), json!({"b": null, "$version": 1}));
    let next = device.pushed(&patch(2, &json!({"c": 1})));
    assert!(matches!(next, Push::Next(_)));
}

#[test]
fn what_is_larger_than_its_bound_is_not_kept_and_comes_whole_after_a_loss() {
    let mut device = Desired::new(16);
    let large = json!({"text": "x".repeat(32)});
    device.asked();
    assert_eq!(device.read(&twin(1, &large)), Ok(None));
    assert_eq!(device.bytes(), 0);
    device.attached();
    device.asked();
    device.subscribed();
    device.asked();
    let now = json!({"text": "x".repeat(32), "b": 1});
    let update = device.read(&twin(2, &now)).unwrap().unwrap();
    let mut whole = now;
    whole["$version"] = 2.into();
    assert_eq!(value(&update), whole);
}

#[derive(Clone, Debug)]
enum Doing {
    Change(u8, Option<u8>),
    /// The link is lost and comes back.
    Lose,
    /// The hub answers what it was asked.
    Answer,
    /// The device gets the oldest push.
    Push,
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        4 => (0..4_u8, proptest::option::of(0..4_u8)).prop_map(|(k, v)| Doing::Change(k, v)),
        1 => Just(Doing::Lose),
        4 => Just(Doing::Answer),
        4 => Just(Doing::Push),
    ]
}

/// A hub of one twin: what it holds, and what is on its way.
#[derive(Default)]
struct Hub {
    version: i64,
    desired: Map<String, Value>,
    subscribed: bool,
    pushes: std::collections::VecDeque<Bytes>,
}

impl Hub {
    fn change(&mut self, key: u8, set: Option<u8>) {
        self.version += 1;
        let change = json!({ format!("k{key}"): set });
        merge(&mut self.desired, change.as_object().cloned().unwrap());
        if self.subscribed {
            self.pushes.push_back(patch(self.version, &change));
        }
    }
}

/// What the application of a device makes of what it gets.
#[derive(Default)]
struct Application {
    versions: Vec<i64>,
    state: Map<String, Value>,
}

impl Application {
    fn take(&mut self, update: &Update) {
        assert!(
            self.versions.last() < Some(&update.version),
            "in order, once"
        );
        self.versions.push(update.version);
        merge(&mut self.state, object(&update.body).unwrap());
    }
}

/// The hub answers what is asked, if something is.
fn answer(hub: &mut Hub, device: &mut Desired, application: &mut Application) {
    let Some(ask) = device.due() else { return };
    device.asked();
    match ask {
        Ask::Put => {
            hub.subscribed = true;
            device.subscribed();
        }
        Ask::Get => {
            let body = twin(hub.version, &hub.desired.clone().into());
            if let Some(update) = device.read(&body).unwrap() {
                application.take(&update);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_device_ends_with_the_hubs_properties_whatever_is_lost(
        steps in proptest::collection::vec(doing(), 0..60),
    ) {
        let (mut hub, mut application) = (Hub::default(), Application::default());
        let mut device = Desired::new(1 << 15);
        device.attached();
        answer(&mut hub, &mut device, &mut application);
        for step in steps {
            match step {
                Doing::Change(key, set) => hub.change(key, set),
                Doing::Lose => {
                    hub.pushes.clear();
                    hub.subscribed = false;
                    device.attached();
                }
                Doing::Answer => answer(&mut hub, &mut device, &mut application),
                Doing::Push => {
                    if let Some(push) = hub.pushes.pop_front()
                        && let Push::Next(update) = device.pushed(&push)
                    {
                        application.take(&update);
                    }
                }
            }
        }
        while device.due().is_some() || !hub.pushes.is_empty() {
            answer(&mut hub, &mut device, &mut application);
            if let Some(push) = hub.pushes.pop_front()
                && let Push::Next(update) = device.pushed(&push)
            {
                application.take(&update);
            }
        }
        prop_assert_eq!(application.state, hub.desired);
        prop_assert!(device.follows());
    }
}
