//! Requests that wait for their answers: numbered, bounded by whoever opens them, each with its
//! own time; and what an answer that fits none of them is. Pure.

use crate::runtime::clock::Mono;
use std::collections::VecDeque;

/// Numbers that are over and still known, so that an answer to one of them is told from one that
/// was never asked for.
const PAST: usize = 32;

/// What is open, in the order in which it was opened.
pub struct Requests<T> {
    open: VecDeque<Open<T>>,
    next: u64,
    bytes: usize,
    /// Those that are over, and whether by an answer.
    past: VecDeque<(u64, bool)>,
}

struct Open<T> {
    number: u64,
    until: Mono,
    bytes: usize,
    item: T,
}

/// Why an answer has no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Its time was over.
    Late,
    /// It was answered.
    Repeated,
    /// Nobody asked.
    Unknown,
}

impl Stray {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Repeated => "repeated",
            Self::Unknown => "unknown",
        }
    }
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self {
            open: VecDeque::new(),
            next: 1,
            bytes: 0,
            past: VecDeque::new(),
        }
    }
}

impl<T> Requests<T> {
    /// Opens a request that holds `bytes`, until then; its number. Numbers begin at 1 and are never
    /// used again.
    pub fn open(&mut self, item: T, bytes: usize, until: Mono) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.open.push_back(Open {
            number,
            until,
            bytes,
            item,
        });
        number
    }

    /// Takes the request an answer is for.
    ///
    /// # Errors
    /// What the answer is, when there is none.
    pub fn close(&mut self, number: u64) -> Result<T, Stray> {
        let place = self.open.binary_search_by_key(&number, |open| open.number);
        match place.ok().and_then(|place| self.open.remove(place)) {
            Some(open) => Ok(self.over(open, true)),
            None => {
                let past = self.past.iter().find(|(past, _)| *past == number);
                Err(match past {
                    Some((_, true)) => Stray::Repeated,
                    Some((_, false)) => Stray::Late,
                    None => Stray::Unknown,
                })
            }
        }
    }

    /// Takes one whose time is over.
    pub fn expire(&mut self, now: Mono) -> Option<T> {
        let place = self.open.iter().position(|open| open.until <= now)?;
        let open = self.open.remove(place)?;
        Some(self.over(open, false))
    }

    /// Takes the oldest, whatever its time.
    pub fn give_up(&mut self) -> Option<T> {
        let open = self.open.pop_front()?;
        Some(self.over(open, false))
    }

    fn over(&mut self, open: Open<T>, answered: bool) -> T {
        self.bytes -= open.bytes;
        if self.past.len() == PAST {
            self.past.pop_front();
        }
        self.past.push_back((open.number, answered));
        open.item
    }

    /// When the next time is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.open.iter().map(|open| open.until).min()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What those that are open hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// One that is open.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = self.open.binary_search_by_key(&number, |open| open.number);
        let open = self.open.get_mut(place.ok()?)?;
        Some(&mut open.item)
    }

    /// Those that are open, oldest first, with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let each = self.open.iter_mut();
        each.map(|open| (open.number, &mut open.item))
    }
}

#[cfg(test)]
mod tests {
    use super::{PAST, Requests, Stray};
    use crate::runtime::clock::Mono;
    use std::time::Duration;

    fn at(ms: u64) -> Mono {
        Mono::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn an_answer_finds_its_request_once() {
        let mut requests = Requests::default();
        let a = requests.open('a', 10, at(100));
        let b = requests.open('b', 5, at(100));
        assert_eq!((requests.len(), requests.bytes()), (2, 15));
        assert_eq!(requests.close(b), Ok('b'));
        assert_eq!(requests.close(b), Err(Stray::Repeated));
        assert_eq!(requests.close(7), Err(Stray::Unknown));
        assert_eq!(requests.close(0), Err(Stray::Unknown));
        assert_eq!((requests.len(), requests.bytes()), (1, 10));
        assert_eq!(requests.close(a), Ok('a'));
        assert_eq!(requests.bytes(), 0);
    }

    #[test]
    fn what_is_over_is_late_and_was_not_answered() {
        let mut requests = Requests::default();
        let a = requests.open('a', 1, at(100));
        let b = requests.open('b', 1, at(50));
        assert_eq!(requests.deadline(), Some(at(50)));
        assert_eq!(requests.expire(at(49)), None);
        assert_eq!(requests.expire(at(50)), Some('b'));
        assert_eq!(requests.expire(at(50)), None);
        assert_eq!(requests.close(b), Err(Stray::Late));
        assert_eq!(requests.deadline(), Some(at(100)));
        assert_eq!(requests.close(a), Ok('a'));
        assert_eq!(requests.deadline(), None);
        assert!(requests.is_empty());
    }

    #[test]
    fn the_past_is_bounded_and_numbers_do_not_come_back() {
        let mut requests = Requests::default();
        let first = requests.open((), 0, at(1));
        assert!(requests.expire(at(1)).is_some());
        for _ in 0..PAST {
            let number = requests.open((), 0, at(1));
            assert!(number > first);
            assert_eq!(requests.close(number), Ok(()));
        }
        assert_eq!(requests.past.len(), PAST);
        assert_eq!(requests.close(first), Err(Stray::Unknown));
    }
}
