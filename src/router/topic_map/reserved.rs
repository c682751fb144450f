//! Topics below `$iothub/`, twins and direct methods, which this gateway does not serve (yet).
//!
//! Official SDKs use them unasked, and take a closed connection for a reason to come back and ask
//! again. So a request is answered with status 501, which their callers get as an error, and a
//! subscription is granted, on which nothing comes (wire sheet §8.5, §8.6).

use super::TopicError;

/// Body of the answer to a twin request; the service's own errors look alike.
pub const NOT_SERVED_BODY: &[u8] =
    br#"{"errorCode":501001,"message":"the gateway does not serve device twins"}"#;

/// Filter of the answers to twin requests.
const RESPONSES: &str = "$iothub/twin/res/#";
/// Filter of direct method calls.
const METHODS: &str = "$iothub/methods/POST/#";
/// Filter of desired properties.
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

/// A PUBLISH that asks the hub for something that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// A twin request, with the topic of its answer where it names a request id.
    Twin(Option<String>),
    /// The answer to a direct method; none was called.
    Method,
}

impl Reserved {
    /// What a topic asks; `None` when it is not one of these.
    #[must_use]
    pub fn of(topic: &str) -> Option<Self> {
        let rest = topic.strip_prefix("$iothub/")?;
        if rest.starts_with("methods/res/") {
            return Some(Self::Method);
        }
        let query = rest
            .strip_prefix("twin/GET/")
            .or_else(|| rest.strip_prefix("twin/PATCH/properties/reported/"))?;
        let query = query.strip_prefix('?').unwrap_or(query);
        let id = query.split('&').find_map(|pair| pair.strip_prefix("$rid="));
        Some(Self::Twin(
            id.map(|id| format!("$iothub/twin/res/501/?$rid={id}")),
        ))
    }

    /// What is wrong with it: its label, its text.
    #[must_use]
    pub const fn error(&self) -> TopicError {
        match self {
            Self::Twin(_) => TopicError::TwinUnsupported,
            Self::Method => TopicError::MethodUnsupported,
        }
    }
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
    /// Answers to twin requests: 501.
    TwinResponses,
    /// Desired properties: nothing comes.
    TwinDesired,
    /// Direct methods: nothing comes.
    Methods,
}

impl Subscription {
    /// How many there are.
    pub const COUNT: usize = 6;

    pub(super) fn reserved(filter: &str) -> Option<Self> {
        match filter {
            RESPONSES => Some(Self::TwinResponses),
            METHODS => Some(Self::Methods),
            DESIRED => Some(Self::TwinDesired),
            _ => None,
        }
    }

    /// Why nothing comes on it, when nothing does.
    #[must_use]
    pub const fn unserved(self) -> Option<TopicError> {
        match self {
            Self::Commands | Self::Module | Self::Own => None,
            Self::TwinResponses | Self::TwinDesired => Some(TopicError::TwinUnsupported),
            Self::Methods => Some(TopicError::MethodUnsupported),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Reserved, Subscription};

    fn answer(topic: &str) -> Option<String> {
        match Reserved::of(topic) {
            Some(Reserved::Twin(answer)) => answer,
            other => panic!("{topic}: {other:?}"),
        }
    }

    #[test]
    fn the_requests_of_sdks_are_answered_under_their_request_id() {
        // Node, C and Python; an etag may follow the id.
        for (topic, id) in [
            ("$iothub/twin/GET/?$rid=1", "1"),
            ("$iothub/twin/GET/?$rid=0a%2Fb-c", "0a%2Fb-c"),
            ("$iothub/twin/PATCH/properties/reported/?$rid=7", "7"),
            (
                "$iothub/twin/PATCH/properties/reported/?$rid=7&$version=3",
                "7",
            ),
            (
                "$iothub/twin/PATCH/properties/reported/?$version=3&$rid=x",
                "x",
            ),
        ] {
            let want = format!("$iothub/twin/res/501/?$rid={id}");
            assert_eq!(answer(topic), Some(want), "{topic}");
        }
        assert_eq!(answer("$iothub/twin/GET/"), None);
        assert_eq!(
            Reserved::of("$iothub/methods/res/200/?$rid=1"),
            Some(Reserved::Method)
        );
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
            assert_eq!(Reserved::of(topic), None, "{topic}");
        }
    }

    #[test]
    fn only_the_documented_filters_are_granted() {
        let of = Subscription::reserved;
        assert_eq!(of("$iothub/twin/res/#"), Some(Subscription::TwinResponses));
        assert_eq!(of("$iothub/methods/POST/#"), Some(Subscription::Methods));
        for filter in ["$iothub/#", "$iothub/twin/#", "$iothub/twin/res/+", "#"] {
            assert_eq!(of(filter), None, "{filter}");
        }
    }
}
