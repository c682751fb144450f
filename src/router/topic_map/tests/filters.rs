//! What is granted, and what is not served.

use super::*;

#[test]
fn only_the_documented_command_filters_are_granted() {
    let device = party("d", None);
    let module = party("d", Some("m"));
    let check = |who, want, filters: &[&str]| {
        for filter in filters {
            assert_eq!(check_filter(who, filter), want, "{filter}");
        }
    };
    let filters = ["devices/d/messages/devicebound/#"];
    check(&device, Ok(Subscription::Commands), &filters);
    let filters = ["devices/d/modules/m/#"];
    check(&module, Ok(Subscription::Module), &filters);
    let filters = ["devices/d/modules/m/messages/devicebound/#"];
    check(&module, Ok(Subscription::Commands), &filters);
    let filters = [
        "#",
        "+/#",
        "devices/#",
        "devices/+/messages/devicebound/#",
        "+/d/messages/devicebound/#",
        "devices/d/#",
        "devices/d/+/devicebound/#",
        "devices/d/messages/#",
    ];
    check(&device, Err(TopicError::FilterTooWide), &filters);
    let filters = [
        "devices/d/modules/+/#",
        "devices/d/modules/#",
        "devices/d/#",
    ];
    check(&module, Err(TopicError::FilterTooWide), &filters);
    let filters = ["devices/d/messages/devicebound/#"];
    check(&module, Err(TopicError::ForeignDevice), &filters);
    let filters = ["devices/d/modules/m/#", "devices/e/messages/devicebound/#"];
    check(&device, Err(TopicError::ForeignDevice), &filters);
    let filters = [
        "devices/d/messages/devicebound/",
        "devices/d/messages/devicebound/+",
        "devices/d/messages/devicebound",
        "devices/d/messages/DeviceBound/#",
        "$share/g/devices/d/messages/devicebound/#",
        "$iothub/#",
        "$iothub/methods/#",
        "$SYS/#",
    ];
    check(&device, Err(TopicError::FilterUnknown), &filters);
    let filters = ["$iothub/methods/POST/#"];
    check(&device, Ok(Subscription::Methods), &filters);
    let filters = ["$iothub/twin/res/#"];
    check(&module, Ok(Subscription::TwinResponses), &filters);
}

#[test]
fn requests_and_answers_are_no_telemetry() {
    let device = party("d", None);
    for topic in [
        "$iothub/twin/GET/?$rid=1",
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        "$iothub/methods/res/200/?$rid=1",
    ] {
        assert_eq!(up(&device, topic), Err(TopicError::Unknown), "{topic}");
        let asked = could_publish("d", ALL, None, topic, 1, Properties::Strict);
        assert_eq!(asked.map(drop), Ok(()), "{topic}");
        let denied = could_publish("d", Permissions::NONE, None, topic, 1, Properties::Strict);
        assert!(denied.is_err(), "{topic}");
    }
}
