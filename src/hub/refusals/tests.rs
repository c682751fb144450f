use super::{
    Class, FORGOTTEN, Phase, QUIET, REPEAT, RefusalCause, Refusals, SUBJECTS_MAX, of_error,
    of_status,
};
use crate::hub::outcome::{Cause, judge_detach};
use crate::runtime::clock::Mono;
use std::collections::HashSet;
use std::time::Duration;

fn at(seconds: f64) -> Mono {
    Mono::from_start(Duration::from_secs_f64(seconds))
}

fn phases(refusals: &mut Refusals, seconds: f64) -> Vec<Phase> {
    let reports = refusals.tick(at(seconds));
    reports.into_iter().map(|report| report.phase).collect()
}

#[test]
fn an_episode_is_said_at_its_start_each_minute_and_at_its_end() {
    let mut refusals = Refusals::default();
    let quota = RefusalCause::Quota;
    let first = refusals.refused(quota, "a", "words", at(0.0)).unwrap();
    assert_eq!((first.phase, first.count), (Phase::Began, 1));
    assert_eq!(first.words, "words");
    for second in 1..100 {
        let again = refusals.refused(quota, "a", "words", at(f64::from(second) * 0.5));
        assert_eq!(again, None);
    }
    assert_eq!(phases(&mut refusals, 59.0), []);
    let reports = refusals.tick(at(60.0));
    assert_eq!(reports.len(), 1);
    assert_eq!(
        (reports[0].phase, reports[0].count, reports[0].recent),
        (Phase::Lasts, 100, 99)
    );
    assert_eq!(reports[0].lasted, REPEAT);
    assert_eq!(phases(&mut refusals, 119.0), []);
    assert_eq!(phases(&mut refusals, 121.0), [], "nothing new happened");
    refusals.succeeded(Class::Message, "a", at(122.0));
    let reports = refusals.tick(at(122.5));
    assert_eq!((reports[0].phase, reports[0].count), (Phase::Over, 100));
    assert_eq!(refusals.standing(at(123.0)), []);
    assert_eq!(refusals.standing_classes(), 0);
}

#[test]
fn a_connection_that_opens_ends_its_own_trouble_at_once_and_no_other() {
    let mut refusals = Refusals::default();
    let cause = RefusalCause::Unreachable;
    refusals.refused(cause, "connection 0", "", at(0.0));
    refusals.refused(cause, "connection 1", "", at(0.0));
    assert_eq!(
        refusals.succeeded(Class::Token, "connection 0", at(1.0)),
        []
    );
    assert_eq!(
        refusals.succeeded(Class::Connect, "connection 0", at(1.0)),
        []
    );
    assert_eq!(refusals.standing(at(1.0)).len(), 1, "one is still away");
    let ended = refusals.succeeded(Class::Connect, "connection 1", at(2.0));
    assert_eq!(ended[0].phase, Phase::Over);
}

#[test]
fn a_hub_that_takes_some_and_refuses_some_is_one_episode() {
    let mut refusals = Refusals::default();
    let cause = RefusalCause::Throttled;
    let mut began = 0;
    for step in 0..60 {
        let now = f64::from(step);
        began += usize::from(refusals.refused(cause, "a", "", at(now)).is_some());
        refusals.succeeded(Class::Message, "a", at(now + 0.2));
        assert_eq!(phases(&mut refusals, now + 0.5), []);
    }
    assert_eq!(began, 1);
    assert_eq!(phases(&mut refusals, 65.0), [Phase::Over]);
}

#[test]
fn a_device_that_is_still_refused_keeps_the_episode_whoever_else_gets_through() {
    let mut refusals = Refusals::default();
    refusals.refused(RefusalCause::DeviceUnknown, "a", "", at(0.0));
    refusals.succeeded(Class::Link, "b", at(1.0));
    assert_eq!(phases(&mut refusals, 30.0), []);
    refusals.succeeded(Class::Link, "a", at(31.0));
    assert_eq!(phases(&mut refusals, 31.0), [Phase::Over]);
}

#[test]
fn an_accepted_message_ends_what_was_said_of_a_message_about_its_link() {
    let mut refusals = Refusals::default();
    refusals.refused(RefusalCause::NoDeviceConnect, "a", "", at(0.0));
    let link = Class::Link.bit() | Class::Message.bit();
    assert_eq!(refusals.standing_classes(), link);
    // the link stays attached: nothing but messages can show that it is over
    refusals.succeeded(Class::Message, "b", at(1.0));
    assert_eq!(phases(&mut refusals, 3.0), [Phase::Over]);
    refusals.refused(RefusalCause::Quota, "a", "", at(4.0));
    refusals.succeeded(Class::Link, "a", at(5.0));
    assert_eq!(phases(&mut refusals, 9.0), []);
}

#[test]
fn what_nobody_asks_for_any_more_is_forgotten_and_says_so() {
    let mut refusals = Refusals::default();
    refusals.refused(RefusalCause::DeviceDisabled, "a", "", at(0.0));
    let before = FORGOTTEN.as_secs_f64() - 1.0;
    assert_eq!(phases(&mut refusals, before), []);
    assert_eq!(phases(&mut refusals, before + 1.0), [Phase::Forgotten]);
}

#[test]
fn only_what_holds_for_everybody_and_is_not_disproved_blocks() {
    let mut refusals = Refusals::default();
    let blocks = |refusals: &Refusals, seconds| refusals.standing(at(seconds))[0].blocks;
    refusals.refused(RefusalCause::DeviceUnknown, "a", "", at(0.0));
    assert!(!blocks(&refusals, 1.0));
    let mut refusals = Refusals::default();
    let cause = RefusalCause::NoDeviceConnect;
    refusals.refused(cause, "a", "", at(0.0));
    assert!(blocks(&refusals, 0.0));
    refusals.succeeded(Class::Link, "b", at(1.0));
    refusals.refused(cause, "a", "", at(2.0));
    assert!(!blocks(&refusals, 3.0), "somebody just got through");
    let later = 1.0 + QUIET.as_secs_f64();
    refusals.refused(cause, "a", "", at(later));
    assert!(blocks(&refusals, later));
}

#[test]
fn a_million_refused_devices_cost_no_more_than_the_bound_and_are_counted() {
    let mut refusals = Refusals::default();
    let cause = RefusalCause::Quota;
    let mut last = 0;
    for n in 0..100_000 {
        refusals.refused(cause, &format!("device-{n}"), "", at(0.1));
        last = n + 1;
    }
    let episode = &refusals.episodes[0];
    assert_eq!(episode.subjects.len(), SUBJECTS_MAX);
    assert_eq!(refusals.standing(at(1.0))[0].count, last);
    // Each remembered one got through; the rest may not have.
    for n in 0..SUBJECTS_MAX {
        refusals.succeeded(Class::Message, &format!("device-{n}"), at(2.0));
    }
    assert_eq!(
        phases(&mut refusals, 2.2),
        [Phase::Over],
        "a quota is everybody's"
    );
    let report = refusals.refused(cause, "one", "", at(3.0)).unwrap();
    assert_eq!(report.refused, "one");
}

#[test]
fn a_line_names_a_few_and_counts_the_rest() {
    let mut refusals = Refusals::default();
    for name in ["a", "b", "c", "d", "e"] {
        refusals.refused(RefusalCause::Throttled, name, "", at(0.0));
    }
    assert_eq!(refusals.tick(at(60.0))[0].refused, "a, b, c and 2 more");
}

#[test]
fn statuses_of_cbs_are_told_apart_by_the_hubs_words() {
    let signature = "The specified SAS token has an invalid signature.";
    for (status, words, signed_here, cause) in [
        (401, signature, true, RefusalCause::WrongKey),
        (
            401,
            "The specified SAS token is expired",
            true,
            RefusalCause::ClockSkew,
        ),
        (
            401,
            "The specified SAS token is expired",
            false,
            RefusalCause::TokenExpired,
        ),
        (401, "", true, RefusalCause::TokenRefused),
        (
            404,
            "Device d at IotHub h not registered.",
            true,
            RefusalCause::TokenRefused,
        ),
        (
            500,
            "The maximum number of tokens per connection (1000) has been reached.",
            true,
            RefusalCause::TokenLimit,
        ),
        (500, "", true, RefusalCause::CbsFailed),
        (0, "", true, RefusalCause::CbsFailed),
    ] {
        assert_eq!(
            of_status(status, words, signed_here),
            cause,
            "{status} {words}"
        );
    }
}

#[test]
fn what_the_hub_says_about_links_is_told_apart() {
    let error = |condition: &str, description: &str| Cause {
        condition: condition.to_owned(),
        description: description.to_owned(),
    };
    for (error, cause) in [
        (
            error(
                "amqp:unauthorized-access",
                r#"{"errorCode":401002,"message":"Unauthorized"}"#,
            ),
            Some(RefusalCause::NoDeviceConnect),
        ),
        (
            error("amqp:unauthorized-access", "Token Invalid."),
            Some(RefusalCause::TokenEnded),
        ),
        (
            error("amqp:not-found", ""),
            Some(RefusalCause::DeviceUnknown),
        ),
        (
            error("amqp:unauthorized-access", r#"{"errorCode":403012}"#),
            Some(RefusalCause::DeviceDisabled),
        ),
        (
            error("amqp:resource-limit-exceeded", ""),
            Some(RefusalCause::Quota),
        ),
        (
            error("com.microsoft:device-container-throttled", ""),
            Some(RefusalCause::Throttled),
        ),
        (
            error("com.microsoft:iot-hub-suspended", ""),
            Some(RefusalCause::Suspended),
        ),
        (error("amqp:link:detach-forced", ""), None),
        (error("amqp:link:stolen", ""), None),
    ] {
        let row = judge_detach(Some(&error));
        assert_eq!(of_error(row.label, Some(&error)), cause, "{error:?}");
    }
}

#[test]
fn no_two_causes_share_a_word_and_each_says_what_to_do() {
    let words: HashSet<_> = RefusalCause::ALL.iter().map(|cause| cause.word()).collect();
    assert_eq!(words.len(), RefusalCause::ALL.len());
    for (index, cause) in RefusalCause::ALL.iter().enumerate() {
        assert_eq!(*cause as usize, index);
        assert!(!cause.says().is_empty() && !cause.fix().is_empty());
    }
}
