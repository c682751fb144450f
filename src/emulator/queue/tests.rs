use super::*;
use crate::emulator::address::Endpoint;
use crate::emulator::backend::Ack;
use crate::emulator::config::EmulatorLimits;
use crate::emulator::links::{Direction, Stop};

const T0: Mono = Mono::from_start(Duration::from_secs(1000));
const U0: Unix = Unix::from_secs(1000);

fn rules() -> QueueRules {
    QueueRules {
        depth: 3,
        lock: Duration::from_secs(60),
        max_delivery_count: 3,
        lock_expiry_counts: false,
        unsettled_waits_for_lock: false,
    }
}

fn queue(rules: QueueRules) -> Queue {
    let feedback = Feedback::new(&EmulatorLimits::default(), Arc::default());
    let of = (Identity::device("d"), "g".into());
    Queue::new(of, rules, Arc::new(Stats::default()), Arc::new(feedback))
}

fn command(id: &str, ttl: u64) -> Command {
    Command {
        message_id: id.to_owned(),
        correlation_id: None,
        user_id: None,
        content_type: None,
        content_encoding: None,
        expires: U0 + Duration::from_secs(ttl),
        expiry_named: false,
        ack: Ack::Full,
        properties: Vec::new(),
        body: Bytes::from_static(b"x"),
    }
}

/// The link that asks where there is one only.
const LINK: u64 = 1;

fn deliver(queue: &Queue, token: u8, at: Mono) -> Option<(u64, LockToken)> {
    match queue.next(LINK, at, U0) {
        Next::Deliver(offer) => {
            let token = LockToken([token; 16]);
            queue.lock(LINK, offer.seq, token, at);
            Some((offer.seq, token))
        }
        Next::Wait(_) | Next::Displaced => None,
    }
}

fn link(id: u64) -> Arc<Link> {
    Arc::new(Link {
        id,
        connection: 0,
        session: 0,
        identity: Identity::device("d"),
        endpoint: Endpoint::Commands,
        direction: Direction::ToDevice,
        channel: None,
        stop: Stop::default(),
    })
}

#[test]
fn a_displaced_link_is_offered_nothing_and_takes_nothing_from_its_successor() {
    let queue = queue(rules());
    queue.claim(&link(1));
    queue.push(command("a", 99), T0, U0).unwrap();
    let Next::Deliver(offer) = queue.next(1, T0, U0) else {
        panic!("nothing for the first link");
    };
    // Between the offer and the transfer.
    assert_eq!(queue.claim(&link(2)).map(|older| older.id), Some(1));
    let Next::Deliver(again) = queue.next(2, T0, U0) else {
        panic!("nothing for the second link");
    };
    assert_eq!(again.seq, offer.seq);
    let [late, held] = [LockToken([1; 16]), LockToken([2; 16])];
    queue.lock(2, again.seq, held, T0);
    queue.lock(1, offer.seq, late, T0);
    queue.settle(late, Settlement::LinkLost, T0);
    assert!(matches!(queue.next(1, T0, U0), Next::Displaced));
    queue.settle(held, Settlement::Accepted, T0);
    assert_eq!(states(&queue, T0), [(1, CommandState::Completed, 0)]);
}

fn states(queue: &Queue, at: Mono) -> Vec<(u64, CommandState, u8)> {
    queue
        .view(at, U0)
        .into_iter()
        .map(|v| (v.seq, v.state, v.delivery_count))
        .collect()
}

#[test]
fn a_full_queue_refuses_and_a_completed_command_makes_room() {
    let queue = queue(rules());
    for id in ["a", "b", "c"] {
        queue.push(command(id, 99), T0, U0).unwrap();
    }
    assert_eq!(queue.push(command("d", 99), T0, U0), Err(QueueFull));
    let (_, token) = deliver(&queue, 1, T0).unwrap();
    // A locked command still takes its place.
    assert_eq!(queue.push(command("d", 99), T0, U0), Err(QueueFull));
    queue.settle(token, Settlement::Accepted, T0);
    assert_eq!(queue.push(command("d", 99), T0, U0), Ok(4));
}

#[test]
fn a_lock_that_runs_out_gives_the_command_back_uncounted() {
    let queue = queue(rules());
    queue.push(command("a", 999), T0, U0).unwrap();
    let (_, token) = deliver(&queue, 1, T0).unwrap();
    let before = T0 + Duration::from_secs(59);
    assert!(
        matches!(queue.next(LINK, before, U0), Next::Wait(Some(d)) if d == Duration::from_secs(1))
    );
    let after = T0 + Duration::from_secs(60);
    assert!(deliver(&queue, 2, after).is_some());
    assert_eq!(states(&queue, after), [(1, CommandState::Locked, 0)]);
    queue.settle(token, Settlement::Accepted, after);
    assert_eq!(
        states(&queue, after),
        [(1, CommandState::Locked, 0)],
        "the old token is worthless"
    );
    assert_eq!(queue.stats.late_settlements.get(), 1);
}

#[test]
fn a_settlement_after_the_lock_is_late_even_if_nobody_swept() {
    let queue = queue(rules());
    queue.push(command("a", 999), T0, U0).unwrap();
    let (_, token) = deliver(&queue, 1, T0).unwrap();
    let after = T0 + Duration::from_secs(61);
    queue.settle(token, Settlement::Accepted, after);
    assert_eq!(states(&queue, after), [(1, CommandState::Enqueued, 0)]);
}

#[test]
fn a_lock_expiry_counts_when_the_switch_says_so() {
    let queue = queue(QueueRules {
        lock_expiry_counts: true,
        ..rules()
    });
    queue.push(command("a", 999), T0, U0).unwrap();
    deliver(&queue, 1, T0).unwrap();
    let after = T0 + Duration::from_secs(60);
    assert_eq!(states(&queue, after), [(1, CommandState::Enqueued, 1)]);
}

#[test]
fn abandoning_counts_until_the_command_is_dead_lettered() {
    let queue = queue(rules());
    queue.push(command("a", 99), T0, U0).unwrap();
    for round in 1..=3 {
        let (_, token) = deliver(&queue, round, T0).unwrap();
        queue.settle(token, Settlement::Abandoned, T0);
    }
    assert_eq!(states(&queue, T0), [(1, CommandState::DeadLettered, 3)]);
    assert!(deliver(&queue, 9, T0).is_none());
}

#[test]
fn rejecting_dead_letters_at_once_and_order_is_kept() {
    let queue = queue(rules());
    for id in ["a", "b", "c"] {
        queue.push(command(id, 99), T0, U0).unwrap();
    }
    let (_, a) = deliver(&queue, 1, T0).unwrap();
    let (_, b) = deliver(&queue, 2, T0).unwrap();
    queue.settle(b, Settlement::Rejected, T0);
    queue.settle(a, Settlement::Abandoned, T0);
    assert_eq!(
        deliver(&queue, 3, T0).unwrap().0,
        1,
        "the abandoned one is first again"
    );
    assert_eq!(deliver(&queue, 4, T0).unwrap().0, 3);
}

#[test]
fn a_lost_link_gives_back_at_once_or_after_the_lock() {
    for (waits, expected) in [
        (false, CommandState::Enqueued),
        (true, CommandState::Locked),
    ] {
        let queue = queue(QueueRules {
            unsettled_waits_for_lock: waits,
            ..rules()
        });
        queue.push(command("a", 999), T0, U0).unwrap();
        let (_, token) = deliver(&queue, 1, T0).unwrap();
        queue.settle(token, Settlement::LinkLost, T0);
        assert_eq!(states(&queue, T0), [(1, expected, 0)]);
        let after = T0 + Duration::from_secs(60);
        assert_eq!(states(&queue, after), [(1, CommandState::Enqueued, 0)]);
    }
}

#[test]
fn an_unread_command_expires_and_a_locked_one_does_not() {
    let queue = queue(rules());
    queue.push(command("a", 5), T0, U0).unwrap();
    queue.push(command("b", 5), T0, U0).unwrap();
    deliver(&queue, 1, T0).unwrap();
    let later = U0 + Duration::from_secs(5);
    let seen: Vec<_> = queue
        .view(T0, later)
        .into_iter()
        .map(|v| (v.seq, v.state))
        .collect();
    assert_eq!(
        seen,
        [(1, CommandState::Locked), (2, CommandState::Expired)]
    );
}

#[test]
fn purging_empties_the_queue() {
    let queue = queue(rules());
    queue.push(command("a", 99), T0, U0).unwrap();
    assert_eq!(queue.purge(T0, U0), 1);
    assert_eq!(states(&queue, T0), [(1, CommandState::Purged, 0)]);
}

#[test]
fn a_lock_token_reads_as_dot_net_writes_it() {
    let bytes: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    assert_eq!(
        LockToken(bytes).to_string(),
        "03020100-0504-0706-0809-0a0b0c0d0e0f"
    );
}
