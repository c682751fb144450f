//! What was acknowledged, held against what the emulator accepted.
//!
//! Every body is checked by its SHA-256, so that it does not matter whether the emulator still
//! has the body itself. Memory: one bit per message sent.

use super::frame::payload;
use super::http::Client;
use super::setup::NUMBER_DIGITS;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Bytes of one page, roughly.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of an entry without its body, at most, roughly.
const ENTRY_BYTES: usize = 1024;
/// Entries the emulator gives at once.
const PAGE_MAX: usize = 10_000;

/// What the emulator's ledger says of what the devices saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Messages of this run's devices that the hub accepted once or more.
    pub arrived: u64,
    /// Acknowledged, but not in the ledger.
    pub missing: u64,
    /// In the ledger again.
    pub duplicated: u64,
    /// First in the ledger after a later message of the same device.
    pub misordered: u64,
    /// Attributed to a device that did not send it, or changed on the way.
    pub foreign: u64,
    /// In the ledger, but never acknowledged: allowed, the sender must repeat it.
    pub unconfirmed: u64,
    /// Entries of devices that are not of this run.
    pub unrelated: u64,
}

struct Sender {
    sent: u64,
    open: HashSet<u64>,
    seen: Vec<u64>,
    newest: u64,
    /// Hash of every payload, made when one does not come in its turn.
    hashes: Option<HashMap<[u8; 32], u64>>,
}

/// Compares entry by entry.
pub struct Judge {
    payload: usize,
    acknowledges: bool,
    senders: HashMap<String, Sender>,
    verdict: Verdict,
}

/// One row of the ledger.
#[derive(serde::Deserialize)]
struct Entry {
    seq: u64,
    device: String,
    sha256: String,
    body: Option<String>,
}

impl Judge {
    /// For payloads of this size, acknowledged (QoS 1) or not.
    pub fn new(payload: usize, acknowledges: bool) -> Self {
        Self {
            payload,
            acknowledges,
            senders: HashMap::new(),
            verdict: Verdict::default(),
        }
    }

    /// The device `id` sent messages 1 to `sent`, all acknowledged but `open`.
    pub fn expect(&mut self, id: &str, sent: u64, open: &[u64]) {
        let sender = Sender {
            sent,
            open: open.iter().copied().collect(),
            seen: Vec::new(),
            newest: 0,
            hashes: None,
        };
        self.senders.insert(id.to_owned(), sender);
    }

    fn entry(&mut self, entry: &Entry) {
        let hash = unhex(&entry.sha256);
        let Some(sender) = self.senders.get_mut(&entry.device) else {
            let body = entry.body.as_deref();
            let author =
                body.and_then(|body| author(body).filter(|a| self.senders.contains_key(a)));
            match author {
                Some(_) => self.verdict.foreign += 1,
                None => self.verdict.unrelated += 1,
            }
            return;
        };
        let number = hash.and_then(|hash| sender.number(&entry.device, self.payload, hash));
        match number.map(|number| sender.arrived(number)) {
            None => self.verdict.foreign += 1,
            Some(Arrival::Again) => self.verdict.duplicated += 1,
            Some(Arrival::InOrder) => self.verdict.arrived += 1,
            Some(Arrival::Late) => {
                self.verdict.arrived += 1;
                self.verdict.misordered += 1;
            }
        }
    }

    /// The verdict over all entries so far.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = self.verdict;
        for sender in self.senders.values() {
            for number in 1..=sender.sent {
                let confirmed = self.acknowledges && !sender.open.contains(&number);
                let seen = sender.has(number);
                verdict.missing += u64::from(confirmed && !seen);
                verdict.unconfirmed += u64::from(!confirmed && seen);
            }
        }
        verdict
    }
}

enum Arrival {
    InOrder,
    Late,
    Again,
}

impl Sender {
    /// Which message has this hash: the next one, as a rule.
    fn number(&mut self, id: &str, size: usize, hash: [u8; 32]) -> Option<u64> {
        let of = |number| -> [u8; 32] { Sha256::digest(payload(id, number, size)).into() };
        let next = self.newest + 1;
        if next <= self.sent && of(next) == hash {
            return Some(next);
        }
        let sent = self.sent;
        let hashes = self
            .hashes
            .get_or_insert_with(|| (1..=sent).map(|number| (of(number), number)).collect());
        hashes.get(&hash).copied()
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn arrived(&mut self, number: u64) -> Arrival {
        if self.has(number) {
            return Arrival::Again;
        }
        let (word, bit) = place(number);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= bit;
        if number < self.newest {
            return Arrival::Late;
        }
        self.newest = number;
        Arrival::InOrder
    }
}

fn place(number: u64) -> (usize, u64) {
    let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
    (word, 1 << (number % 64))
}

/// The device a body says it is from.
fn author(body: &str) -> Option<String> {
    let body = BASE64.decode(body).ok()?;
    let text = std::str::from_utf8(&body).ok()?;
    let (id, rest) = text.split_once(' ')?;
    let number = rest.get(..NUMBER_DIGITS)?;
    number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| id.to_owned())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

/// The emulator's ledger, read page by page.
pub struct Ledger {
    url: String,
    after: u64,
    limit: usize,
}

impl Ledger {
    /// Finds its present end; only what comes later is judged.
    ///
    /// # Errors
    /// A sentence, when it cannot be read.
    pub async fn open(url: &str, payload: usize) -> Result<Self, String> {
        let mut client = Client::open(url)
            .await
            .map_err(|e| format!("--ledger {e}"))?;
        let mut ledger = Self {
            url: url.to_owned(),
            after: 0,
            limit: (PAGE_BYTES / (ENTRY_BYTES + payload * 2)).clamp(10, PAGE_MAX),
        };
        // The last entry, by bisection: `reached` has one after it, `beyond` has none.
        let (mut reached, mut beyond) = (0, 1);
        while !ledger.page(&mut client, beyond, 1).await?.is_empty() {
            (reached, beyond) = (beyond, beyond * 2);
        }
        while reached < beyond {
            let middle = reached.midpoint(beyond);
            if ledger.page(&mut client, middle, 1).await?.is_empty() {
                beyond = middle;
            } else {
                reached = middle + 1;
            }
        }
        ledger.after = beyond;
        Ok(ledger)
    }

    async fn page(
        &self,
        client: &mut Client,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, String> {
        let mut path = String::new();
        let _ = write!(path, "/messages?after={after}&limit={limit}");
        let body = client.get(&path).await?;
        serde_json::from_slice(&body).map_err(|error| format!("GET {path}: not a ledger: {error}"))
    }

    /// Feeds every entry since it was opened to `judge`.
    ///
    /// # Errors
    /// A sentence, when it cannot be read.
    pub async fn read_into(&mut self, judge: &mut Judge) -> Result<(), String> {
        // a fresh connection: the first one idled as long as the run took
        let mut client = Client::open(&self.url).await?;
        let end = self.end(judge);
        for _ in 0..end {
            let page = self.page(&mut client, self.after, self.limit).await?;
            for entry in &page {
                judge.entry(entry);
                self.after = self.after.max(entry.seq);
            }
            if page.len() < self.limit {
                break;
            }
        }
        Ok(())
    }

    /// Pages read at most: others may keep writing.
    fn end(&self, judge: &Judge) -> usize {
        let sent: u64 = judge.senders.values().map(|sender| sender.sent).sum();
        let pages = usize::try_from(sent).unwrap_or(usize::MAX) / self.limit;
        pages.saturating_mul(4) + 1000
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Judge, Verdict};
    use crate::load::frame::payload;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use sha2::{Digest, Sha256};

    const SIZE: usize = 40;

    fn entry(device: &str, author: &str, number: u64) -> Entry {
        let body = payload(author, number, SIZE);
        let hash = Sha256::digest(&body);
        Entry {
            seq: 0,
            device: device.to_owned(),
            sha256: hash.iter().map(|b| format!("{b:02x}")).collect(),
            body: Some(BASE64.encode(body)),
        }
    }

    fn judge(entries: &[Entry]) -> Verdict {
        let mut judge = Judge::new(SIZE, true);
        judge.expect("a", 70, &[70]);
        judge.expect("b", 0, &[]);
        for entry in entries {
            judge.entry(entry);
        }
        judge.verdict()
    }

    #[test]
    fn a_clean_run_is_clean() {
        let entries: Vec<_> = (1..=69).map(|n| entry("a", "a", n)).collect();
        let clean = Verdict {
            arrived: 69,
            ..Verdict::default()
        };
        assert_eq!(judge(&entries), clean);
    }

    #[test]
    fn each_fault_is_told_apart() {
        let mut entries: Vec<_> = (1..=67).map(|n| entry("a", "a", n)).collect();
        entries.push(entry("a", "a", 70)); // never acknowledged
        entries.push(entry("a", "a", 69)); // late; 68 never comes
        entries.push(entry("a", "a", 5)); // again
        entries.push(entry("b", "a", 6)); // another device's
        entries.push(entry("z", "a", 7)); // a stranger's, with our text
        entries.push(entry("a", "a", 71)); // never sent
        entries.push(entry("z", "z", 1)); // somebody else's business
        let verdict = Verdict {
            arrived: 69,
            missing: 1,
            duplicated: 1,
            misordered: 1,
            foreign: 3,
            unconfirmed: 1,
            unrelated: 1,
        };
        assert_eq!(judge(&entries), verdict);
    }

    #[test]
    fn a_changed_body_is_foreign_even_when_the_body_is_forgotten() {
        let mut changed = entry("a", "a", 1);
        changed.sha256.replace_range(0..2, "zz");
        changed.body = None;
        assert_eq!(judge(&[changed]).foreign, 1);
    }
}
