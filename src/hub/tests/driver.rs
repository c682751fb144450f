//! The driver of our own AMQP engine against the fake hub, which is another's.

use super::PATIENCE;
use super::fake::FakeHub;
use crate::amqp::sasl::{Mechanism, Sasl};
use crate::amqp::{Closed, Config, Message, Outcome, SendError, Side, receiver, sender};
use crate::hub::driver::{Ended, Handle, Link, LinkEvent, Session, Stage};
use bytes::Bytes;
use fe2o3_amqp::types::messaging::Outcome as Theirs;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Counts the writes that reach the socket.
#[derive(Debug)]
struct Counting(TcpStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// An open connection with one mapped session.
struct Rig {
    fake: FakeHub,
    handle: Handle,
    session: Session,
    task: JoinHandle<Ended>,
    writes: Arc<AtomicUsize>,
}

impl Rig {
    async fn start(idle: Option<Duration>) -> Self {
        Self::with(idle, PATIENCE).await
    }

    /// A peer that does not answer a DETACH for so long is cut.
    async fn with(idle: Option<Duration>, patience: Duration) -> Self {
        let fake = FakeHub::start().await;
        let stream = TcpStream::connect(("127.0.0.1", fake.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let writes = Arc::new(AtomicUsize::new(0));
        let mut config = Config::new(Side::Client, "gateway");
        config.sasl = Sasl::Client(Mechanism::Anonymous, None);
        config.idle_time_out = idle;
        let (handle, task) = Handle::new(Counting(stream, Arc::clone(&writes)), config, patience);
        let task = tokio::spawn(task);
        assert!(timeout(PATIENCE, handle.opened()).await.unwrap());
        let session = handle.begin().unwrap();
        assert!(timeout(PATIENCE, session.mapped()).await.unwrap());
        Self {
            fake,
            handle,
            session,
            task,
            writes,
        }
    }

    fn uplink(&self, device: &str) -> Link {
        let target = format!("/devices/{device}/messages/events");
        self.session.attach(sender("up", &target), 0).unwrap()
    }

    async fn ended(self) -> (Ended, Handle) {
        let ended = timeout(PATIENCE, self.task).await.expect("ends in time");
        (ended.unwrap(), self.handle)
    }
}

async fn next(link: &mut Link) -> LinkEvent {
    timeout(PATIENCE, link.next()).await.expect("in time")
}

/// Sends a small message, and waits for credit where there is none yet.
async fn send(link: &mut Link, token: u64) {
    let body = [0x00, 0x53, 0x75, 0xa0, 1, b'a' + token as u8];
    let message = Message {
        head: &body,
        body: Bytes::new(),
        settled: false,
        token,
    };
    loop {
        match link.send(&message) {
            Ok(_) => return,
            Err(SendError::WouldBlock) => loop {
                if let LinkEvent::Credit(_) = next(link).await {
                    break;
                }
            },
            Err(error) => panic!("{error}"),
        }
    }
}

async fn attached(link: &mut Link) {
    let event = next(link).await;
    assert!(matches!(event, LinkEvent::Attached(_)), "{event:?}");
}

#[tokio::test]
async fn messages_and_commands_are_settled_both_ways() {
    let rig = Rig::start(None).await;
    let mut up = rig.uplink("d1");
    let source = "/devices/d1/messages/devicebound";
    let mut down = rig.session.attach(receiver("down", source), 5).unwrap();
    attached(&mut up).await;
    attached(&mut down).await;
    for token in 0..3 {
        send(&mut up, token).await;
    }
    let mut accepted = Vec::new();
    while accepted.len() < 3 {
        match next(&mut up).await {
            LinkEvent::Outcome(token, Outcome::Accepted) => accepted.push(token),
            LinkEvent::Credit(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted, [0, 1, 2]);
    let bodies: Vec<_> = rig.fake.seen().accepted.into_iter().map(|t| t.2).collect();
    assert_eq!(bodies, [b"a", b"b", b"c"]);

    let outcome = rig.fake.command("d1", "on").await;
    let LinkEvent::Delivery {
        delivery, payload, ..
    } = next(&mut down).await
    else {
        panic!("no command");
    };
    assert!(payload.ends_with(b"on"), "{payload:?}");
    down.settle(delivery, &Outcome::Accepted).unwrap();
    let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
    assert!(matches!(outcome, Theirs::Accepted(_)), "{outcome:?}");

    // A command nobody took goes back when its link is dropped.
    let outcome = rig.fake.command("d1", "again").await;
    let event = timeout(PATIENCE, async {
        // Whatever is in the inbox stays there: only its arrival is awaited.
        while down.credit().unwrap() > 3 {
            tokio::task::yield_now().await;
        }
    });
    event.await.expect("the command arrives");
    drop(down);
    let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
    assert!(matches!(outcome, Theirs::Released(_)), "{outcome:?}");
    rig.handle.close(None);
    let (ended, _) = rig.ended().await;
    assert!(matches!(ended.closed, Closed::Local), "{ended:?}");
}

#[tokio::test]
async fn hundreds_of_links_are_attached_without_waiting_and_leave_nothing_behind() {
    let rig = Rig::start(None).await;
    let before = rig.writes.load(Ordering::SeqCst);
    let mut links: Vec<_> = (0..300).map(|n| rig.uplink(&format!("d{n}"))).collect();
    for link in &mut links {
        attached(link).await;
    }
    // The fake hub answers one by one; we ask all at once.
    let writes = rig.writes.load(Ordering::SeqCst) - before;
    assert!(writes <= 3, "{writes} writes for 300 attaches");
    assert_eq!(rig.handle.links(), 300);
    drop(links);
    timeout(PATIENCE, rig.handle.detached()).await.unwrap();
    assert_eq!(rig.handle.links(), 0);
    rig.fake.until(|seen| seen.detaches == 300).await;
    // Dropped before they are answered.
    drop(
        (0..20)
            .map(|n| rig.uplink(&format!("e{n}")))
            .collect::<Vec<_>>(),
    );
    let mut last = rig.uplink("last");
    attached(&mut last).await;
    let detach = |link: &mut Link| link.detach(None);
    detach(&mut last);
    assert!(matches!(next(&mut last).await, LinkEvent::Detached(None)));
    drop(last);
    rig.handle.close(None);
    let (ended, handle) = rig.ended().await;
    assert!(matches!(ended.closed, Closed::Local), "{ended:?}");
    assert_eq!(handle.links(), 0);
}

// On a worker, who wakes a task has it run next: the driver must wait for the others by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_many_devices_say_in_one_turn_is_one_write() {
    let rig = Rig::start(None).await;
    let mut links: Vec<_> = (0..100).map(|n| rig.uplink(&format!("d{n}"))).collect();
    for link in &mut links {
        attached(link).await;
        send(link, 0).await;
        while !matches!(next(link).await, LinkEvent::Outcome(0, Outcome::Accepted)) {}
    }
    let before = rig.writes.load(Ordering::SeqCst);
    // As many tasks, all ready at once.
    let gate = Arc::new(Barrier::new(links.len()));
    let devices: Vec<_> = links
        .into_iter()
        .map(|mut link| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                gate.wait().await;
                send(&mut link, 1).await;
                while !matches!(next(&mut link).await, LinkEvent::Outcome(1, _)) {}
                link
            })
        })
        .collect();
    let mut back = Vec::new();
    for device in devices {
        back.push(timeout(PATIENCE, device).await.unwrap().unwrap());
    }
    let writes = rig.writes.load(Ordering::SeqCst) - before;
    // One for the messages; a few FLOWs may follow the outcomes.
    assert!(writes <= 3, "{writes} writes for 100 messages");
    assert_eq!(rig.fake.seen().accepted.len(), 200);
}

#[tokio::test]
async fn a_message_is_taken_only_between_attached_and_the_end() {
    let rig = Rig::start(None).await;
    let mut link = rig.uplink("d1");
    let message = Message {
        head: &[0x00, 0x53, 0x75, 0xa0, 1, b'a'],
        ..Message::default()
    };
    assert_eq!(link.send(&message), Err(SendError::Stale), "too early");
    attached(&mut link).await;
    send(&mut link, 0).await;
    while !matches!(
        next(&mut link).await,
        LinkEvent::Outcome(0, Outcome::Accepted)
    ) {}
    rig.fake
        .detach_uplink("d1", "amqp:link:detach-forced", "moved")
        .await;
    while !matches!(next(&mut link).await, LinkEvent::Detached(Some(_))) {}
    assert_eq!(link.send(&message), Err(SendError::Stale), "too late");
    assert_eq!(rig.fake.seen().transfers.len(), 1);
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason_and_harms_no_neighbour() {
    let rig = Rig::start(None).await;
    let mut good = rig.uplink("good");
    attached(&mut good).await;
    rig.fake.deny(Some("amqp:not-found"));
    let mut bad = rig.uplink("bad");
    let error = loop {
        match next(&mut bad).await {
            LinkEvent::Refused(error) | LinkEvent::Detached(error) => break error,
            LinkEvent::Attached(_) | LinkEvent::Credit(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let condition = crate::amqp::fault::condition(&error.expect("a reason").condition);
    assert_eq!(condition, "amqp:not-found");
    // It has ended, and says so to whoever asks again.
    assert!(matches!(next(&mut bad).await, LinkEvent::Stopped));
    send(&mut good, 0).await;
    while !matches!(
        next(&mut good).await,
        LinkEvent::Outcome(0, Outcome::Accepted)
    ) {}
}

#[tokio::test]
async fn a_peer_that_stands_still_is_given_up_and_everybody_is_told() {
    let rig = Rig::start(Some(Duration::from_millis(300))).await;
    let mut link = rig.uplink("d1");
    attached(&mut link).await;
    send(&mut link, 0).await;
    while !matches!(
        next(&mut link).await,
        LinkEvent::Outcome(0, Outcome::Accepted)
    ) {}
    rig.fake.stall();
    // More than socket buffers hold: our writes are blocked as well, and bounded.
    let body = Bytes::from(vec![0x2e; 1 << 16]);
    let message = Message {
        head: &[0x00, 0x53, 0x75, 0xb0, 0, 1, 0, 0],
        body,
        settled: false,
        token: 1,
    };
    let sent = async {
        let mut sent = 0_u32;
        while link.send(&message).is_ok() {
            sent += 1;
            assert!(sent < 10_000, "no bound");
            tokio::task::yield_now().await;
        }
        sent
    };
    let sent = timeout(PATIENCE, sent).await.unwrap();
    let mut unknown = 0;
    let end = loop {
        match next(&mut link).await {
            LinkEvent::Outcome(1, Outcome::Unknown) => unknown += 1,
            LinkEvent::Credit(_) => {}
            other => break other,
        }
    };
    assert!(matches!(end, LinkEvent::Stopped), "{end:?}");
    assert_eq!(unknown, sent, "each message without outcome is told once");
    timeout(PATIENCE, rig.session.ended()).await.unwrap();
    let (ended, handle) = rig.ended().await;
    assert!(matches!(ended.closed, Closed::Idle), "{ended:?}");
    assert_eq!(handle.stage(), Stage::Over);
    assert!(handle.begin().is_err());
}

#[tokio::test]
async fn a_connection_that_is_cut_says_why() {
    let rig = Rig::start(None).await;
    let mut link = rig.uplink("d1");
    attached(&mut link).await;
    rig.handle.kill("tested");
    rig.handle.kill("too late");
    assert!(matches!(next(&mut link).await, LinkEvent::Stopped));
    let (ended, _) = rig.ended().await;
    assert!(matches!(ended.closed, Closed::Lost), "{ended:?}");
    assert_eq!(ended.killed, Some("tested"));

    let rig = Rig::start(None).await;
    rig.fake.kill();
    let (ended, handle) = rig.ended().await;
    assert!(ended.broken.is_some(), "{ended:?}");
    assert!(!handle.opened().await);

    let rig = Rig::start(None).await;
    rig.task.abort();
    timeout(PATIENCE, rig.session.ended()).await.unwrap();
    assert_eq!(rig.handle.stage(), Stage::Over);
}

#[tokio::test]
async fn a_session_that_ends_stops_its_links_and_blames_none() {
    let rig = Rig::start(None).await;
    let mut link = rig.uplink("d1");
    attached(&mut link).await;
    send(&mut link, 0).await;
    rig.fake.end_sessions();
    let end = loop {
        match next(&mut link).await {
            LinkEvent::Outcome(0, _) | LinkEvent::Credit(_) => {}
            other => break other,
        }
    };
    // The session's reason, which the fake hub gives, is not the link's.
    assert!(matches!(end, LinkEvent::Stopped), "{end:?}");
    timeout(PATIENCE, rig.session.ended()).await.unwrap();
    assert!(rig.session.attach(sender("up", "x"), 0).is_err());
    assert_eq!(rig.handle.stage(), Stage::Open);
}

#[tokio::test]
async fn a_link_dropped_before_its_answer_is_detached_after_it() {
    let rig = Rig::start(None).await;
    for round in 0..50 {
        let mut link = rig.uplink(&format!("d{round}"));
        if round % 2 == 0 {
            link.detach(None);
        }
        drop(link);
    }
    timeout(PATIENCE, rig.handle.detached()).await.unwrap();
    assert_eq!(rig.handle.links(), 0);
    // The fake hub holds each of them for a link that came and went.
    rig.fake
        .until(|seen| (seen.attaches, seen.detaches) == (50, 50))
        .await;
    assert!(rig.session.is_mapped());
}

#[tokio::test]
async fn a_peer_that_leaves_a_detach_unanswered_is_cut_and_one_that_answers_is_not() {
    let rig = Rig::with(None, Duration::from_millis(200)).await;
    for n in 0..20 {
        let mut link = rig.uplink(&format!("d{n}"));
        attached(&mut link).await;
        drop(link);
    }
    timeout(PATIENCE, rig.handle.detached()).await.unwrap();
    let mut link = rig.uplink("d1");
    attached(&mut link).await;
    let quiet = timeout(Duration::from_millis(400), rig.session.ended()).await;
    assert!(quiet.is_err(), "every detach was answered");
    rig.fake.stall();
    drop(link);
    let (ended, handle) = rig.ended().await;
    let why = ended.killed.expect("cut");
    assert!(why.contains("detach"), "{why}");
    timeout(PATIENCE, handle.detached()).await.unwrap();
}

#[tokio::test]
async fn a_blocked_connection_hears_who_cuts_it_and_what_is_overdue() {
    for cut in [true, false] {
        let rig = Rig::with(None, Duration::from_millis(200)).await;
        let mut link = rig.uplink("d1");
        attached(&mut link).await;
        rig.fake.stall();
        // More than socket buffers hold: writes are blocked, and nothing else wakes the task.
        let message = Message {
            head: &[0x00, 0x53, 0x75, 0xb0, 0, 1, 0, 0],
            body: Bytes::from(vec![0x2e; 1 << 16]),
            ..Message::default()
        };
        let mut refused = 0;
        while refused < 100 {
            refused = if link.send(&message).is_ok() {
                0
            } else {
                refused + 1
            };
            tokio::task::yield_now().await;
        }
        if cut {
            rig.handle.kill("tested");
        } else {
            drop(link);
        }
        let (ended, _) = rig.ended().await;
        assert_eq!(ended.killed.map(|why| why == "tested"), Some(cut));
    }
}
