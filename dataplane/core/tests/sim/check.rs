//! What must hold whatever happens: conservation at every node after every event; no way taken that no table of
//! the node ever named; order per flow and path; no router twice unless rerouted; nothing twice. Knows no network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caplane_core::Counters;
use caplane_core::Fib;
use caplane_core::forward::Carrier;
use caplane_wire::{
    Flags, HEADER_LEN, Header, Kind, LANE_MESSAGE_MAX, Label, LabelKind, Messages, Notice,
};

use crate::plan::router;

/// Source label, flow, sequence.
type Id = (u32, u64, u32);
type Path = Vec<(usize, Label)>;
type View<'a> = Header<&'a [u8]>;

#[derive(Default)]
pub struct Check {
    hash: u64,
    pub sent: BTreeSet<Id>,
    /// Nodes a unicast lane message was at, in order, and the label it had there.
    paths: BTreeMap<Id, Path>,
    /// Receivers of each message.
    pub delivered: BTreeMap<Id, Vec<usize>>,
    pub delivered_datagrams: u64,
    pub datagrams_lost: u64,
    /// Messages a source was told about, and how.
    pub noticed: BTreeMap<Id, u8>,
    last: BTreeMap<(usize, u32, u64, Path), u32>,
    /// Hops that lane messages still had at delivery.
    pub hops_left_min: u8,
}

fn id(header: &View<'_>) -> Id {
    (
        header.source_label().bits(),
        header.flow(),
        header.sequence(),
    )
}

fn is_group(header: &View<'_>) -> bool {
    header.requested_label().kind() == LabelKind::Group
}

impl Check {
    /// Folds what happened into the trace.
    pub fn trace(&mut self, words: &[u64]) {
        for word in words {
            self.hash = (self.hash ^ word)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23);
        }
    }

    pub fn trace_hash(&self) -> u64 {
        self.hash
    }

    pub fn sent(&mut self, message: &[u8]) {
        let header = Header::new_unchecked(message);
        assert!(
            self.sent.insert(id(&header)),
            "the load numbers its messages"
        );
        self.hops_left_min = u8::MAX;
    }

    pub fn conserved(&self, counters: &Counters) {
        assert_eq!(counters.imbalance(), 0, "{counters:?}");
    }

    /// Messages a node took from a peer (`from` = the node it came from) as they were on the wire.
    pub fn visit<'a>(
        &mut self,
        node: usize,
        from: Option<usize>,
        bytes: &[u8],
        carrier: Carrier,
        pushed: impl Fn(usize) -> &'a [Arc<Fib>],
    ) {
        for message in Messages::new(bytes, LANE_MESSAGE_MAX) {
            let message = message.expect("the node has read it");
            let header = Header::new_unchecked(message);
            self.trace(&[
                u64::from(header.label().bits()),
                header.flow(),
                u64::from(header.sequence()),
            ]);
            if let Some(from) = from {
                let by_hop = |fib: &Arc<Fib>| names_way(fib, node, &header);
                let came_by = pushed(from).iter().any(by_hop);
                assert!(
                    came_by,
                    "{from} -> {node}: no table of {from} ever said so: {header:?}"
                );
            }
            // The router before chose the egress router where it was the first, or rerouted.
            if let Some(chooser) = self.chooser(from, &header, carrier) {
                let chosen = pushed(chooser).iter().any(|fib| names_egress(fib, &header));
                assert!(
                    chosen,
                    "{chooser}: no table of it ever named that router: {header:?}"
                );
            }
            if header.kind() == Kind::Notice || is_group(&header) || carrier == Carrier::Datagram {
                continue;
            }
            let path = self.paths.entry(id(&header)).or_default();
            let rerouted = header.flags().contains(Flags::REROUTED);
            let again = path.iter().any(|(at, _)| *at == node);
            assert!(rerouted || !again, "{path:?} and {node} again: {header:?}");
            path.push((node, header.label()));
        }
    }

    /// The node that chose the egress router of a message that has just come from it.
    fn chooser(&self, from: Option<usize>, header: &View<'_>, carrier: Carrier) -> Option<usize> {
        let from = from?;
        if carrier == Carrier::Datagram || is_group(header) || header.kind() == Kind::Notice {
            return None;
        }
        let (at, label) = self.paths.get(&id(header))?.last()?;
        (*at == from && *label != header.label()).then_some(from)
    }

    /// Bytes on a lane to an instance: takes whole messages, says how many bytes and messages those were.
    pub fn read(&mut self, instance: usize, bytes: &[u8]) -> (usize, u64) {
        let mut messages = Messages::new(bytes, LANE_MESSAGE_MAX);
        let mut count = 0;
        for message in &mut messages {
            self.delivered(
                instance,
                message.expect("a delivered lane is sound"),
                Carrier::Lane,
            );
            count += 1;
        }
        (bytes.len() - messages.rest().len(), count)
    }

    pub fn delivered(&mut self, instance: usize, message: &[u8], carrier: Carrier) {
        let header = Header::new_unchecked(message);
        if header.kind() == Kind::Notice {
            let notice = Notice::parse(&message[HEADER_LEN..]).expect("routers make sound notices");
            let about = notice.offending();
            let about = (about.source_label().bits(), about.flow(), about.sequence());
            assert!(
                self.sent.contains(&about),
                "a notice about what was never sent"
            );
            self.noticed.insert(about, notice.code.number());
            return;
        }
        let id = id(&header);
        assert!(
            self.sent.contains(&id),
            "delivered and never sent: {header:?}"
        );
        payload_is_whole(message, &header);
        assert_eq!(
            header.label(),
            header.requested_label(),
            "the fabric label is off"
        );
        if carrier == Carrier::Datagram {
            self.delivered_datagrams += 1;
            return;
        }
        let receivers = self.delivered.entry(id).or_default();
        assert!(
            !receivers.contains(&instance),
            "twice at {instance}: {header:?}"
        );
        receivers.push(instance);
        if is_group(&header) {
            return;
        }
        assert_eq!(receivers.len(), 1, "at {receivers:?}: {header:?}");
        self.hops_left_min = self.hops_left_min.min(header.hop_limit());
        let path = self.paths.get(&id).cloned().unwrap_or_default();
        let key = (instance, id.0, id.1, path);
        if let Some(last) = self.last.insert(key, id.2) {
            assert!(last < id.2, "{} after {last}: {header:?}", id.2);
        }
    }
}

/// The load fills payloads from the sequence number.
pub fn payload_byte(sequence: u32, at: usize) -> u8 {
    sequence.to_be_bytes()[at % 4] ^ at as u8
}

fn payload_is_whole(message: &[u8], header: &View<'_>) {
    let payload = &message[HEADER_LEN + usize::from(header.extension_len())..];
    let sound = payload
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == payload_byte(header.sequence(), at));
    assert!(sound, "payload changed: {header:?}");
}

/// Does this table of the sender's lead the message to `node`?
fn names_way(fib: &Fib, node: usize, header: &View<'_>) -> bool {
    let label = header.label();
    let Some(transit) = fib.transit(label) else {
        return false;
    };
    let mut hops = transit.next_hops.iter().chain(&transit.alternates);
    hops.any(|hop| *hop == router(node))
}

/// Does this table name the router for what was asked, at any level?
pub fn names_egress(fib: &Fib, header: &View<'_>) -> bool {
    let (requested, label) = (header.requested_label(), header.label());
    match requested.kind() {
        LabelKind::Agent => {
            let agent = fib.agent(requested);
            agent.is_some_and(|agent| agent.instances.iter().any(|at| at.router == label))
        }
        LabelKind::Group => fib
            .group(requested)
            .is_some_and(|group| group.routers.contains(&label)),
        _ => std::iter::once(requested)
            .chain(requested.ancestors())
            .any(|class| {
                let serves = |tenant| names(fib, tenant, class, requested, label);
                serves(header.tenant()) || serves(0)
            }),
    }
}

fn names(fib: &Fib, tenant: u32, class: Label, requested: Label, router: Label) -> bool {
    let Some(entry) = fib.class(tenant, class) else {
        return false;
    };
    let members = if class == requested {
        entry.subtree
    } else {
        entry.own
    };
    members.iter().any(|member| member.router == router)
}
