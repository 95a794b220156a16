//! One rule of SPEC.md at a time, on a messenger alone.

use std::time::Duration;

use bytes::BytesMut;
use caplane_wire::extension::Extension;
use caplane_wire::{
    Flags, HeaderRepr, Kind, Label, Notice, NoticeCode, TrafficClass, receipt::receipt,
};
use proptest::prelude::*;

use super::*;
use crate::address::Destination;
use crate::error::CloseReason;
use crate::options::{Carrier, FlowOptions};

const FLOW: u64 = 0x1234_5678_9abc_def0;

struct Bench {
    messenger: Messenger<u32>,
    now: Now,
    tickets: u32,
}

impl Bench {
    fn new(destination: Destination, options: FlowOptions) -> Self {
        let limits = Limits {
            lanes_per_class: 2,
            dedup_flows_max: 64,
            receipts_max: 4,
            resend: ResendBounds::default(),
        };
        let mut messenger = Messenger::new(limits, Jitter::seeded(1));
        messenger.attached(Me {
            address: me(),
            epoch: 1,
        });
        messenger.open_flow(FLOW, destination, options);
        Self {
            messenger,
            now: Now {
                mono: Duration::from_secs(100),
                unix_us: 5_000_000,
            },
            tickets: 0,
        }
    }

    fn to_class() -> Self {
        Self::new(class(), FlowOptions::default())
    }

    fn submit(&mut self, mode: Mode, bytes: usize) -> u32 {
        self.tickets += 1;
        let submission = Submission {
            payload: vec![7; bytes].into(),
            mode,
            ticket: (mode != Mode::Forget).then_some(self.tickets),
            charge: bytes + 256,
        };
        self.messenger.submit(self.now, FLOW, submission);
        self.tickets
    }

    fn sent(&mut self) -> Vec<HeaderRepr> {
        let lanes = (0..self.messenger.lane_count()).map(Queue::Lane);
        let queues: Vec<Queue> = lanes.chain([Queue::Bulk, Queue::Datagram]).collect();
        let mut sent = Vec::new();
        for queue in queues {
            while let Some(out) = self.messenger.next(self.now, queue) {
                if queue == Queue::Bulk {
                    self.messenger.bulk_written(self.now, out.tag);
                }
                if let Queue::Lane(lane) = queue {
                    assert_eq!(self.messenger.lane_class(lane), out.class);
                }
                let header = caplane_wire::Header::new_checked(out.head.as_bytes()).unwrap();
                sent.push(HeaderRepr::parse(&header));
            }
        }
        sent
    }

    fn after(&mut self, wait: Duration) {
        self.now.mono += wait;
        self.now.unix_us += wait.as_micros() as u64;
        self.messenger.tick(self.now);
    }

    fn receive(&mut self, header: HeaderRepr, rest: &[u8]) -> Disposition {
        let mut bytes = BytesMut::from(&header.to_bytes()[..]);
        bytes.extend_from_slice(rest);
        let total = bytes.len();
        self.messenger
            .receive(self.now, CarriedBy::Lane, &mut bytes, total, true)
    }

    fn receipt_from(&mut self, of: &HeaderRepr, from: Label) {
        let bytes = of.to_bytes();
        let header = caplane_wire::Header::new_checked(&bytes).unwrap();
        let receipt = receipt(&header, from, 5);
        self.receive(receipt, &[]);
    }

    fn notice(&mut self, of: &HeaderRepr, code: NoticeCode, router: Label) {
        let notice = Notice {
            code,
            router,
            offending: of.to_bytes(),
        };
        let mut bytes = BytesMut::from(&notice.to_message(5)[..]);
        let total = bytes.len();
        self.messenger
            .receive(self.now, CarriedBy::Lane, &mut bytes, total, true);
    }

    fn outcomes(&mut self) -> Vec<(u32, Result<Settled, SendError>)> {
        self.messenger
            .drain_effects()
            .filter_map(|effect| match effect {
                Effect::Settled { ticket, outcome } => Some((ticket, outcome)),
                Effect::Event(_) => None,
            })
            .collect()
    }
}

fn me() -> Address {
    Address {
        domain: 5,
        label: Label::agent(1, 1).unwrap(),
    }
}

fn other(instance: u8) -> Label {
    Label::agent(2, instance).unwrap()
}

fn class() -> Destination {
    Destination::new(Label::class(7, 12, 0).unwrap(), 9)
}

fn router() -> Label {
    Label::router(3).unwrap()
}

/// A data message of another instance to us.
fn data(sequence: u32, payload: usize) -> HeaderRepr {
    HeaderRepr {
        flags: Flags::AFFINITY | Flags::RECEIPT,
        label: me().label,
        requested_label: me().label,
        source_label: other(1),
        source_domain: 5,
        flow: 99,
        sequence,
        payload_len: payload as u32,
        ..HeaderRepr::default()
    }
}

#[test]
fn a_message_is_sent_again_with_growing_waits_until_its_receipt() {
    let mut bench = Bench::to_class();
    let ticket = bench.submit(Mode::Receipt, 10);
    let first = bench.sent();
    assert_eq!(first.len(), 1);
    assert!(first[0].flags.contains(Flags::RECEIPT | Flags::AFFINITY));
    bench.after(Duration::from_millis(900));
    assert!(bench.sent().is_empty());
    bench.after(Duration::from_millis(300));
    assert_eq!(bench.sent(), first, "the same message, bit for bit");
    bench.after(Duration::from_millis(1_900));
    assert!(bench.sent().is_empty(), "the wait has doubled");
    bench.after(Duration::from_millis(500));
    assert_eq!(bench.sent(), first);
    bench.receipt_from(&first[0], other(1));
    let outcomes = bench.outcomes();
    let [(settled, Ok(Settled::Receipt(receipt)))] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(
        (*settled, receipt.attempts, receipt.from.label),
        (ticket, 3, other(1))
    );
    assert_eq!(bench.messenger.take_released(), 266);
    assert!(!bench.messenger.is_busy());
    bench.after(Duration::from_secs(60));
    assert!(bench.sent().is_empty());
}

#[test]
fn without_a_receipt_the_sender_learns_so_at_its_deadline() {
    let mut bench = Bench::new(
        class(),
        FlowOptions::default().receipt_timeout(Duration::from_secs(3)),
    );
    bench.submit(Mode::Receipt, 10);
    bench.sent();
    for _ in 0..4 {
        bench.after(Duration::from_millis(800));
        bench.sent();
    }
    let outcomes = bench.outcomes();
    assert!(
        matches!(
            outcomes[..],
            [(1, Err(SendError::NoReceipt { attempts: 2, .. }))]
        ),
        "{outcomes:?}"
    );
    assert!(!bench.messenger.is_busy());
}

#[test]
fn the_first_receipt_pins_and_the_tenant_goes_with_the_class() {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Receipt, 10);
    let first = bench.sent().remove(0);
    assert_eq!((first.requested_label, first.tenant), (class().label, 9));
    bench.receipt_from(&first, other(4));
    bench.submit(Mode::Receipt, 10);
    let second = bench.sent().remove(0);
    assert_eq!(
        (second.requested_label, second.label, second.tenant),
        (other(4), other(4), 0)
    );
    assert_eq!((second.sequence, second.destination_domain), (1, 5));
}

#[test]
fn without_affinity_nothing_pins() {
    let mut bench = Bench::new(class(), FlowOptions::default().affinity(false));
    bench.submit(Mode::Receipt, 10);
    let first = bench.sent().remove(0);
    assert!(!first.flags.contains(Flags::AFFINITY));
    bench.receipt_from(&first, other(4));
    bench.submit(Mode::Receipt, 10);
    assert_eq!(bench.sent()[0].requested_label, class().label);
}

fn pinned() -> (Bench, Vec<HeaderRepr>) {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Receipt, 10);
    let first = bench.sent().remove(0);
    bench.receipt_from(&first, other(4));
    for _ in 0..3 {
        bench.submit(Mode::Receipt, 10);
    }
    let sent = bench.sent();
    bench.outcomes();
    (bench, sent)
}

#[test]
fn unreachable_unpins_and_sends_what_waits_to_the_class_at_once() {
    let (mut bench, sent) = pinned();
    bench.notice(&sent[1], NoticeCode::Unreachable, router());
    let again = bench.sent();
    let sequences: Vec<u32> = again.iter().map(|header| header.sequence).collect();
    assert_eq!(
        sequences,
        [1, 2, 3],
        "all that went to the lost instance, in order"
    );
    assert!(
        again
            .iter()
            .all(|h| h.requested_label == class().label && h.tenant == 9)
    );
    bench.notice(&sent[2], NoticeCode::Unreachable, router());
    assert_eq!(bench.sent().len(), 1, "late notice: that one only");
    bench.receipt_from(&again[0], other(6));
    bench.submit(Mode::Receipt, 1);
    assert_eq!(bench.sent()[0].requested_label, other(6), "pinned anew");
}

#[test]
fn a_pin_that_policy_denies_is_never_tried_again() {
    let (mut bench, sent) = pinned();
    bench.notice(&sent[0], NoticeCode::PolicyDenied, router());
    let again = bench.sent();
    assert!(again.iter().all(|h| h.requested_label == class().label));
    bench.receipt_from(&again[0], other(4));
    bench.submit(Mode::Receipt, 1);
    assert_eq!(bench.sent()[0].requested_label, class().label);
    assert!(bench.outcomes().iter().all(|(_, outcome)| outcome.is_ok()));
}

#[test]
fn a_silent_instance_is_let_go_after_three_resends() {
    let (mut bench, _) = pinned();
    let mut targets = Vec::new();
    for _ in 0..120 {
        bench.after(Duration::from_millis(100));
        targets.extend(bench.sent().into_iter().map(|h| h.requested_label));
    }
    assert_eq!(&targets[..3], [other(4); 3], "three resends of the oldest");
    assert_eq!(&targets[3..6], [class().label; 3], "then all go elsewhere");
}

#[test]
fn what_waits_behind_the_oldest_is_not_sent_again_with_it() {
    let mut bench = Bench::to_class();
    for _ in 0..100 {
        bench.submit(Mode::Receipt, 10);
    }
    let sent = bench.sent();
    // A queue on the way holds them: four seconds of silence.
    let mut again = Vec::new();
    for _ in 0..40 {
        bench.after(Duration::from_millis(100));
        again.extend(bench.sent());
    }
    assert_eq!(again, [sent[0], sent[0]], "the oldest after 1 s and 3 s");
    // Then receipts trickle in, one each 0.9 s, and while they do nothing is sent again.
    for message in &sent[..50] {
        bench.receipt_from(message, other(4));
        for _ in 0..9 {
            bench.after(Duration::from_millis(100));
            let again = bench.sent();
            assert!(again.is_empty(), "{again:?}");
        }
    }
}

#[test]
fn what_a_later_receipt_passed_by_is_sent_again() {
    let mut bench = Bench::to_class();
    for _ in 0..10 {
        bench.submit(Mode::Receipt, 10);
    }
    let sent = bench.sent();
    bench.after(Duration::from_millis(20));
    for message in [0, 1, 2, 5, 6, 7, 8, 9] {
        bench.receipt_from(&sent[message], other(4));
    }
    bench.after(Duration::from_millis(100));
    assert!(bench.sent().is_empty(), "it may have taken another way");
    bench.after(Duration::from_millis(130));
    let again: Vec<u32> = bench.sent().iter().map(|h| h.sequence).collect();
    assert_eq!(again, [3, 4]);
}

#[test]
fn when_the_copy_of_the_oldest_alone_is_receipted_all_are_sent_again() {
    let mut bench = Bench::new(class(), FlowOptions::default());
    for _ in 0..10 {
        bench.submit(Mode::Receipt, 10);
    }
    bench.sent();
    bench.after(Duration::from_millis(1_200));
    let again = bench.sent();
    assert_eq!(again.len(), 1);
    bench.after(Duration::from_millis(20));
    bench.receipt_from(&again[0], other(4));
    bench.after(Duration::from_millis(1_900));
    assert!(bench.sent().is_empty(), "they may only be late");
    bench.after(Duration::from_millis(200));
    let again: Vec<u32> = bench.sent().iter().map(|h| h.sequence).collect();
    assert_eq!(again, (1..10).collect::<Vec<_>>());
}

#[test]
fn nothing_is_sent_again_while_its_lane_holds_it() {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Receipt, 10);
    let lane = (0..bench.messenger.lane_count())
        .find(|lane| bench.messenger.has(Queue::Lane(*lane)))
        .unwrap();
    let sent = bench.sent();
    bench.messenger.lane_is_clear(bench.now, lane, false);
    for _ in 0..50 {
        bench.after(Duration::from_millis(100));
        bench.messenger.lane_is_clear(bench.now, lane, false);
        assert!(bench.sent().is_empty());
    }
    bench.messenger.lane_is_clear(bench.now, lane, true);
    bench.after(Duration::from_millis(900));
    assert!(bench.sent().is_empty(), "its time begins now");
    bench.after(Duration::from_millis(1_400));
    assert_eq!(bench.sent(), sent);
}

#[test]
fn notices_end_what_they_should_and_only_routers_may_send_them() {
    for code in NoticeCode::ALL {
        let mut bench = Bench::to_class();
        bench.submit(Mode::Receipt, 10);
        let sent = bench.sent().remove(0);
        bench.notice(&sent, code, other(1));
        assert!(bench.outcomes().is_empty());
        assert_eq!(bench.messenger.counters().forged_notices, 1);
        let of_another = HeaderRepr {
            source_label: other(3),
            ..sent
        };
        bench.notice(&of_another, code, router());
        assert!(bench.outcomes().is_empty());
        assert_eq!(bench.messenger.counters().unmatched, 1);
        bench.notice(&sent, code, router());
        let outcomes = bench.outcomes();
        if code.stops_resend() {
            assert!(
                matches!(outcomes[..], [(1, Err(SendError::Refused { code: c, .. }))] if c == code)
            );
        } else {
            assert!(outcomes.is_empty(), "{code}");
            bench.after(Duration::from_millis(1_200));
            assert_eq!(bench.sent().len(), 1, "{code}: the timer runs on");
        }
    }
}

#[test]
fn a_request_is_receipted_then_answered() {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Request, 1_000);
    let sent = bench.sent().remove(0);
    bench.receipt_from(&sent, other(1));
    assert_eq!(
        bench.messenger.take_released(),
        1_000,
        "its payload is free"
    );
    bench.after(Duration::from_secs(10));
    assert!(bench.sent().is_empty(), "no resend after the receipt");
    let reply = HeaderRepr {
        label: me().label,
        requested_label: me().label,
        source_label: other(1),
        source_domain: 5,
        flags: Flags::AFFINITY | Flags::RECEIPT,
        payload_len: 3,
        ..sent
    };
    let stranger = HeaderRepr {
        source_label: router(),
        ..reply
    };
    assert!(matches!(
        bench.receive(stranger, b"bad"),
        Disposition::Deliver(_)
    ));
    assert!(matches!(
        bench.receive(reply, b"yes"),
        Disposition::Consumed
    ));
    let outcomes = bench.outcomes();
    let [(1, Ok(Settled::Reply(received)))] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(&received.payload[..], b"yes");
    assert_eq!(bench.messenger.take_released(), 256);
    // The reply comes again because its receipt was lost: confirmed, not delivered.
    assert!(matches!(
        bench.receive(reply, b"yes"),
        Disposition::Consumed
    ));
    let receipts = bench.sent();
    assert_eq!(
        receipts.iter().filter(|h| h.kind == Kind::Receipt).count(),
        3
    );
    assert!(bench.outcomes().is_empty());
}

#[test]
fn a_reply_after_the_timeout_is_neither_delivered_nor_confirmed() {
    let mut bench = Bench::new(
        class(),
        FlowOptions::default().request_timeout(Duration::from_secs(1)),
    );
    bench.submit(Mode::Request, 10);
    let sent = bench.sent().remove(0);
    bench.after(Duration::from_secs(2));
    assert!(matches!(
        bench.outcomes()[..],
        [(
            1,
            Err(SendError::NoReply {
                receipted: false,
                ..
            })
        )]
    ));
    let reply = HeaderRepr {
        source_label: other(1),
        flags: Flags::RECEIPT,
        payload_len: 1,
        ..sent
    };
    assert!(matches!(bench.receive(reply, b"x"), Disposition::Consumed));
    assert!(bench.sent().is_empty());
    assert_eq!(bench.messenger.counters().late_replies, 1);
}

#[test]
fn the_window_holds_back_what_runs_too_far_ahead() {
    let mut bench = Bench::to_class();
    for _ in 0..1_500 {
        bench.submit(Mode::Receipt, 1);
    }
    bench.submit(Mode::Forget, 1);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1_023);
    for header in &sent[1..] {
        bench.receipt_from(header, other(1));
    }
    assert!(bench.sent().is_empty(), "the oldest still waits");
    bench.receipt_from(&sent[0], other(1));
    let rest = bench.sent();
    assert_eq!(rest.len(), 478);
    assert_eq!(rest.last().unwrap().sequence, 1_500);
}

#[test]
fn one_bulk_message_of_a_flow_at_a_time() {
    let mut bench = Bench::to_class();
    for mode in [Mode::Forget, Mode::Receipt, Mode::Receipt] {
        bench.submit(mode, 70_000);
    }
    bench.submit(Mode::Forget, 10);
    let sent = bench.sent();
    let lengths: Vec<u32> = sent.iter().map(|h| h.payload_len).collect();
    assert_eq!(lengths, [10, 70_000]);
    assert!(sent[1].flags.contains(Flags::RECEIPT), "it paces the next");
    bench.after(Duration::from_millis(1_200));
    assert!(bench.sent().is_empty(), "a long message may take longer");
    bench.after(Duration::from_millis(2_400));
    let next = bench.sent();
    assert_eq!(next.len(), 1, "given up, not sent again");
    assert_eq!(next[0].sequence, 2);
    bench.receipt_from(&next[0], other(1));
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_lost_link_sends_again_first_what_was_under_way() {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Receipt, 1);
    bench.submit(Mode::Receipt, 2);
    bench.sent();
    bench.submit(Mode::Receipt, 3);
    bench.messenger.link_lost(1);
    assert!(bench.sent().is_empty(), "nobody to send as");
    let moved = Address {
        label: Label::agent(1, 2).unwrap(),
        ..me()
    };
    bench.messenger.attached(Me {
        address: moved,
        epoch: 2,
    });
    let sent = bench.sent();
    let sequences: Vec<u32> = sent.iter().map(|h| h.sequence).collect();
    assert_eq!(sequences, [0, 1, 2]);
    assert!(sent.iter().all(|h| h.source_label == moved.label));
}

#[test]
fn duplicates_are_confirmed_again_and_not_delivered() {
    let mut bench = Bench::to_class();
    assert!(matches!(
        bench.receive(data(0, 1), b"a"),
        Disposition::Deliver(_)
    ));
    assert!(matches!(
        bench.receive(data(0, 1), b"a"),
        Disposition::Consumed
    ));
    assert!(matches!(
        bench.receive(data(2_000, 1), b"a"),
        Disposition::Deliver(_)
    ));
    assert!(matches!(
        bench.receive(data(1, 1), b"a"),
        Disposition::Consumed
    ));
    let receipts = bench.sent();
    assert_eq!(receipts.len(), 4, "too old counts as delivered");
    assert!(receipts.iter().all(|h| {
        h.kind == Kind::Receipt
            && h.source_label == me().label
            && h.requested_label == other(1)
            && h.flags == Flags::NONE
            && h.payload_len == 0
    }));
    let counters = bench.messenger.counters();
    assert_eq!(
        (counters.delivered, counters.duplicates, counters.too_old),
        (2, 1, 1)
    );
}

#[test]
fn probes_and_group_copies_follow_their_own_rules() {
    let mut bench = Bench::to_class();
    let probe = HeaderRepr {
        kind: Kind::Probe,
        ..data(0, 0)
    };
    assert!(matches!(bench.receive(probe, b""), Disposition::Consumed));
    assert_eq!(bench.sent().len(), 1, "answered, not delivered");
    let copy = HeaderRepr {
        requested_label: Label::group(4).unwrap(),
        ..data(1, 0)
    };
    assert!(matches!(bench.receive(copy, b""), Disposition::Deliver(_)));
    assert!(bench.sent().is_empty(), "no receipt for a group copy");
}

#[test]
fn expired_and_not_understood_messages_are_dropped() {
    let mut bench = Bench::to_class();
    let mut deadline = [0; DEADLINE_LEN];
    Extension {
        kind: caplane_wire::extension::DEADLINE,
        value: &4_999_999_u64.to_be_bytes(),
    }
    .emit(&mut deadline)
    .unwrap();
    let late = HeaderRepr {
        extension_len: DEADLINE_LEN as u16,
        flags: Flags::DEADLINE | Flags::RECEIPT,
        ..data(0, 0)
    };
    assert!(matches!(
        bench.receive(late, &deadline),
        Disposition::Consumed
    ));
    let strange = HeaderRepr {
        extension_len: 4,
        ..data(1, 0)
    };
    assert!(matches!(
        bench.receive(strange, &[0x99, 0, 1, 0]),
        Disposition::Consumed
    ));
    assert!(matches!(
        bench.receive(strange, &[0x19, 0, 1, 0]),
        Disposition::Deliver(_)
    ));
    let counters = bench.messenger.counters();
    assert_eq!((counters.expired, counters.malformed), (1, 1));
}

#[test]
fn unsent_receipts_hold_deliveries_back() {
    let mut bench = Bench::to_class();
    for sequence in 0..4 {
        assert!(matches!(
            bench.receive(data(sequence, 0), b""),
            Disposition::Deliver(_)
        ));
    }
    assert!(matches!(
        bench.receive(data(4, 0), b""),
        Disposition::NoRoom
    ));
    assert_eq!(bench.sent().len(), 4);
    assert!(matches!(
        bench.receive(data(4, 0), b""),
        Disposition::Deliver(_)
    ));
}

#[test]
fn a_request_to_a_class_we_serve_ourselves_is_answered_within() {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Request, 3);
    let sent = bench.sent().remove(0);
    let Disposition::Deliver(received) = bench.receive(sent, &[7; 3]) else {
        panic!("our own request is delivered to us");
    };
    let reply = Submission {
        payload: "yes".into(),
        mode: Mode::Receipt,
        ticket: Some(50),
        charge: 300,
    };
    let (key, class) = (received.reply_key(), received.class);
    bench
        .messenger
        .submit_reply(bench.now, key, class, Duration::from_secs(1), reply);
    let outcomes = bench.outcomes();
    assert!(
        matches!(
            outcomes[..],
            [(50, Ok(Settled::Receipt(_))), (1, Ok(Settled::Reply(_)))]
        ),
        "{outcomes:?}"
    );
}

#[test]
fn datagrams_that_never_fit_fail_at_once() {
    let mut bench = Bench::new(class(), FlowOptions::default().carrier(Carrier::Datagram));
    bench.submit(Mode::Receipt, 5_000);
    let out = bench.messenger.next(bench.now, Queue::Datagram).unwrap();
    bench.messenger.too_large(out.tag, 5_048, 1_200);
    assert!(matches!(
        bench.outcomes()[..],
        [(
            1,
            Err(SendError::TooLarge {
                bytes: 5_048,
                max: 1_200
            })
        )]
    ));
    assert!(!bench.messenger.is_busy());
}

#[test]
fn closing_ends_every_wait_and_a_closed_flow_is_forgotten() {
    let mut bench = Bench::to_class();
    bench.submit(Mode::Receipt, 10);
    bench.submit(Mode::Request, 10);
    bench.submit(Mode::Forget, 10);
    bench.messenger.close(&CloseReason::Application);
    let outcomes = bench.outcomes();
    assert_eq!(outcomes.len(), 2);
    assert!(
        outcomes
            .iter()
            .all(|(_, outcome)| matches!(outcome, Err(SendError::Closed(_))))
    );

    let mut bench = Bench::to_class();
    bench.submit(Mode::Receipt, 10);
    bench.submit(Mode::Forget, 10);
    bench.messenger.close_flow(FLOW);
    assert_eq!(bench.messenger.flows.len(), 1, "something is under way");
    let sent = bench.sent();
    bench.receipt_from(&sent[0], other(1));
    assert!(bench.messenger.flows.is_empty());
}

proptest! {
    /// Nothing that the network sends makes it panic, and every message is taken whole or left whole.
    #[test]
    fn any_message_is_taken_whole_or_left_whole(
        kind in 0_u8..4,
        flags: u8,
        source: u32,
        requested: u32,
        own_flow: bool,
        sequence: u32,
        extension in prop::collection::vec(any::<u8>(), 0..40),
        payload in prop::collection::vec(any::<u8>(), 0..80),
        room: bool,
    ) {
        let mut bench = Bench::to_class();
        bench.submit(Mode::Request, 10);
        bench.submit(Mode::Receipt, 10);
        bench.sent();
        let header = HeaderRepr {
            kind: Kind::from_number(kind).unwrap(),
            class: TrafficClass::from_bits(flags),
            flags: Flags::from_bits(flags),
            source_label: Label::from_bits(source),
            source_domain: 5,
            requested_label: Label::from_bits(requested),
            flow: if own_flow { FLOW } else { 5 },
            sequence: sequence % 3,
            payload_len: payload.len() as u32,
            extension_len: extension.len() as u16,
            ..HeaderRepr::default()
        };
        let mut bytes = BytesMut::from(&header.to_bytes()[..]);
        bytes.extend_from_slice(&extension);
        bytes.extend_from_slice(&payload);
        let total = bytes.len();
        bytes.extend_from_slice(b"next");
        let taken = bench.messenger.receive(bench.now, CarriedBy::Lane, &mut bytes, total, room);
        match taken {
            Disposition::NoRoom => prop_assert_eq!(bytes.len(), total + 4),
            Disposition::Consumed => prop_assert_eq!(&bytes[..], b"next"),
            Disposition::Deliver(received) => {
                prop_assert_eq!(&bytes[..], b"next");
                prop_assert_eq!(&received.payload[..], &payload[..]);
            }
        }
        bench.sent();
        bench.after(Duration::from_secs(5));
        bench.sent();
    }
}
