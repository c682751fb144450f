//! Why a hub refuses, one row each: the word, IoT Hub's code, what it means, what to do; pure.
//!
//! The word is the label of `hub_refusals_total{cause}`, what `/ready` says and what the log
//! says; the README's table is held against these rows by a test.

/// What shows that a refusal is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An open connection.
    Connect,
    /// An accepted token.
    Token,
    /// An attached link.
    Link,
    /// An accepted message.
    Message,
}

impl Class {
    /// Its bit in [`Refusals::standing_classes`](super::Refusals::standing_classes).
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether success of this class shows that a refusal of `other` is over: a message that was
    /// accepted came over a link.
    #[must_use]
    pub const fn shows(self, other: Self) -> bool {
        self as u32 == other as u32 || matches!((self, other), (Self::Message, Self::Link))
    }
}

/// Whom a refusal keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The connection or the device it was met by.
    One,
    /// Everybody: it is about the hub or about the one token.
    All,
}

macro_rules! causes {
    ($($name:ident $word:literal $class:ident $reach:ident $code:literal
        $says:literal, $fix:literal;)+) => {
        /// Why the hub refuses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalCause {
            $(#[doc = $says] $name,)+
        }

        impl RefusalCause {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// `hub_refusals_total{cause}`.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// IoT Hub's error code (wire sheet §6.4); empty where it has none.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// What it means.
            #[must_use]
            pub const fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)+ }
            }

            /// What to do.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$name => $fix,)+ }
            }

            /// What ends it.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)+ }
            }

            /// Whom it keeps out.
            #[must_use]
            pub const fn reach(self) -> Reach {
                match self { $(Self::$name => Reach::$reach,)+ }
            }
        }
    };
}

causes! {
    Dns "dns" Connect One ""
        "the hub's name has no address",
        "check hub.host or hub.endpoint, and this machine's DNS";
    Unreachable "unreachable" Connect One ""
        "no TCP connection to the hub",
        "check hub.host or hub.endpoint, and that outgoing TCP port 5671 is open";
    TlsName "tls_name" Connect One ""
        "the hub's certificate is for another name",
        "set hub.host, or the host of hub.endpoint, to a name in the certificate";
    TlsCa "tls_ca" Connect One ""
        "the hub's certificate is signed by nobody this machine trusts",
        "set hub.ca to the PEM file of the signing CA, or install ca-certificates";
    TlsDates "tls_dates" Connect One ""
        "the hub's certificate has ended or is not valid yet",
        "check this machine's clock; if it is right, the hub's certificate must be renewed";
    Tls "tls" Connect One ""
        "TLS with the hub fails",
        "check that hub.endpoint is the AMQP port over TLS (5671), and what stands between";
    CaFile "ca_file" Connect One ""
        "no trusted root certificate can be loaded",
        "set hub.ca to a readable PEM file, or install ca-certificates";
    AmqpOpen "amqp_open" Connect One ""
        "the hub does not open an AMQP connection",
        "check that hub.endpoint is an IoT Hub's AMQP port, and the hub's health in Azure";
    CbsSilent "cbs_silent" Token One ""
        "the hub does not answer the token that was put to $cbs",
        "check the hub's health in Azure, and what stands between";
    CbsLost "cbs_lost" Token One ""
        "the hub ends the $cbs link before it answers",
        "check the hub's health in Azure, and that hub.endpoint is an IoT Hub";
    CbsFailed "cbs_failed" Token One "500001"
        "the hub could not process the token",
        "check the hub's health in Azure";
    WrongKey "wrong_key" Token One "401003"
        "the token's signature is wrong: no such policy, or another key",
        "set hub.policy and hub.key to a shared access policy of this hub and its key";
    ClockSkew "clock_skew" Token One "401003"
        "a token just signed has ended by the hub's clock",
        "set this machine's clock right (NTP); it is behind the hub's by more than hub.token_ttl";
    TokenExpired "token_expired" Token One "401003"
        "the token of hub.token_file or hub.token_url has ended",
        "see to it that its writer renews it in time; check this machine's clock";
    TokenRefused "token_refused" Token One "401003"
        "the hub does not take the token",
        "check that hub.host is the hub's own name and the token is for it";
    TokenSource "token_source" Token One ""
        "there is no token to put",
        "check hub.token_file or hub.token_url, and its writer";
    TokenLimit "token_limit" Token One "403005"
        "the connection holds as many tokens as the hub allows",
        "nothing: the gateway puts one; report it with the hub's words";
    TokenEnded "token_ended" Link All "401003"
        "the hub ended the token before its time",
        "check this machine's clock, and whether the policy's key was changed";
    NoDeviceConnect "no_device_connect" Link All "401002"
        "the token gives no right to device links",
        "give hub.policy the right DeviceConnect (Azure: Shared access policies)";
    DeviceUnknown "device_unknown" Link One "404001"
        "the hub does not know the device",
        "register the device at the hub, or correct device_id in the rules";
    DeviceDisabled "device_disabled" Link One "403012"
        "the device is disabled at the hub",
        "enable the device at the hub, or take it out of the rules";
    Closing "closing" Link All ""
        "the hub closes connections soon after it opened them",
        "check the hub's health in Azure, and what stands between; messages wait";
    LinkSilent "link_silent" Link All ""
        "the hub does not answer the attach of a link",
        "check the hub's health in Azure, and what stands between";
    Suspended "suspended" Message All "403001"
        "the hub is suspended or gone",
        "check the hub's state and the subscription in Azure";
    Quota "quota" Message All "403002"
        "the hub's daily message quota is used up",
        "add units or wait until midnight UTC; messages wait and devices stay connected";
    Throttled "throttled" Message One "429001"
        "the hub throttles",
        "add units, or send less; messages wait and are sent again";
    NoCredit "no_credit" Message All ""
        "the hub lets a device's link send nothing",
        "check the hub's health in Azure; messages wait and devices stay connected";
    GivenBack "given_back" Message All ""
        "the hub gives messages back again and again",
        "check the hub's health in Azure; messages are sent again with the same id";
    NoOutcome "no_outcome" Message All ""
        "the hub does not say whether it took a message",
        "check the hub's health in Azure; messages are sent again with the same id";
}

/// The README's table of causes.
#[must_use]
pub fn documentation() -> String {
    let mut table = "| cause | IoT Hub's code | means | do |\n|---|---|---|---|\n".to_owned();
    for cause in RefusalCause::ALL {
        let (word, code) = (cause.word(), cause.code());
        let code = if code.is_empty() { "–" } else { code };
        let (says, fix) = (cause.says(), cause.fix());
        table.push_str(&format!("| `{word}` | {code} | {says} | {fix} |\n"));
    }
    table
}
