//! Link addresses (wire sheet §4.1): which device, which of its endpoints.

use percent_encoding::percent_decode_str;
use std::fmt;
use std::sync::Arc;

/// A device, or a module of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: Arc<str>,
    pub(crate) module: Option<Arc<str>>,
}

#[cfg(test)]
impl Identity {
    pub(crate) fn device(id: &str) -> Self {
        Self {
            device: id.into(),
            module: None,
        }
    }
}

impl fmt::Display for Identity {
    /// Escaped and short enough for a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cap = |text: &str| text.chars().take(128).collect::<String>();
        match &self.module {
            None => write!(f, "{:?}", cap(&self.device)),
            Some(module) => write!(f, "{:?}/{:?}", cap(&self.device), cap(module)),
        }
    }
}

/// What an address of the device side leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    /// `…/messages/events`.
    Events,
    /// `…/messages/devicebound`.
    Commands,
    /// `…/methods/devicebound`.
    Methods,
    /// `…/twin`.
    Twin,
}

impl Endpoint {
    /// The path after the identity, as token scopes spell it.
    pub(crate) const fn path(self) -> &'static [&'static str] {
        match self {
            Self::Events => &["messages", "events"],
            Self::Commands => &["messages", "devicebound"],
            Self::Methods => &["methods", "devicebound"],
            Self::Twin => &["twin"],
        }
    }
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `$cbs`.
    Cbs,
    /// A device or module endpoint.
    Device(Identity, Endpoint),
    /// A node of back ends.
    Service(Node),
}

/// What back ends attach to (wire sheet §9.1, §9.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// `/messages/devicebound`: commands for devices.
    Commands,
    /// `/messages/servicebound/feedback`.
    Feedback,
    /// `/messages/servicebound/filenotifications`.
    Files,
    /// `/messages/events/…`: where the events are read, is told here.
    Events,
    /// `{hub}/ConsumerGroups/{group}/Partitions/{id}` of the endpoint where they are read.
    Partition { hub: String, group: String, id: u32 },
    /// `$management` of that endpoint.
    Management,
}

impl Node {
    /// The path as token scopes spell it.
    pub(crate) fn path(&self) -> Vec<&str> {
        match self {
            Self::Commands => vec!["messages", "devicebound"],
            Self::Feedback => vec!["messages", "servicebound", "feedback"],
            Self::Files => vec!["messages", "servicebound", "filenotifications"],
            Self::Events => vec!["messages", "events"],
            Self::Partition { hub, group, .. } => vec![hub, "consumergroups", group],
            // Every token of the endpoint may ask what there is to read.
            Self::Management => Vec::new(),
        }
    }
}

/// Longest address looked at, bytes: two escaped ids and the fixed parts fit well.
const ADDRESS_BYTES_MAX: usize = 2048;

impl Address {
    /// Parses `/path`, `path` or `amqp[s]://{host}/path`. `None`: no known form, or a host that is
    /// none of `hosts`.
    pub(crate) fn parse(text: &str, hosts: &[&str]) -> Option<Self> {
        if text.len() > ADDRESS_BYTES_MAX {
            return None;
        }
        if text.eq_ignore_ascii_case("$cbs") {
            return Some(Self::Cbs);
        }
        let path = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) => {
                let amqp = ["amqp", "amqps"]
                    .iter()
                    .any(|s| scheme.eq_ignore_ascii_case(s));
                let (authority, path) = rest.split_once('/')?;
                let name = authority
                    .split_once(':')
                    .map_or(authority, |(name, _)| name);
                if !amqp || !hosts.iter().any(|host| name.eq_ignore_ascii_case(host)) {
                    return None;
                }
                path
            }
        };
        let parts: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let fixed = |part: &str, word: &str| part.eq_ignore_ascii_case(word);
        match parts.as_slice() {
            [devices, device, modules, module, tail @ ..]
                if fixed(devices, "devices") && fixed(modules, "modules") =>
            {
                let module = Some(id(module)?);
                Some(Self::Device(
                    Identity {
                        device: id(device)?,
                        module,
                    },
                    endpoint(tail)?,
                ))
            }
            [devices, device, tail @ ..] if fixed(devices, "devices") => Some(Self::Device(
                Identity {
                    device: id(device)?,
                    module: None,
                },
                endpoint(tail)?,
            )),
            parts => node(parts).map(Self::Service),
        }
    }
}

/// A node of back ends.
fn node(parts: &[&str]) -> Option<Node> {
    let fixed = |part: &str, word: &str| part.eq_ignore_ascii_case(word);
    Some(match parts {
        [messages, way] if fixed(messages, "messages") && fixed(way, "devicebound") => {
            Node::Commands
        }
        [messages, way, what] if fixed(messages, "messages") && fixed(way, "servicebound") => {
            match *what {
                what if fixed(what, "feedback") => Node::Feedback,
                what if fixed(what, "filenotifications") => Node::Files,
                _ => return None,
            }
        }
        [messages, events, ..] if fixed(messages, "messages") && fixed(events, "events") => {
            Node::Events
        }
        [management] if fixed(management, "$management") => Node::Management,
        [hub, groups, group, partitions, number]
            if fixed(groups, "consumergroups") && fixed(partitions, "partitions") =>
        {
            Node::Partition {
                hub: id(hub)?.to_string(),
                group: id(group)?.to_string(),
                id: number.parse().ok()?,
            }
        }
        _ => return None,
    })
}

fn id(part: &str) -> Option<Arc<str>> {
    let decoded = percent_decode_str(part).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.as_ref().into())
}

fn endpoint(tail: &[&str]) -> Option<Endpoint> {
    [
        Endpoint::Events,
        Endpoint::Commands,
        Endpoint::Methods,
        Endpoint::Twin,
    ]
    .into_iter()
    .find(|e| {
        let path = e.path();
        path.len() == tail.len()
            && path
                .iter()
                .zip(tail)
                .all(|(a, b)| a.eq_ignore_ascii_case(b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[&str] = &["myhub.azure-devices.net", "localhost"];

    fn device(text: &str) -> Option<(String, Option<String>, Endpoint)> {
        match Address::parse(text, HOST)? {
            Address::Device(identity, endpoint) => Some((
                identity.device.to_string(),
                identity.module.map(|m| m.to_string()),
                endpoint,
            )),
            _ => None,
        }
    }

    #[test]
    fn every_form_the_sdks_write_is_understood() {
        let events = Some(("d1".to_owned(), None, Endpoint::Events));
        assert_eq!(device("/devices/d1/messages/events"), events);
        assert_eq!(device("devices/d1/messages/events"), events);
        assert_eq!(
            device("amqps://myhub.azure-devices.net/devices/d1/messages/events"),
            events
        );
        assert_eq!(
            device("amqps://MyHub.azure-devices.net:5671/Devices/d1/Messages/Events"),
            events
        );
        assert_eq!(
            device("/devices/D%24a%2Fb/messages/deviceBound"),
            Some(("D$a/b".to_owned(), None, Endpoint::Commands))
        );
        assert_eq!(
            device("/devices/d1/modules/m1/twin"),
            Some(("d1".to_owned(), Some("m1".to_owned()), Endpoint::Twin))
        );
        assert_eq!(
            device("/devices/d1/methods/devicebound"),
            Some(("d1".to_owned(), None, Endpoint::Methods))
        );
        assert_eq!(Address::parse("$cbs", HOST), Some(Address::Cbs));
        assert_eq!(
            Address::parse("/messages/deviceBound", HOST),
            Some(Address::Service(Node::Commands))
        );
        assert_eq!(
            Address::parse("/messages/serviceBound/Feedback", HOST),
            Some(Address::Service(Node::Feedback))
        );
        let partition = "amqps://localhost:5671/events/ConsumerGroups/$Default/Partitions/3";
        let node = Node::Partition {
            hub: "events".to_owned(),
            group: "$Default".to_owned(),
            id: 3,
        };
        assert_eq!(
            Address::parse(partition, HOST),
            Some(Address::Service(node))
        );
    }

    #[test]
    fn anything_else_matches_nothing() {
        for text in [
            "",
            "/",
            "/devices",
            "/devices/d1",
            "/devices//messages/events",
            "/devices/d1/messages",
            "/devices/d1/messages/events/x",
            "/devicesX/d1/messages/events",
            "amqps://other.azure-devices.net/devices/d1/messages/events",
            "http://myhub.azure-devices.net/devices/d1/messages/events",
            "/messages",
            "/messages/nonsense",
            "events/ConsumerGroups/g/Partitions/x",
            "/devices/%ff/messages/events",
            &"/".repeat(5000),
        ] {
            assert_eq!(Address::parse(text, HOST), None, "{text}");
        }
    }
}
