//! The southbound API's resources as core's entries, and back for the stored table.
//!
//! Only shape is checked here: numbers that do not fit, labels of the wrong kind,
//! resources without content. Whether an entry makes sense beside the others is
//! `caplane_core::Fib::apply`'s word.

use caplane_core::fib::{
    AgentEntry, Allow, ClassEntry, ClassRate, Delta, Egress, Entry, EntryKey, Generation,
    GroupEntry, IdentityEntry, InstanceAt, Membership, NeighbourEntry, PolicyEntry, Rate,
    Rejection, TransitEntry,
};
use caplane_proto::v1;
use caplane_proto::v1::resource::Resource as Content;
use caplane_proto::v1::resource_key::Key;
use caplane_wire::{Label, LabelKind};

/// Converts a whole update; `base` 0 = a snapshot.
///
/// # Errors
///
/// One [`Rejection`] per resource or key that cannot be converted.
pub fn delta(
    base: u64,
    generation: u64,
    upserts: Vec<v1::Resource>,
    removes: Vec<v1::ResourceKey>,
) -> Result<Delta, Vec<Rejection>> {
    let mut rejections = Vec::new();
    let mut delta = Delta {
        base: Generation(base),
        generation: Generation(generation),
        upserts: Vec::with_capacity(upserts.len()),
        removes: Vec::with_capacity(removes.len()),
    };
    for resource in upserts {
        match entry(resource) {
            Ok(entry) => delta.upserts.push(entry),
            Err(rejection) => rejections.push(rejection),
        }
    }
    for key in removes {
        match entry_key(key) {
            Ok(key) => delta.removes.push(key),
            Err(rejection) => rejections.push(rejection),
        }
    }
    if rejections.is_empty() {
        Ok(delta)
    } else {
        Err(rejections)
    }
}

/// Converts one resource.
///
/// # Errors
///
/// A [`Rejection`] with the resource's key, where it has one that can be read.
pub fn entry(resource: v1::Resource) -> Result<Entry, Rejection> {
    let Some(content) = resource.resource else {
        return Err(Rejection {
            key: None,
            reason: "a resource has no content, or one of a kind this router does not know"
                .to_owned(),
        });
    };
    match content {
        Content::Class(r) => class(r),
        Content::Agent(r) => agent(r),
        Content::Group(r) => group(r),
        Content::Identity(r) => identity(r),
        Content::Policy(r) => policy(r),
        Content::Transit(r) => transit(r),
        Content::Neighbour(r) => neighbour(r),
    }
}

/// Converts one key.
///
/// # Errors
///
/// A [`Rejection`] when the key is empty or of an unknown kind.
pub fn entry_key(key: v1::ResourceKey) -> Result<EntryKey, Rejection> {
    Ok(match key.key {
        Some(Key::Class(k)) => EntryKey::Class {
            tenant: k.tenant,
            label: Label::from_bits(k.label),
        },
        Some(Key::Agent(label)) => EntryKey::Agent(Label::from_bits(label)),
        Some(Key::Group(label)) => EntryKey::Group(Label::from_bits(label)),
        Some(Key::Identity(uri)) => EntryKey::Identity(uri),
        Some(Key::Policy(id)) => EntryKey::Policy(id),
        Some(Key::Transit(label)) => EntryKey::Transit(Label::from_bits(label)),
        Some(Key::Neighbour(label)) => EntryKey::Neighbour(Label::from_bits(label)),
        None => {
            return Err(Rejection {
                key: None,
                reason: "a key is empty, or of a kind this router does not know".to_owned(),
            });
        }
    })
}

/// A rejection as the controller is told it.
pub fn rejected(rejection: &Rejection) -> v1::Rejected {
    v1::Rejected {
        key: rejection.key.as_ref().map(|key| v1::ResourceKey {
            key: Some(match key {
                EntryKey::Class { tenant, label } => Key::Class(v1::ClassKey {
                    tenant: *tenant,
                    label: label.bits(),
                }),
                EntryKey::Agent(label) => Key::Agent(label.bits()),
                EntryKey::Group(label) => Key::Group(label.bits()),
                EntryKey::Identity(uri) => Key::Identity(uri.clone()),
                EntryKey::Policy(id) => Key::Policy(*id),
                EntryKey::Transit(label) => Key::Transit(label.bits()),
                EntryKey::Neighbour(label) => Key::Neighbour(label.bits()),
            }),
        }),
        reason: rejection.reason.clone(),
    }
}

/// One entry as a resource, for the stored table; `version` is the table's generation.
pub fn resource(entry: &Entry, version: u64) -> v1::Resource {
    let egress = |list: &[Egress]| {
        list.iter()
            .map(|e| v1::Egress {
                router: e.router.bits(),
                weight: e.weight,
            })
            .collect()
    };
    let bits = |list: &[Label]| list.iter().map(|label| label.bits()).collect();
    let content = match entry {
        Entry::Class(e) => Content::Class(v1::ClassRoute {
            key: Some(v1::ClassKey {
                tenant: e.tenant,
                label: e.label.bits(),
            }),
            own: egress(&e.own),
            subtree: egress(&e.subtree),
        }),
        Entry::Agent(e) => Content::Agent(v1::AgentRoute {
            label: e.label.bits(),
            tenant: e.tenant,
            instances: e
                .instances
                .iter()
                .map(|i| v1::InstanceAt {
                    instance: u32::from(i.instance),
                    router: i.router.bits(),
                    weight: i.weight,
                })
                .collect(),
        }),
        Entry::Group(e) => Content::Group(v1::GroupRoute {
            label: e.label.bits(),
            tenant: e.tenant,
            routers: bits(&e.routers),
        }),
        Entry::Identity(e) => Content::Identity(identity_resource(e)),
        Entry::Policy(e) => Content::Policy(policy_resource(e)),
        Entry::Transit(e) => Content::Transit(v1::TransitRoute {
            router: e.router.bits(),
            next_hops: bits(&e.next_hops),
            alternates: bits(&e.alternates),
        }),
        Entry::Neighbour(e) => Content::Neighbour(v1::Neighbour {
            router: e.router.bits(),
            name: e.name.clone(),
            uri: e.uri.clone(),
            address: e.address.clone(),
            dial: e.dial,
            cost: e.cost,
        }),
    };
    v1::Resource {
        version,
        resource: Some(content),
    }
}

fn identity_resource(e: &IdentityEntry) -> v1::Identity {
    let membership = |m: &Membership| v1::Membership {
        tenant: m.tenant,
        label: m.label.bits(),
        weight: m.weight,
    };
    v1::Identity {
        uri: e.uri.clone(),
        agent: e.agent.bits(),
        tenant: e.tenant,
        policy: e.policy,
        classes: e.classes.iter().map(membership).collect(),
        groups: e.groups.iter().map(|label| label.bits()).collect(),
    }
}

fn policy_resource(e: &PolicyEntry) -> v1::PolicyGroup {
    let allow = |a: &Allow| v1::Allow {
        tenant: a.tenant,
        label: a.label.bits(),
    };
    v1::PolicyGroup {
        id: e.id,
        tenant: e.tenant,
        allow: e.allow.iter().map(allow).collect(),
        reply_tenants: e.reply_tenants.clone(),
        reply_all: e.reply_all,
        priority_max: u32::from(e.priority_max),
        rate: e.rate.as_ref().map(rate_resource),
        class_rates: e.class_rates.iter().map(class_rate).collect(),
    }
}

fn rate_resource(rate: &Rate) -> v1::Rate {
    v1::Rate {
        messages_per_second: rate.messages_per_second,
        bytes_per_second: rate.bytes_per_second,
        burst_ms: rate.burst_ms,
    }
}

fn class_rate(limit: &ClassRate) -> v1::ClassRate {
    v1::ClassRate {
        tenant: limit.tenant,
        label: limit.label.bits(),
        rate: Some(rate_resource(&limit.rate)),
    }
}

/// Collects what is wrong with one entry, then speaks once.
struct Checked {
    key: EntryKey,
}

impl Checked {
    fn rejection(&self, reason: String) -> Rejection {
        Rejection {
            key: Some(self.key.clone()),
            reason,
        }
    }

    /// `bits` as a label of `kind`; `what` says where it stands.
    fn label(&self, bits: u32, kind: LabelKind, what: &str) -> Result<Label, Rejection> {
        let label = Label::from_bits(bits);
        if label.kind() != kind {
            return Err(self.rejection(format!(
                "{what} is {label}, expected a label of kind {kind:?}; recompile the table"
            )));
        }
        Ok(label)
    }

    fn labels(&self, all: &[u32], kind: LabelKind, what: &str) -> Result<Vec<Label>, Rejection> {
        all.iter()
            .map(|&bits| self.label(bits, kind, what))
            .collect()
    }

    fn egress(&self, all: &[v1::Egress]) -> Result<Vec<Egress>, Rejection> {
        all.iter()
            .map(|e| {
                Ok(Egress {
                    router: self.label(e.router, LabelKind::Router, "an egress router")?,
                    weight: e.weight,
                })
            })
            .collect()
    }

    fn small(&self, value: u32, max: u8, what: &str) -> Result<u8, Rejection> {
        u8::try_from(value)
            .ok()
            .filter(|&v| v <= max)
            .ok_or_else(|| self.rejection(format!("{what} is {value}, the largest is {max}")))
    }
}

fn class(r: v1::ClassRoute) -> Result<Entry, Rejection> {
    let Some(key) = r.key else {
        return Err(Rejection {
            key: None,
            reason: "a class route has no key".to_owned(),
        });
    };
    let label = Label::from_bits(key.label);
    let checked = Checked {
        key: EntryKey::Class {
            tenant: key.tenant,
            label,
        },
    };
    Ok(Entry::Class(ClassEntry {
        tenant: key.tenant,
        label: checked.label(key.label, LabelKind::Class, "the class")?,
        own: checked.egress(&r.own)?,
        subtree: checked.egress(&r.subtree)?,
    }))
}

fn agent(r: v1::AgentRoute) -> Result<Entry, Rejection> {
    let checked = Checked {
        key: EntryKey::Agent(Label::from_bits(r.label)),
    };
    let instances = r
        .instances
        .iter()
        .map(|i| {
            Ok(InstanceAt {
                instance: checked.small(i.instance, 63, "an instance number")?,
                router: checked.label(i.router, LabelKind::Router, "an instance's router")?,
                weight: i.weight,
            })
        })
        .collect::<Result<_, Rejection>>()?;
    Ok(Entry::Agent(AgentEntry {
        label: checked.label(r.label, LabelKind::Agent, "the agent")?,
        tenant: r.tenant,
        instances,
    }))
}

fn group(r: v1::GroupRoute) -> Result<Entry, Rejection> {
    let checked = Checked {
        key: EntryKey::Group(Label::from_bits(r.label)),
    };
    Ok(Entry::Group(GroupEntry {
        label: checked.label(r.label, LabelKind::Group, "the group")?,
        tenant: r.tenant,
        routers: checked.labels(&r.routers, LabelKind::Router, "a member's router")?,
    }))
}

fn identity(r: v1::Identity) -> Result<Entry, Rejection> {
    let checked = Checked {
        key: EntryKey::Identity(r.uri.clone()),
    };
    let classes = r
        .classes
        .iter()
        .map(|m| {
            Ok(Membership {
                tenant: m.tenant,
                label: checked.label(m.label, LabelKind::Class, "a class it serves")?,
                weight: m.weight,
            })
        })
        .collect::<Result<_, Rejection>>()?;
    Ok(Entry::Identity(IdentityEntry {
        agent: checked.label(r.agent, LabelKind::Agent, "its agent label")?,
        tenant: r.tenant,
        policy: r.policy,
        classes,
        groups: checked.labels(&r.groups, LabelKind::Group, "a group it belongs to")?,
        uri: r.uri,
    }))
}

fn policy(r: v1::PolicyGroup) -> Result<Entry, Rejection> {
    let checked = Checked {
        key: EntryKey::Policy(r.id),
    };
    Ok(Entry::Policy(PolicyEntry {
        id: r.id,
        tenant: r.tenant,
        allow: r
            .allow
            .iter()
            .map(|a| Allow {
                tenant: a.tenant,
                label: Label::from_bits(a.label),
            })
            .collect(),
        reply_tenants: r.reply_tenants,
        reply_all: r.reply_all,
        priority_max: checked.small(r.priority_max, 7, "priority_max")?,
        rate: r.rate.map(rate),
        class_rates: r
            .class_rates
            .iter()
            .map(|limit| {
                Ok(ClassRate {
                    tenant: limit.tenant,
                    label: checked.label(limit.label, LabelKind::Class, "a class with a rate")?,
                    rate: limit.rate.map(rate).unwrap_or_default(),
                })
            })
            .collect::<Result<_, Rejection>>()?,
    }))
}

fn rate(r: v1::Rate) -> Rate {
    Rate {
        messages_per_second: r.messages_per_second,
        bytes_per_second: r.bytes_per_second,
        burst_ms: r.burst_ms,
    }
}

fn transit(r: v1::TransitRoute) -> Result<Entry, Rejection> {
    let checked = Checked {
        key: EntryKey::Transit(Label::from_bits(r.router)),
    };
    Ok(Entry::Transit(TransitEntry {
        router: checked.label(r.router, LabelKind::Router, "the far router")?,
        next_hops: checked.labels(&r.next_hops, LabelKind::Router, "a next hop")?,
        alternates: checked.labels(&r.alternates, LabelKind::Router, "an alternate")?,
    }))
}

fn neighbour(r: v1::Neighbour) -> Result<Entry, Rejection> {
    let checked = Checked {
        key: EntryKey::Neighbour(Label::from_bits(r.router)),
    };
    if !r.address.is_empty()
        && let Err(cause) = crate::config::HostPort::parse(&r.address)
    {
        return Err(checked.rejection(format!("its address: {cause}")));
    }
    Ok(Entry::Neighbour(NeighbourEntry {
        router: checked.label(r.router, LabelKind::Router, "the neighbour")?,
        name: r.name,
        uri: r.uri,
        address: r.address,
        dial: r.dial,
        cost: r.cost,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(n: u32) -> Label {
        Label::router(n).unwrap()
    }

    fn one_of_each() -> Vec<Entry> {
        let agent = Label::agent(4711, 0).unwrap();
        let class = Label::class(7, 12, 3).unwrap();
        let group = Label::group(9).unwrap();
        vec![
            Entry::Class(ClassEntry {
                tenant: 3,
                label: class,
                own: vec![Egress {
                    router: router(2),
                    weight: 100,
                }],
                subtree: vec![Egress {
                    router: router(2),
                    weight: 200,
                }],
            }),
            Entry::Agent(AgentEntry {
                label: agent,
                tenant: 3,
                instances: vec![InstanceAt {
                    instance: 63,
                    router: router(2),
                    weight: 1,
                }],
            }),
            Entry::Group(GroupEntry {
                label: group,
                tenant: 3,
                routers: vec![router(1), router(2)],
            }),
            Entry::Identity(IdentityEntry {
                uri: "spiffe://caplane.local/tenant/a/agent/b".into(),
                agent,
                tenant: 3,
                policy: 30,
                classes: vec![Membership {
                    tenant: 3,
                    label: class,
                    weight: 100,
                }],
                groups: vec![group],
            }),
            Entry::Policy(PolicyEntry {
                id: 30,
                tenant: 3,
                allow: vec![
                    Allow {
                        tenant: 0,
                        label: Label::NONE,
                    },
                    Allow {
                        tenant: 3,
                        label: class,
                    },
                ],
                reply_tenants: vec![4],
                reply_all: true,
                priority_max: 6,
                rate: Some(Rate {
                    messages_per_second: 1_000,
                    bytes_per_second: 0,
                    burst_ms: 50,
                }),
                class_rates: vec![ClassRate {
                    tenant: 3,
                    label: class,
                    rate: Rate {
                        bytes_per_second: 1 << 20,
                        ..Rate::default()
                    },
                }],
            }),
            Entry::Transit(TransitEntry {
                router: router(3),
                next_hops: vec![router(2)],
                alternates: vec![router(4)],
            }),
            Entry::Neighbour(NeighbourEntry {
                router: router(2),
                name: "edge-2".into(),
                uri: "spiffe://caplane.local/router/edge-2".into(),
                address: "127.0.0.1:4433".into(),
                dial: true,
                cost: 10,
            }),
        ]
    }

    #[test]
    fn every_kind_survives_the_trip() {
        for original in one_of_each() {
            assert_eq!(entry(resource(&original, 5)), Ok(original.clone()));
            let key = rejected(&Rejection {
                key: Some(original.key()),
                reason: String::new(),
            })
            .key
            .unwrap();
            assert_eq!(entry_key(key), Ok(original.key()));
        }
    }

    #[test]
    fn all_faults_of_an_update_are_reported_with_their_keys() {
        let mut upserts: Vec<_> = one_of_each().iter().map(|e| resource(e, 5)).collect();
        if let Some(Content::Agent(agent)) = &mut upserts[1].resource {
            agent.instances[0].instance = 64;
        }
        if let Some(Content::Policy(policy)) = &mut upserts[4].resource {
            policy.priority_max = 8;
        }
        if let Some(Content::Neighbour(n)) = &mut upserts[6].resource {
            n.address = "nowhere".into();
        }
        upserts.push(v1::Resource {
            version: 5,
            resource: None,
        });
        let rejections = delta(4, 5, upserts, vec![v1::ResourceKey { key: None }]).unwrap_err();
        let keys: Vec<_> = rejections.iter().map(|r| r.key.clone()).collect();
        assert_eq!(
            keys,
            [
                Some(EntryKey::Agent(Label::agent(4711, 0).unwrap())),
                Some(EntryKey::Policy(30)),
                Some(EntryKey::Neighbour(router(2))),
                None,
                None
            ]
        );
        assert!(rejections[0].reason.contains("64"), "{}", rejections[0]);
    }

    #[test]
    fn a_label_of_the_wrong_kind_is_named() {
        let resource = v1::Resource {
            version: 1,
            resource: Some(Content::Transit(v1::TransitRoute {
                router: router(3).bits(),
                next_hops: vec![Label::group(9).unwrap().bits()],
                alternates: vec![],
            })),
        };
        let rejection = entry(resource).unwrap_err();
        assert!(rejection.reason.contains("group:9"), "{rejection}");
    }
}
