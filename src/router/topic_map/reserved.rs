//! Topics below `$iothub/`: twins and direct methods (wire sheet §8.5, §8.6).
//!
//! They name no device: it is the connection's. A request id is the peer's own text and goes back
//! as it came.

use super::{Party, TopicError};
use crate::auth::AuthenticatedDevice;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Filter of the answers to twin requests.
const RESPONSES: &str = "$iothub/twin/res/#";
/// Filter of direct method calls.
const METHODS: &str = "$iothub/methods/POST/#";
/// Filter of desired properties.
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

const ANSWER: &str = "$iothub/methods/res/";
const GET: &str = "$iothub/twin/GET/";
const REPORT: &str = "$iothub/twin/PATCH/properties/reported/";

/// What of a method's name no topic may hold, or would read as something else (MQTT-4.7.1-1).
const NAME: &AsciiSet = &CONTROLS
    .add(b'%')
    .add(b'#')
    .add(b'+')
    .add(b'/')
    .add(b'?')
    .add(b' ');

/// A PUBLISH below `$iothub/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved<'a> {
    /// The device asks for its twin.
    Get {
        /// The device's request id.
        rid: &'a str,
    },
    /// The device reports properties.
    Report {
        /// The device's request id.
        rid: &'a str,
        /// The version the device takes its twin to have, where that is a condition.
        version: Option<i64>,
    },
    /// The device's answer to a direct method.
    Answer {
        /// The request id of the call.
        rid: &'a str,
        /// What the method says of itself.
        status: i32,
    },
}

impl<'a> Reserved<'a> {
    /// What a topic of this device asks; `None` when it is not one of these.
    ///
    /// # Errors
    /// When it lacks what it needs, or the rules do not allow it.
    #[must_use]
    pub fn of(device: &AuthenticatedDevice, topic: &'a str) -> Option<Result<Self, TopicError>> {
        Self::by(&Party::of(device), topic)
    }

    pub(super) fn by(party: &Party<'_>, topic: &'a str) -> Option<Result<Self, TopicError>> {
        if let Some(rest) = topic.strip_prefix(ANSWER) {
            return Some(match party.permissions.methods {
                true => answer(rest).ok_or(TopicError::AnswerMalformed),
                false => Err(TopicError::MethodsDenied),
            });
        }
        let get = topic.strip_prefix(GET).map(get);
        let request = get.or_else(|| topic.strip_prefix(REPORT).map(report))?;
        Some(match party.permissions.twin {
            true => request.ok_or(TopicError::RequestMalformed),
            false => Err(TopicError::TwinDenied),
        })
    }
}

fn answer(rest: &str) -> Option<Reserved<'_>> {
    let (status, query) = rest.split_once('/')?;
    let status = status.parse().ok()?;
    let rid = parameter(query, "$rid=")?;
    Some(Reserved::Answer { rid, status })
}

fn get(query: &str) -> Option<Reserved<'_>> {
    let rid = parameter(query, "$rid=")?;
    Some(Reserved::Get { rid })
}

fn report(query: &str) -> Option<Reserved<'_>> {
    let rid = parameter(query, "$rid=")?;
    let version = match parameter(query, "$version=") {
        Some(version) => Some(version.parse().ok()?),
        None => None,
    };
    Some(Reserved::Report { rid, version })
}

/// A value of `?name=value&…`; empty is none.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.strip_prefix('?')?.split('&');
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name));
    values.next().filter(|value| !value.is_empty())
}

/// Where the answer to a twin request is published.
#[must_use]
pub fn twin_answer_topic(rid: &str, status: i32, version: Option<i64>) -> String {
    match version {
        Some(version) => format!("$iothub/twin/res/{status}/?$rid={rid}&$version={version}"),
        None => format!("$iothub/twin/res/{status}/?$rid={rid}"),
    }
}

/// Where a change of desired properties is published.
#[must_use]
pub fn desired_topic(version: i64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

/// Where a method call is published.
#[must_use]
pub fn method_topic(name: &str, rid: &str) -> String {
    let name = utf8_percent_encode(name, NAME);
    format!("$iothub/methods/POST/{name}/?$rid={rid}")
}

/// What a subscription brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subscription {
    /// The device's or module's commands.
    Commands,
    /// A module's commands, by the wider of its two filters.
    Module,
    /// The device's or module's commands, by the filter of its rule.
    Own,
    /// Answers to twin requests.
    TwinResponses,
    /// Changes of desired properties.
    TwinDesired,
    /// Direct methods.
    Methods,
}

impl Subscription {
    /// How many there are.
    pub const COUNT: usize = 6;

    pub(super) fn reserved(party: &Party<'_>, filter: &str) -> Option<Result<Self, TopicError>> {
        let rights = party.permissions;
        let (which, may, denied) = match filter {
            RESPONSES => (Self::TwinResponses, rights.twin, TopicError::TwinDenied),
            DESIRED => (Self::TwinDesired, rights.twin, TopicError::TwinDenied),
            METHODS => (Self::Methods, rights.methods, TopicError::MethodsDenied),
            _ => return None,
        };
        Some(if may { Ok(which) } else { Err(denied) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Reserved, Subscription, TopicError, method_topic, twin_answer_topic};
    use crate::auth::Permissions;
    use crate::router::topic_map::Party;

    const ALL: Permissions = Permissions::ALL;

    fn of(topic: &str) -> Option<Result<Reserved<'_>, TopicError>> {
        Reserved::by(&Party::named("d", ALL, None), topic)
    }

    #[test]
    fn the_requests_of_sdks_are_read() {
        let get = |rid| Some(Ok(Reserved::Get { rid }));
        assert_eq!(of("$iothub/twin/GET/?$rid=1"), get("1"));
        assert_eq!(of("$iothub/twin/GET/?$rid=0a%2Fb-c"), get("0a%2Fb-c"));
        for (topic, version) in [
            ("?$rid=7", None),
            ("?$rid=7&$version=3", Some(3)),
            ("?$version=3&$rid=7", Some(3)),
        ] {
            let topic = format!("$iothub/twin/PATCH/properties/reported/{topic}");
            let rid = "7";
            assert_eq!(of(&topic), Some(Ok(Reserved::Report { rid, version })));
        }
        let (rid, status) = ("1f", -5);
        let answer = Some(Ok(Reserved::Answer { rid, status }));
        assert_eq!(of("$iothub/methods/res/-5/?$rid=1f"), answer);
    }

    #[test]
    fn what_lacks_an_id_or_a_status_is_malformed() {
        for topic in [
            "$iothub/twin/GET/",
            "$iothub/twin/GET/?$rid=",
            "$iothub/twin/GET/$rid=1",
            "$iothub/twin/PATCH/properties/reported/?$version=1",
            "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=new",
        ] {
            assert_eq!(
                of(topic),
                Some(Err(TopicError::RequestMalformed)),
                "{topic}"
            );
        }
        for topic in [
            "$iothub/methods/res/",
            "$iothub/methods/res/200",
            "$iothub/methods/res/200/",
            "$iothub/methods/res/?$rid=1",
            "$iothub/methods/res//?$rid=1",
            "$iothub/methods/res/fine/?$rid=1",
            "$iothub/methods/res/99999999999/?$rid=1",
        ] {
            assert_eq!(of(topic), Some(Err(TopicError::AnswerMalformed)), "{topic}");
        }
    }

    #[test]
    fn other_topics_are_not_meant() {
        for topic in [
            "$iothub/twin/PATCH/properties/desired/?$rid=1",
            "$iothub/twin/res/200/?$rid=1",
            "$iothub/telemetry",
            "$iothub/",
            "twin/GET/?$rid=1",
            "devices/d/messages/events/",
        ] {
            assert_eq!(of(topic), None, "{topic}");
        }
    }

    #[test]
    fn only_the_documented_filters_are_granted_and_each_by_its_right() {
        let by = |rights, filter| Subscription::reserved(&Party::named("d", rights, None), filter);
        let methods = "$iothub/methods/POST/#";
        let twin = "$iothub/twin/res/#";
        assert_eq!(by(ALL, methods), Some(Ok(Subscription::Methods)));
        assert_eq!(by(ALL, twin), Some(Ok(Subscription::TwinResponses)));
        for filter in ["$iothub/#", "$iothub/twin/#", "$iothub/twin/res/+", "#"] {
            assert_eq!(by(ALL, filter), None, "{filter}");
        }
        let no_methods = Permissions {
            methods: false,
            ..ALL
        };
        assert_eq!(
            by(no_methods, methods),
            Some(Err(TopicError::MethodsDenied))
        );
        assert!(by(no_methods, twin).is_some_and(|granted| granted.is_ok()));
        let no_twin = Permissions { twin: false, ..ALL };
        assert_eq!(by(no_twin, twin), Some(Err(TopicError::TwinDenied)));
        let party = Party::named("d", no_twin, None);
        let get = Reserved::by(&party, "$iothub/twin/GET/?$rid=1");
        assert_eq!(get, Some(Err(TopicError::TwinDenied)));
        let answer = Reserved::by(&party, "$iothub/methods/res/200/?$rid=1");
        assert!(answer.is_some_and(|answer| answer.is_ok()));
    }

    #[test]
    fn a_name_no_topic_may_hold_is_escaped_and_an_id_goes_back_as_it_came() {
        let topic = method_topic("blink-2.x", "1");
        assert_eq!(topic, "$iothub/methods/POST/blink-2.x/?$rid=1");
        let topic = method_topic("a/b#+?%", "1");
        assert_eq!(topic, "$iothub/methods/POST/a%2Fb%23%2B%3F%25/?$rid=1");
        let topic = twin_answer_topic("0a%2Fb", 204, Some(7));
        assert_eq!(topic, "$iothub/twin/res/204/?$rid=0a%2Fb&$version=7");
    }
}
