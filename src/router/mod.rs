//! Which hub address, which device, which topic, and who is connected.

pub mod properties;
pub mod refused;
pub mod registry;
pub mod topic_map;

use crate::hub::outcome::HubAccepted;
use crate::mqtt::session::Receipt;
use refused::RefusedByRule;

/// A PUBACK needs the hub's word,
impl Receipt for HubAccepted {}

/// or a rule that gave the message up, or kept it.
impl Receipt for RefusedByRule {}
