//! The local rules: devices, rules, PSK files. Deny by default.

/// Everything the rules files say, checked and indexed. Swapped whole on reload.
#[derive(Default)]
pub struct RuleSet {}
