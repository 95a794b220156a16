//! Who is attached to this router, under which instance number, and what of it
//! the controller has not been told yet.
//!
//! One register for all workers, behind a lock that is taken when an instance
//! comes or goes and never for a message. Refuses to know connections (a
//! [`PeerKey`] is only a name here), tables and the southbound session.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use bytes::Bytes;
use caplane_core::forward::PeerKey;
use caplane_proto::v1;
use caplane_wire::Label;

use crate::fnv::fnv1a;

/// Instance numbers of one agent: 1..=63 (0 names any instance).
const INSTANCES_PER_AGENT: u64 = 63;

/// An instance that wants a number.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Identity of its certificate.
    pub uri: String,
    /// Agent label, instance 0.
    pub agent: Label,
    /// Its name within the agent, valid by `control_frame::instance_name_valid`.
    pub instance_name: String,
    /// Card it offered, as it is; may be empty.
    pub card: Bytes,
    /// Its connection.
    pub peer: PeerKey,
}

/// What an arrival led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The instance's label.
    pub label: Label,
    /// The connection that had this name before; it is to be closed.
    pub replaced: Option<PeerKey>,
    /// Grows with every attachment: of two that claim one label the larger counts.
    pub serial: u64,
}

/// All 63 numbers of the agent are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all 63 instance numbers of this agent are in use; detach one first")]
pub struct InstanceLimit;

/// The register.
#[derive(Debug, Default)]
pub struct Attachments {
    attached: BTreeMap<u32, Entry>,
    /// Labels whose state the controller has not been told.
    changed: BTreeSet<u32>,
    /// What the controller believes: label -> serial of the entry it was told.
    told: HashMap<u32, Told>,
    serials: u64,
}

#[derive(Debug)]
struct Entry {
    arrival: Arrival,
    serial: u64,
    since: Instant,
}

#[derive(Debug)]
struct Told {
    serial: u64,
    attachment: v1::Attachment,
}

impl Attachments {
    /// Gives `arrival` its number: from its name's hash, the first one that is free here and not
    /// `taken_elsewhere` (bit n = number n is attached to another router). A name
    /// that is attached already keeps its number and replaces the older connection.
    ///
    /// # Errors
    ///
    /// [`InstanceLimit`] when no number is free.
    pub fn attach(
        &mut self,
        arrival: Arrival,
        taken_elsewhere: u64,
    ) -> Result<Attached, InstanceLimit> {
        let first = fnv1a(arrival.instance_name.as_bytes()) % INSTANCES_PER_AGENT;
        let labels = (0..INSTANCES_PER_AGENT).filter_map(|step| {
            let number = (first + step) % INSTANCES_PER_AGENT + 1;
            arrival.agent.with_instance(number as u8).ok()
        });
        let mut free = None;
        let mut same_name = None;
        for label in labels {
            match self.attached.get(&label.bits()) {
                Some(held) if held.arrival.instance_name == arrival.instance_name => {
                    same_name = Some(label);
                }
                Some(_) => {}
                None if free.is_none() && taken_elsewhere & (1 << label.instance()) == 0 => {
                    free = Some(label);
                }
                None => {}
            }
        }
        let label = same_name.or(free).ok_or(InstanceLimit)?;
        self.serials += 1;
        let entry = Entry {
            arrival,
            serial: self.serials,
            since: Instant::now(),
        };
        let replaced = self
            .attached
            .insert(label.bits(), entry)
            .map(|old| old.arrival.peer);
        self.changed.insert(label.bits());
        Ok(Attached {
            label,
            replaced,
            serial: self.serials,
        })
    }

    /// Forgets `label`, if it is still `peer`'s. Returns whether it was.
    pub fn detach(&mut self, label: Label, peer: PeerKey) -> bool {
        let ours = self
            .attached
            .get(&label.bits())
            .is_some_and(|held| held.arrival.peer == peer);
        if ours {
            self.attached.remove(&label.bits());
            self.changed.insert(label.bits());
        }
        ours
    }

    /// The connection of `label`.
    pub fn peer(&self, label: Label) -> Option<PeerKey> {
        self.attached.get(&label.bits()).map(|e| e.arrival.peer)
    }

    /// Instances attached now.
    pub fn len(&self) -> usize {
        self.attached.len()
    }

    /// True when nothing is attached.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Everything attached, as `SessionOpen` says it; from here on the controller counts as
    /// told. Cards stay out of that one message: instances that offered one
    /// are reported again, with it, by [`Attachments::report`].
    pub fn all(&mut self) -> Vec<v1::Attachment> {
        self.changed.clear();
        self.told.clear();
        let mut all = Vec::with_capacity(self.attached.len());
        for (&label, entry) in &self.attached {
            let attachment = key_of(label, entry);
            let whole = entry.arrival.card.is_empty();
            if !whole {
                self.changed.insert(label);
            }
            self.told.insert(
                label,
                Told {
                    serial: if whole { entry.serial } else { 0 },
                    attachment: attachment.clone(),
                },
            );
            all.push(attachment);
        }
        all
    }

    /// What changed since the controller was last told, up to about `bytes_max`; `None` when
    /// nothing (more) did. Changes that undid each other are not reported.
    pub fn report(&mut self, bytes_max: usize) -> Option<v1::AttachmentReport> {
        let mut report = v1::AttachmentReport::default();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(label) = self.changed.pop_first()
        {
            match self.attached.get(&label) {
                Some(entry) => {
                    if self
                        .told
                        .get(&label)
                        .is_some_and(|t| t.serial == entry.serial)
                    {
                        continue;
                    }
                    let told = key_of(label, entry);
                    let up = v1::Attachment {
                        agent_card: entry.arrival.card.to_vec(),
                        ..told.clone()
                    };
                    self.told.insert(
                        label,
                        Told {
                            serial: entry.serial,
                            attachment: told,
                        },
                    );
                    bytes += ATTACHMENT_BYTES + up.agent_card.len();
                    report.up.push(up);
                }
                None => {
                    if let Some(told) = self.told.remove(&label) {
                        bytes += ATTACHMENT_BYTES;
                        report.down.push(told.attachment);
                    }
                }
            }
        }
        (!report.up.is_empty() || !report.down.is_empty()).then_some(report)
    }
}

/// An attachment on the wire without its card: a URI, a name and a label, rounded up.
const ATTACHMENT_BYTES: usize = 512;

/// The attachment without its card: enough to say that it is there, or gone.
fn key_of(label: u32, entry: &Entry) -> v1::Attachment {
    v1::Attachment {
        uri: entry.arrival.uri.clone(),
        label,
        instance_name: entry.arrival.instance_name.clone(),
        agent_card: Vec::new(),
        age_ms: entry.since.elapsed().as_millis() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> PeerKey {
        PeerKey { worker: 0, slot }
    }

    fn arrival(name: &str, slot: u32) -> Arrival {
        Arrival {
            uri: "spiffe://caplane.local/tenant/a/agent/b".into(),
            agent: Label::agent(4711, 0).unwrap(),
            instance_name: name.into(),
            card: Bytes::new(),
            peer: peer(slot),
        }
    }

    fn first_choice(name: &str) -> u8 {
        (fnv1a(name.as_bytes()) % 63 + 1) as u8
    }

    #[test]
    fn the_number_follows_from_the_name() {
        let mut register = Attachments::default();
        let got = register.attach(arrival("pod-1", 1), 0).unwrap();
        assert_eq!(got.label.instance(), first_choice("pod-1"));
        assert_eq!(got.replaced, None);
        assert!(register.detach(got.label, peer(1)));
        let again = register.attach(arrival("pod-1", 2), 0).unwrap();
        assert_eq!(again.label, got.label);
    }

    #[test]
    fn a_taken_number_is_passed_over_here_and_elsewhere() {
        let mut register = Attachments::default();
        let first = first_choice("pod-1");
        let elsewhere = 1 << first;
        let got = register.attach(arrival("pod-1", 1), elsewhere).unwrap();
        assert_eq!(got.label.instance(), first % 63 + 1);
        // A second one whose first choice is the number just given probes on.
        let name = (0..)
            .map(|n| format!("other-{n}"))
            .find(|n| first_choice(n) == got.label.instance())
            .unwrap();
        let next = register.attach(arrival(&name, 2), elsewhere).unwrap();
        assert_eq!(next.label.instance(), got.label.instance() % 63 + 1);
    }

    #[test]
    fn the_same_name_replaces_the_older_connection_and_keeps_the_number() {
        let mut register = Attachments::default();
        let old = register.attach(arrival("pod-1", 1), 0).unwrap();
        let new = register.attach(arrival("pod-1", 2), 0).unwrap();
        assert_eq!(new.label, old.label);
        assert_eq!(new.replaced, Some(peer(1)));
        assert!(
            !register.detach(old.label, peer(1)),
            "the old one went late"
        );
        assert_eq!(register.peer(new.label), Some(peer(2)));
    }

    #[test]
    fn sixty_three_fit_and_no_more() {
        let mut register = Attachments::default();
        let mut seen = BTreeSet::new();
        for n in 0..63 {
            let got = register.attach(arrival(&format!("i{n}"), n), 0).unwrap();
            assert!(seen.insert(got.label.instance()));
        }
        assert!(register.attach(arrival("one-more", 99), 0).is_err());
        assert!(register.attach(arrival("i5", 100), 0).is_ok());
        assert!(!seen.contains(&0));
    }

    #[test]
    fn reports_say_what_changed_once_and_leave_out_what_was_undone() {
        let mut register = Attachments::default();
        let a = register.attach(arrival("a", 1), 0).unwrap().label;
        let report = register.report(1 << 20).unwrap();
        assert_eq!((report.up.len(), report.down.len()), (1, 0));
        assert_eq!(report.up[0].label, a.bits());
        assert!(register.report(1 << 20).is_none());
        let b = register.attach(arrival("b", 2), 0).unwrap().label;
        register.detach(b, peer(2));
        assert!(
            register.report(1 << 20).is_none(),
            "b came and went unreported"
        );
        register.detach(a, peer(1));
        let report = register.report(1 << 20).unwrap();
        assert_eq!(report.down[0].instance_name, "a");
    }

    #[test]
    fn a_replacement_is_reported_as_up_again() {
        let mut register = Attachments::default();
        register.attach(arrival("a", 1), 0).unwrap();
        assert_eq!(register.all().len(), 1);
        assert!(register.report(1 << 20).is_none());
        register.attach(arrival("a", 2), 0).unwrap();
        let report = register.report(1 << 20).unwrap();
        assert_eq!((report.up.len(), report.down.len()), (1, 0));
    }

    #[test]
    fn cards_follow_the_session_opening_and_large_reports_come_in_pieces() {
        let mut register = Attachments::default();
        for n in 0..3 {
            let mut arrival = arrival(&format!("i{n}"), n);
            arrival.card = Bytes::from(vec![b'{'; 1000]);
            register.attach(arrival, 0).unwrap();
        }
        let all = register.all();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|a| a.agent_card.is_empty()));
        let sizes: Vec<usize> = std::iter::from_fn(|| register.report(2_000))
            .map(|report| {
                report
                    .up
                    .iter()
                    .filter(|a| a.agent_card.len() == 1000)
                    .count()
            })
            .collect();
        assert_eq!(sizes, [2, 1]);
    }
}
