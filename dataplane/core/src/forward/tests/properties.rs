//! Whatever the network sends: no panic, every message accounted for, and the same result in any split.

use core::time::Duration;

use bytes::BytesMut;
use caplane_wire::{Header, HeaderRepr, Kind, LANE_MESSAGE_MAX, Label, Messages};
use proptest::prelude::*;

use super::bed::*;
use crate::Now;
use crate::forward::{BulkEnd, BulkVerdict};

/// Router 1: agents 10 to 13 in slots 10 to 13, of classes and a group; routers 2 and 3 behind slots 102 and 103.
fn bed() -> Bed {
    let mut entries = vec![
        policy(1, &[1, 0], &[]),
        policy(0, &[0], &[1]),
        group_at(9, 1, &[1, 2]),
        class_at(1, "class:7", &[1, 2], &[1, 2]),
        class_at(0, "class:7.1", &[1], &[1]),
        class_at(1, "class:8", &[3], &[3]),
        agent_at(50, 1, &[(1, 2), (2, 3)]),
    ];
    entries.extend(link(2, &[2], &[3]));
    entries.extend(link(3, &[3], &[2]));
    for number in 10..14 {
        let tenant = number % 2;
        let class = if tenant == 1 { "class:7" } else { "class:7.1" };
        entries.push(identity(number, tenant, &[(class, 100)], &[9]));
        entries.push(agent_at(number, tenant, &[(1, 1)]));
    }
    let mut bed = Bed::new(table(1, entries));
    for number in 10..14 {
        bed.attach(number, number, 1);
    }
    bed.neighbour(102, 2);
    bed.neighbour(103, 3);
    bed
}

const SLOTS: [u32; 6] = [10, 11, 12, 13, 102, 103];

fn destination() -> impl Strategy<Value = Label> {
    let texts = [
        "class:7",
        "class:7.1",
        "class:7.1.2",
        "class:8",
        "class:9",
        "agent:10.1",
        "agent:11",
        "agent:50",
        "agent:50.2",
        "agent:99",
        "group:9",
        "group:1",
        "router:1",
        "router:2",
        "router:3",
        "router:9",
    ];
    prop_oneof![
        8 => prop::sample::select(texts.map(label).to_vec()),
        1 => any::<u32>().prop_map(Label::from_bits),
    ]
}

prop_compose! {
    fn header()(
        kind in prop::sample::select(vec![Kind::Data, Kind::Data, Kind::Receipt, Kind::Probe, Kind::Notice]),
        hop_limit in prop_oneof![Just(64u8), 0..3u8],
        flags in any::<u8>(),
        labels in (destination(), destination(), any::<bool>()),
        tenant in 0..3u32,
        source in prop::sample::select((10..14).map(|number| agent(number, 1)).collect::<Vec<_>>()),
        flow in any::<u64>(),
        payload_len in 0..200u32,
    ) -> HeaderRepr {
        let (requested_label, other, same) = labels;
        HeaderRepr {
            kind,
            class: CLASS,
            hop_limit,
            flags: caplane_wire::Flags::from_bits(flags),
            label: if same { requested_label } else { other },
            tenant,
            source_label: source,
            source_domain: 7,
            flow,
            payload_len,
            requested_label,
            ..HeaderRepr::default()
        }
    }
}

/// Takes everything out of every queue: messages by slot.
fn drain(bed: &mut Bed) -> Vec<Vec<Vec<u8>>> {
    SLOTS.iter().map(|slot| bed.slices(*slot).0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_survived(slot in prop::sample::select(SLOTS.to_vec()), bytes in prop::collection::vec(any::<u8>(), 0..400), version in any::<bool>()) {
        let mut bed = bed();
        let mut bytes = bytes;
        if let (true, Some(first)) = (version, bytes.first_mut()) {
            *first = 0x10 | (*first & 3);
        }
        let _ = bed.forwarder.lane(NOW, peer(slot), 0, CLASS, &mut BytesMut::from(&bytes[..]));
        bed.check();
        bed.forwarder.datagram(NOW, peer(slot), BytesMut::from(&bytes[..]));
        bed.check();
        if let BulkVerdict::Forward { to, .. } = bed.forwarder.bulk_open(NOW, peer(slot), CLASS, &mut bytes) {
            bed.check();
            bed.forwarder.bulk_end(to, BulkEnd::Cut, 0);
        }
        bed.check();
    }

    /// Any messages from anyone: each is forwarded, dropped or fanned out; what an instance gets comes from who it says.
    #[test]
    fn every_message_is_accounted_for(slot in prop::sample::select(SLOTS.to_vec()), headers in prop::collection::vec(header(), 1..20)) {
        let mut bed = bed();
        let mut bytes = Vec::new();
        for header in &headers {
            bytes.extend(Message(*header).bytes());
        }
        let progress = bed.forwarder.lane(NOW, peer(slot), 0, CLASS, &mut BytesMut::from(&bytes[..]));
        prop_assert_eq!(progress.map(|progress| progress.messages), Ok(headers.len() as u32));
        bed.check();
        let from_instance = slot < 100;
        for message in drain(&mut bed).into_iter().flatten() {
            let header = Header::new_unchecked(&message[..]);
            let made_here = header.source_label() == router(1);
            let honest = header.source_label() == agent(slot, 1) && header.kind() != Kind::Notice;
            prop_assert!(made_here || !from_instance || honest, "{:?}", header);
        }
        let counters = bed.forwarder.counters();
        prop_assert_eq!((counters.queued, counters.queued_bytes, counters.charged_bytes), (0, 0, 0));
    }

    /// All with affinity: without it the load decides, and how much of that is queued already depends on the split.
    #[test]
    fn any_split_gives_the_same(mut headers in prop::collection::vec(header(), 1..12), cuts in prop::collection::vec(1..200usize, 1..20)) {
        for header in &mut headers {
            header.flags = header.flags.with(caplane_wire::Flags::AFFINITY);
        }
        let bytes: Vec<u8> = headers.iter().flat_map(|header| Message(*header).bytes()).collect();
        let mut whole = bed();
        let _ = whole.forwarder.lane(NOW, peer(11), 0, CLASS, &mut BytesMut::from(&bytes[..]));
        let mut pieces = bed();
        let mut data = BytesMut::with_capacity(bytes.len());
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            data.extend_from_slice(now);
            rest = later;
            let _ = pieces.forwarder.lane(NOW, peer(11), 0, CLASS, &mut data);
            pieces.check();
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(data.is_empty());
        prop_assert_eq!(drain(&mut whole), drain(&mut pieces));
        prop_assert_eq!(whole.forwarder.counters().dropped, pieces.forwarder.counters().dropped);
    }

    /// One flipped bit anywhere in a good header: delivered, dropped or the end of the stream, and never from a source
    /// that it is not.
    #[test]
    fn a_flipped_bit_forges_nothing(bit in 0..384usize) {
        let mut bed = bed();
        let good = message(agent(11, 1), "class:7").set(|header| header.tenant = 1);
        let mut bytes = good.bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut data = BytesMut::from(&bytes[..]);
        let _ = bed.forwarder.lane(NOW, peer(11), 0, CLASS, &mut data);
        bed.check();
        for message in drain(&mut bed).into_iter().flatten() {
            let header = Header::new_unchecked(&message[..]);
            let source = header.source_label();
            prop_assert!(source == agent(11, 1) || source == router(1));
        }
    }

    /// Queues under any mixture of filling, draining and peers that come and go give back all they were charged.
    #[test]
    fn charges_return_to_zero(steps in prop::collection::vec((0..6usize, 0..8u8, header()), 1..200)) {
        let mut bed = bed();
        let mut now = NOW;
        let mut slab = BytesMut::with_capacity(64 << 10);
        for (at, step, mut header) in steps {
            now.mono += Duration::from_micros(700);
            let slot = SLOTS[at];
            match step {
                0 => drop(bed.slices(slot)),
                1 => {
                    let ready = |_, lane| lane != 1;
                    let out = bed.forwarder.dequeue(peer(slot), 100, ready);
                    let part = out.is_some_and(|out| {
                        let mut walk = Messages::new(&out.data, LANE_MESSAGE_MAX);
                        walk.by_ref().for_each(drop);
                        !walk.rest().is_empty()
                    });
                    if part {
                        // The rest of a group copy is next, on the same lane.
                        let rest = bed.forwarder.dequeue(peer(slot), 100, ready);
                        prop_assert_eq!(rest.map(|rest| rest.messages), Some(0));
                    }
                }
                2 if slot < 100 => {
                    bed.forwarder.peer_down(now, peer(slot));
                    bed.attach(slot, slot, 1);
                }
                _ => {
                    if slab.capacity() - slab.len() < 400 {
                        slab = BytesMut::with_capacity(64 << 10);
                    }
                    if slot < 100 {
                        header.source_label = agent(slot, 1);
                    }
                    slab.extend_from_slice(&Message(header).bytes());
                    let now: Now = now;
                    let _ = bed.forwarder.lane(now, peer(slot), u32::from(step), CLASS, &mut slab);
                }
            }
            bed.check();
        }
        drain(&mut bed);
        let counters = bed.forwarder.counters();
        prop_assert_eq!((counters.queued, counters.queued_bytes, counters.charged_bytes), (0, 0, 0));
    }
}
