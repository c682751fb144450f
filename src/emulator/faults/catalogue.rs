//! The faults by name: Azure's own test hub's sixteen, and those of this gateway's trade.

/// How a fault acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Strikes once, or again and again while it lasts.
    Strike,
    /// In force while it lasts; without a duration until it is cleared.
    State,
    /// Known by name; what it would strike does not exist here.
    Missing,
}

/// What a fault concerns, so that a scope that means nothing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The port: no scope but all.
    Port,
    /// A connection. For a device: the connections that hold its links.
    Connection,
    /// A device's links.
    Link,
}

const CONDITIONS: &[&str] = &[
    "amqp:internal-error",
    "amqp:link:message-size-exceeded",
    "com.microsoft:device-container-throttled",
    "amqp:resource-limit-exceeded",
    "amqp:unauthorized-access",
    "amqp:not-found",
    "amqp:link:stolen",
    "amqp:link:detach-forced",
    "amqp:resource-locked",
    "com.microsoft:timeout",
    "com.microsoft:iot-hub-suspended",
];
const STATUSES: &[&str] = &["500", "401", "403", "404"];
const TWIN_STATUSES: &[&str] = &["429", "400", "500", "503"];
const HOURS: &[&str] = &["1", "2", "24"];
const NONE: &[&str] = &[];

macro_rules! kinds {
    ($($kind:ident $shape:ident $reach:ident $values:ident $about:literal,)+) => {
        /// Names of the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        pub enum FaultKind {
            $(#[doc = $about] $kind,)+
        }

        impl FaultKind {
            /// The whole catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// One sentence.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$kind => $about,)+ }
            }

            /// The name, as `POST /faults` takes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)+ }
            }

            /// What `value` may be; the first is meant when there is none.
            #[must_use]
            pub const fn values(self) -> &'static [&'static str] {
                match self { $(Self::$kind => $values,)+ }
            }

            pub(crate) const fn shape(self) -> Shape {
                match self { $(Self::$kind => Shape::$shape,)+ }
            }

            pub(crate) const fn reach(self) -> Reach {
                match self { $(Self::$kind => Reach::$reach,)+ }
            }
        }
    };
}

kinds! {
    KillTcp Strike Connection NONE "The TCP connection is cut without a word.",
    KillAmqpConnection Strike Connection NONE
        "The AMQP connection is closed with amqp:connection:forced.",
    KillAmqpSession Strike Connection NONE
        "Every AMQP session of the connection is ended with an error.",
    KillAmqpCBSLinkReq Strike Connection NONE "The link that takes tokens is detached.",
    KillAmqpCBSLinkResp Strike Connection NONE "The link that answers tokens is detached.",
    KillAmqpD2CLink Strike Link NONE "Telemetry links are detached with amqp:link:detach-forced.",
    KillAmqpC2DLink Strike Link NONE "Command links are detached with amqp:link:detach-forced.",
    KillAmqpTwinLinkReq Strike Link NONE
        "Links that take twin requests are detached with amqp:link:detach-forced.",
    KillAmqpTwinLinkResp Strike Link NONE
        "Links that answer twin requests are detached with amqp:link:detach-forced.",
    KillAmqpMethodReqLink Strike Link NONE
        "Links that bring method calls are detached with amqp:link:detach-forced.",
    KillAmqpMethodRespLink Strike Link NONE
        "Links that take methods' answers are detached with amqp:link:detach-forced.",
    InvokeThrottling State Link NONE
        "Messages are rejected with device-container-throttled, error 429001.",
    InvokeMaxMessageQuota State Link NONE
        "Messages are rejected with resource-limit-exceeded, error 403002.",
    InvokeAuthError State Link NONE
        "Each message ends its link with unauthorized-access, attaches are refused with it.",
    ShutDownAmqp Strike Connection NONE "The AMQP connection is closed without an error.",
    ShutDownMqtt Missing Connection NONE "MQTT is not served here.",
    RefuseConnections State Port NONE "New TCP connections are reset.",
    BlackHole State Connection NONE
        "Open connections fall silent for good; while it lasts, new ones are accepted in silence.",
    CloseDuringOpen State Port NONE "New connections are closed where OPEN would be answered.",
    CloseDuringBegin State Connection NONE "A session that begins closes its connection.",
    CloseDuringAttach State Connection NONE "A link that attaches closes its connection.",
    CbsStatus State Connection STATUSES "Tokens are refused with this status-code.",
    ClockAhead State Port HOURS
        "The hub's clock is ahead by so many hours, so that tokens end early.",
    CbsSilent State Connection NONE "Tokens are taken and not answered, nor put to use.",
    CbsDelayed State Connection NONE "Tokens are answered half a second late.",
    DispositionNever State Link NONE "Messages are accepted, and the sender is not told.",
    DispositionsDelayed State Link NONE "Dispositions are half a second late.",
    DispositionsReordered State Link NONE
        "Dispositions of a fifth of a second are sent together, the newest message's first.",
    DispositionsBatched State Link NONE
        "Dispositions of a fifth of a second are sent as one for all.",
    CreditZero State Link NONE "The credit of telemetry links is drained, none is granted.",
    OutcomeRejected State Link CONDITIONS "Messages are rejected with this condition.",
    OutcomeReleased State Link NONE "Messages are released.",
    OutcomeModified State Link NONE "Messages are modified, delivery failed.",
    DetachLink Strike Link CONDITIONS "Telemetry links are detached with this condition.",
    TwinStatus State Link TWIN_STATUSES "Twin requests are answered with this status.",
    TwinAnswersLost State Link NONE "Twin requests are carried out and not answered.",
    TwinAnswersDelayed State Link NONE "Twin requests are answered half a second late.",
    TwinAnswersTwice State Link NONE "Twin requests are answered twice.",
    DesiredLost State Link NONE "Devices are not told of changes of desired properties.",
    DesiredTwice State Link NONE "Devices are told twice of changes of desired properties.",
    MethodCallsLost State Link NONE "Method calls do not reach the device.",
    MethodCallsDelayed State Link NONE "Method calls reach the device half a second late.",
    MethodCallsTwice State Link NONE "Method calls reach the device twice.",
}

impl FaultKind {
    /// The fault of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|kind| kind.name() == name).copied()
    }

    /// The name most like `name`.
    pub(crate) fn like(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let alike = |kind: &&Self| likeness(&name, &kind.name().to_ascii_lowercase());
        Self::ALL
            .iter()
            .max_by_key(alike)
            .copied()
            .unwrap_or(Self::KillTcp)
    }

    /// `value` as the catalogue spells it; `None` when this fault does not take it.
    pub(crate) fn value(self, value: Option<&str>) -> Option<&'static str> {
        match value {
            None => Some(self.values().first().copied().unwrap_or_default()),
            Some(value) => self.values().iter().find(|known| **known == value).copied(),
        }
    }
}

/// Pairs of neighbouring letters both have, against those of the longer.
fn likeness(one: &str, other: &str) -> usize {
    let pairs = |text: &str| -> Vec<[u8; 2]> {
        text.as_bytes()
            .windows(2)
            .map(|w| [w[0], w[1]])
            .take(64)
            .collect()
    };
    let (one, mut other) = (pairs(one), pairs(other));
    let longer = one.len().max(other.len()).max(1);
    let both = one.iter().filter(|pair| {
        let at = other.iter().position(|o| o == *pair);
        at.map(|at| other.swap_remove(at)).is_some()
    });
    both.count() * 1000 / longer
}

#[cfg(test)]
mod tests {
    use super::FaultKind;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        for (typed, meant) in [
            ("killtcp", "KillTcp"),
            ("KillAmqpConection", "KillAmqpConnection"),
            ("KillD2CLink", "KillAmqpD2CLink"),
            ("Blackhole", "BlackHole"),
            ("RefuseConnection", "RefuseConnections"),
        ] {
            assert_eq!(FaultKind::like(typed).name(), meant, "{typed}");
        }
        FaultKind::like("");
        FaultKind::like("\u{1F980}");
    }

    #[test]
    fn values_are_taken_as_listed_and_nothing_else() {
        assert_eq!(FaultKind::CbsStatus.value(Some("403")), Some("403"));
        assert_eq!(FaultKind::CbsStatus.value(None), Some("500"));
        assert_eq!(FaultKind::CbsStatus.value(Some("200")), None);
        assert_eq!(FaultKind::KillTcp.value(None), Some(""));
        assert_eq!(FaultKind::KillTcp.value(Some("hard")), None);
    }
}
