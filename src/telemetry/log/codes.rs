//! The code of an event: a word that stays when the text of its line is put better, for whoever
//! counts lines or waits for one.

/// The code of an event with this name and target: what its call site says by `name:`. `None` for
/// one that has none, as those of libraries.
#[must_use]
pub fn of<'a>(name: &'a str, target: &str) -> Option<&'a str> {
    let ours = target.starts_with("iothub_gateway") || target == "emulator";
    // tracing's own name of a call site that has none is "event FILE:LINE".
    (ours && !name.contains(' ')).then_some(name)
}
