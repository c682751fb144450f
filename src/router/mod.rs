//! Which hub address, which device, which topic, and who is connected.

pub mod properties;
pub mod registry;
pub mod topic_map;

use crate::hub::outcome::HubAccepted;
use crate::mqtt::session::Receipt;

/// The one implementor: a PUBACK needs the hub's word.
impl Receipt for HubAccepted {}
