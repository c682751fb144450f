//! Storage whose keys are handles, and lists that run through it.

/// "No slot": ends a list.
pub const NONE: u32 = u32::MAX;

/// Values with small keys that are given out again after their value is gone.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: u32,
}

#[derive(Debug)]
enum Slot<T> {
    /// The next vacant slot.
    Vacant(u32),
    Taken(T),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    /// The key the next [`insert`](Self::insert) gives.
    pub fn next_key(&self) -> u32 {
        if self.free == NONE {
            self.slots.len() as u32
        } else {
            self.free
        }
    }

    /// Stores a value.
    pub fn insert(&mut self, value: T) -> u32 {
        let key = self.next_key();
        self.len += 1;
        match self.slots.get_mut(key as usize) {
            Some(slot) => {
                if let Slot::Vacant(next) = slot {
                    self.free = *next;
                }
                *slot = Slot::Taken(value);
            }
            None => self.slots.push(Slot::Taken(value)),
        }
        key
    }

    /// Takes a value out; its key may be given out again.
    pub fn remove(&mut self, key: u32) -> Option<T> {
        let slot = self.slots.get_mut(key as usize)?;
        if matches!(slot, Slot::Vacant(_)) {
            return None;
        }
        let old = std::mem::replace(slot, Slot::Vacant(self.free));
        self.free = key;
        self.len -= 1;
        match old {
            Slot::Taken(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: u32) -> Option<&T> {
        match self.slots.get(key as usize) {
            Some(Slot::Taken(value)) => Some(value),
            _ => None,
        }
    }

    /// The value of `key`.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        match self.slots.get_mut(key as usize) {
            Some(Slot::Taken(value)) => Some(value),
            _ => None,
        }
    }

    /// How many values there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Every key below it was given out at some time.
    pub fn end(&self) -> u32 {
        self.slots.len() as u32
    }
}

/// A value's place in one list.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    previous: u32,
    next: u32,
    listed: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            previous: NONE,
            next: NONE,
            listed: false,
        }
    }
}

impl Node {
    /// The entry after it, or [`NONE`].
    pub fn next(&self) -> u32 {
        self.next
    }
}

/// A value that can be in lists.
pub trait Listed {
    /// Its place in list number `list`.
    fn node(&mut self, list: usize) -> &mut Node;
}

/// A list through a slab, first in, first out; every operation costs the same, however long it is.
#[derive(Debug)]
pub struct List {
    number: usize,
    first: u32,
    last: u32,
}

impl List {
    /// An empty list over the nodes of that number.
    pub const fn new(number: usize) -> Self {
        Self {
            number,
            first: NONE,
            last: NONE,
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// The oldest entry.
    pub fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Appends `key`, unless it is listed.
    pub fn push<T: Listed>(&mut self, slab: &mut Slab<T>, key: u32) {
        let last = self.last;
        let Some(node) = slab.get_mut(key).map(|value| value.node(self.number)) else {
            return;
        };
        if node.listed {
            return;
        }
        *node = Node {
            previous: last,
            next: NONE,
            listed: true,
        };
        self.last = key;
        match slab.get_mut(last) {
            Some(value) => value.node(self.number).next = key,
            None => self.first = key,
        }
    }

    /// Takes `key` out, if it is listed.
    pub fn remove<T: Listed>(&mut self, slab: &mut Slab<T>, key: u32) {
        let Some(node) = slab.get_mut(key).map(|value| value.node(self.number)) else {
            return;
        };
        if !node.listed {
            return;
        }
        let Node { previous, next, .. } = std::mem::take(node);
        match slab.get_mut(previous) {
            Some(value) => value.node(self.number).next = next,
            None => self.first = next,
        }
        match slab.get_mut(next) {
            Some(value) => value.node(self.number).previous = previous,
            None => self.last = previous,
        }
    }

    /// Takes the oldest entry out.
    pub fn pop<T: Listed>(&mut self, slab: &mut Slab<T>) -> Option<u32> {
        let key = self.first()?;
        self.remove(slab, key);
        Some(key)
    }
}
