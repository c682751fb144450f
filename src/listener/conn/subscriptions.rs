//! What a device is subscribed to; pure.

use crate::mqtt::packet::QoS;
use crate::router::topic_map::Subscription;

/// The QoS granted for each filter there is.
#[derive(Default)]
pub(super) struct Subscriptions([Option<QoS>; Subscription::COUNT]);

impl Subscriptions {
    /// Takes a subscription, in place of the same one.
    pub(super) fn set(&mut self, which: Subscription, qos: QoS) {
        self.0[which as usize] = Some(qos);
    }

    /// Drops one; whether it was there.
    pub(super) fn remove(&mut self, which: Subscription) -> bool {
        self.0[which as usize].take().is_some()
    }

    /// Whether it is there.
    pub(super) fn has(&self, which: Subscription) -> bool {
        self.0[which as usize].is_some()
    }

    /// The QoS of commands: the largest of those that match (MQTT-3.3.5-1).
    pub(super) fn commands(&self) -> Option<QoS> {
        let of = |which: Subscription| self.0[which as usize];
        of(Subscription::Commands)
            .max(of(Subscription::Module))
            .max(of(Subscription::Own))
    }
}

#[cfg(test)]
mod tests {
    use super::Subscriptions;
    use crate::mqtt::packet::QoS::{AtLeastOnce, AtMostOnce};
    use crate::router::topic_map::Subscription::{Commands, Module, TwinResponses};

    #[test]
    fn commands_come_as_long_as_one_filter_matches_and_at_its_qos() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.set(TwinResponses, AtLeastOnce);
        assert_eq!(subscriptions.commands(), None);
        subscriptions.set(Commands, AtMostOnce);
        subscriptions.set(Module, AtLeastOnce);
        assert_eq!(subscriptions.commands(), Some(AtLeastOnce));
        assert!(subscriptions.remove(Module));
        assert!(!subscriptions.remove(Module));
        assert_eq!(subscriptions.commands(), Some(AtMostOnce));
        subscriptions.set(Commands, AtLeastOnce);
        assert_eq!(subscriptions.commands(), Some(AtLeastOnce));
        assert!(subscriptions.remove(Commands));
        assert_eq!(subscriptions.commands(), None);
        assert!(subscriptions.has(TwinResponses) && !subscriptions.has(Commands));
    }
}
