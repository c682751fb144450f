//! Mutated packets: no panic, no endless loop, no progress without bytes taken.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Truncate(usize),
    Double(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = 0..80_usize;
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at.clone().prop_map(Mutation::Remove),
        at.clone().prop_map(Mutation::Truncate),
        at.prop_map(Mutation::Double),
    ]
}

fn apply(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let length = bytes.len();
        match *mutation {
            Mutation::Set(at, byte) if at < length => bytes[at] = byte,
            Mutation::Insert(at, byte) if at <= length => bytes.insert(at, byte),
            Mutation::Remove(at) if at < length => drop(bytes.remove(at)),
            Mutation::Truncate(at) => bytes.truncate(at),
            Mutation::Double(at) if at < length => bytes.extend_from_within(at..),
            _ => {}
        }
    }
    bytes
}

/// Runs a stream to its end, accepting a CONNECT; the number of steps is bounded by the bytes.
fn run(stage: Stage, bytes: &[u8]) {
    let mut session = session_at(stage);
    let (mut input, mut out) = (BytesMut::from(bytes), BytesMut::new());
    for _ in 0..=bytes.len() {
        let before = input.len();
        match session.next(&mut input, &mut out, Mono::default()) {
            Ok(Some(event)) => {
                assert!(input.len() < before, "an event took no bytes");
                if matches!(event, Event::Connect(_)) {
                    session.accept(None, &mut out, Mono::default());
                }
            }
            Ok(None) | Err(_) => {
                // Asking again must change nothing.
                let left = input.len();
                let _ = session.needed(&input);
                let again = session.next(&mut input, &mut out, Mono::default());
                assert!(matches!(again, Ok(None)) && input.len() == left);
                return;
            }
        }
    }
    panic!("more packets than bytes: {bytes:02x?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_vectors_never_panic_and_never_loop(
        pick in any::<prop::sample::Index>(),
        second in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 0..5),
    ) {
        let all: Vec<_> = vectors_311::VECTORS
            .iter()
            .chain(vectors_31::VECTORS)
            .chain(vectors_5::VECTORS)
            .collect();
        let (stage, line) = (pick.get(&all).1, pick.get(&all).2);
        let bytes = [assemble(line), assemble(second.get(&all).2)].concat();
        run(stage, &apply(bytes, &mutations));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_loop(
        stage in prop_oneof![Just(AWAIT), Just(V3), Just(V4), Just(V5)],
        first in prop_oneof![Just(0x10_u8), Just(0x30), Just(0x32), Just(0x82), any::<u8>()],
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let packet = [vec![first], varint(body.len()), body.clone(), body].concat();
        run(stage, &packet);
    }
}
