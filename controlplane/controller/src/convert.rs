//! Table entries to and from the southbound API's messages.
//!
//! Both sides name the same fields; this is the only place that knows both.

use caplane_core::fib::{Egress, Entry, EntryKey, Membership, Rate};
use caplane_proto::v1;
use caplane_proto::v1::resource::Resource as ResourceBody;
use caplane_proto::v1::resource_key::Key;
use caplane_wire::Label;

/// An entry as routers get it.
#[must_use]
pub fn resource(entry: &Entry, version: u64) -> v1::Resource {
    let bits = |labels: &[Label]| labels.iter().map(|label| label.bits()).collect();
    let body = match entry {
        Entry::Class(e) => ResourceBody::Class(v1::ClassRoute {
            key: Some(v1::ClassKey {
                tenant: e.tenant,
                label: e.label.bits(),
            }),
            own: e.own.iter().map(egress).collect(),
            subtree: e.subtree.iter().map(egress).collect(),
        }),
        Entry::Agent(e) => ResourceBody::Agent(v1::AgentRoute {
            label: e.label.bits(),
            tenant: e.tenant,
            instances: e
                .instances
                .iter()
                .map(|at| v1::InstanceAt {
                    instance: at.instance.into(),
                    router: at.router.bits(),
                    weight: at.weight,
                })
                .collect(),
        }),
        Entry::Group(e) => ResourceBody::Group(v1::GroupRoute {
            label: e.label.bits(),
            tenant: e.tenant,
            routers: bits(&e.routers),
        }),
        Entry::Identity(e) => ResourceBody::Identity(v1::Identity {
            uri: e.uri.clone(),
            agent: e.agent.bits(),
            tenant: e.tenant,
            policy: e.policy,
            classes: e.classes.iter().map(membership).collect(),
            groups: bits(&e.groups),
        }),
        Entry::Policy(e) => ResourceBody::Policy(v1::PolicyGroup {
            id: e.id,
            tenant: e.tenant,
            allow: e
                .allow
                .iter()
                .map(|allow| v1::Allow {
                    tenant: allow.tenant,
                    label: allow.label.bits(),
                })
                .collect(),
            reply_tenants: e.reply_tenants.clone(),
            reply_all: e.reply_all,
            priority_max: e.priority_max.into(),
            rate: e.rate.as_ref().map(rate),
            class_rates: e
                .class_rates
                .iter()
                .map(|limit| v1::ClassRate {
                    tenant: limit.tenant,
                    label: limit.label.bits(),
                    rate: Some(rate(&limit.rate)),
                })
                .collect(),
        }),
        Entry::Transit(e) => ResourceBody::Transit(v1::TransitRoute {
            router: e.router.bits(),
            next_hops: bits(&e.next_hops),
            alternates: bits(&e.alternates),
        }),
        Entry::Neighbour(e) => ResourceBody::Neighbour(v1::Neighbour {
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
        resource: Some(body),
    }
}

fn rate(rate: &Rate) -> v1::Rate {
    v1::Rate {
        messages_per_second: rate.messages_per_second,
        bytes_per_second: rate.bytes_per_second,
        burst_ms: rate.burst_ms,
    }
}

fn egress(egress: &Egress) -> v1::Egress {
    v1::Egress {
        router: egress.router.bits(),
        weight: egress.weight,
    }
}

fn membership(membership: &Membership) -> v1::Membership {
    v1::Membership {
        tenant: membership.tenant,
        label: membership.label.bits(),
        weight: membership.weight,
    }
}

/// A key as routers get it, and as the change log is stored.
#[must_use]
pub fn resource_key(key: &EntryKey) -> v1::ResourceKey {
    let key = match key {
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
    };
    v1::ResourceKey { key: Some(key) }
}

/// The key that a message names; `None` when it names nothing.
#[must_use]
pub fn entry_key(key: &v1::ResourceKey) -> Option<EntryKey> {
    Some(match key.key.as_ref()? {
        Key::Class(class) => EntryKey::Class {
            tenant: class.tenant,
            label: Label::from_bits(class.label),
        },
        Key::Agent(bits) => EntryKey::Agent(Label::from_bits(*bits)),
        Key::Group(bits) => EntryKey::Group(Label::from_bits(*bits)),
        Key::Identity(uri) => EntryKey::Identity(uri.clone()),
        Key::Policy(id) => EntryKey::Policy(*id),
        Key::Transit(bits) => EntryKey::Transit(Label::from_bits(*bits)),
        Key::Neighbour(bits) => EntryKey::Neighbour(Label::from_bits(*bits)),
    })
}
