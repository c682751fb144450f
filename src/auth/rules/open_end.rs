//! PSK files whose last line has no newline: honest ones, and those that were cut off within it.
//!
//! A key that lost its end may still be a key, and its device would be locked out. What shows it:
//! the key is shorter than all others of the file, or it is the beginning of the one in force.

use super::RuleSet;
use super::psk_file::PskLine;

/// A last line without a newline that may be whole.
pub(super) struct OpenEnd {
    /// `fleet.psk:3`
    place: Box<str>,
    identity: Box<str>,
}

/// What is wrong with the last line, and the fix.
const CUT: &str = "the file ends in the middle of a line; write all of it again, or a newline at \
    its end if it is whole";

/// Follows the lines of a file.
#[derive(Default)]
pub(super) struct Lines<'a> {
    /// Bytes of the shortest key before the last line.
    shortest: Option<usize>,
    last: Option<(usize, usize, &'a str)>,
    /// The last line's second key is shorter than its first.
    is_odd: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn see(&mut self, number: usize, line: &PskLine<'a>) {
        if let Some((_, before, _)) = self.last {
            self.shortest = Some(self.shortest.map_or(before, |least| least.min(before)));
        }
        let key = line.key.len();
        let next = line.next_key.as_ref().map(|key| key.len());
        self.last = Some((number, next.unwrap_or(key).min(key), line.identity));
        self.is_odd = next.is_some_and(|next| next < key);
    }

    /// The end of `file`: nothing to say of it, a line that may be whole, or a problem of a line.
    pub(super) fn end(
        self,
        name: &str,
        file: &[u8],
    ) -> Result<Option<OpenEnd>, (usize, &'static str)> {
        let open = file.last().is_some_and(|byte| *byte != b'\n');
        let lines = 1 + file.iter().filter(|byte| **byte == b'\n').count();
        match self.last {
            Some((number, key, identity)) if open && number == lines => {
                if self.is_odd || self.shortest.is_some_and(|least| key < least) {
                    return Err((number, CUT));
                }
                Ok(Some(OpenEnd {
                    place: format!("{name}:{number}").into(),
                    identity: identity.into(),
                }))
            }
            _ => Ok(None),
        }
    }
}

impl RuleSet {
    /// Files of keys that end without a newline, for a warning: the place, and the text.
    pub fn open_ends(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let text = "the file ends without a newline, as one that was cut off does; write one";
        self.open_ends.iter().map(move |end| (&*end.place, text))
    }

    /// The files that were cut off since `before` was read: the place, and the text.
    pub fn cut_since(&self, before: &Self) -> Vec<(String, &'static str)> {
        let is_cut = |end: &&OpenEnd| {
            let identity = end.identity.as_bytes();
            let (Some(now), Some(was)) = (self.psk(identity), before.psk(identity)) else {
                return false;
            };
            let begins = |new: &[u8], old: &[u8]| new.len() < old.len() && old.starts_with(new);
            let lost = match (now.next_key, was.next_key) {
                (Some(new), Some(old)) => begins(new, old),
                (None, Some(_)) => now.key == was.key,
                _ => false,
            };
            begins(now.key, was.key) || lost
        };
        let cut = self.open_ends.iter().filter(is_cut);
        cut.map(|end| (end.place.to_string(), CUT)).collect()
    }
}
