//! Resources of a table, short to write.

use caplane_proto::v1;
use caplane_proto::v1::resource::Resource as Content;
use caplane_wire::Label;

pub fn label(text: &str) -> u32 {
    text.parse::<Label>().unwrap().bits()
}

fn resource(content: Content) -> v1::Resource {
    v1::Resource {
        version: 1,
        resource: Some(content),
    }
}

/// Policy group 1 of tenant 0: everything of tenant 0, priority 6.
pub fn policy() -> v1::Resource {
    resource(Content::Policy(v1::PolicyGroup {
        id: 1,
        tenant: 0,
        allow: vec![v1::Allow {
            tenant: 0,
            label: 0,
        }],
        reply_tenants: vec![],
        reply_all: false,
        priority_max: 6,
        rate: None,
        class_rates: Vec::new(),
    }))
}

/// An identity of tenant 0 that serves `classes`.
pub fn identity(uri: &str, agent: u32, classes: &[&str]) -> v1::Resource {
    resource(Content::Identity(v1::Identity {
        uri: uri.into(),
        agent: label(&format!("agent:{agent}")),
        tenant: 0,
        policy: 1,
        classes: classes
            .iter()
            .map(|class| v1::Membership {
                tenant: 0,
                label: label(class),
                weight: 100,
            })
            .collect(),
        groups: vec![],
    }))
}

pub fn identity_key(uri: &str) -> v1::ResourceKey {
    v1::ResourceKey {
        key: Some(v1::resource_key::Key::Identity(uri.into())),
    }
}

/// A class with members at one router.
pub fn class_at(class: &str, router: u32) -> v1::Resource {
    let egress = vec![v1::Egress {
        router: label(&format!("router:{router}")),
        weight: 100,
    }];
    resource(Content::Class(v1::ClassRoute {
        key: Some(v1::ClassKey {
            tenant: 0,
            label: label(class),
        }),
        own: egress.clone(),
        subtree: egress,
    }))
}

/// An agent with one instance, by the instance's label.
pub fn agent_at(instance: Label, router: u32) -> v1::Resource {
    resource(Content::Agent(v1::AgentRoute {
        label: instance.any_instance().bits(),
        tenant: 0,
        instances: vec![v1::InstanceAt {
            instance: u32::from(instance.instance()),
            router: label(&format!("router:{router}")),
            weight: 100,
        }],
    }))
}

/// A neighbour and the route to it.
pub fn link_to(router: u32, address: &str, dial: bool) -> Vec<v1::Resource> {
    let far = label(&format!("router:{router}"));
    vec![
        resource(Content::Neighbour(v1::Neighbour {
            router: far,
            name: format!("r{router}"),
            uri: format!("spiffe://caplane.local/router/r{router}"),
            address: address.into(),
            dial,
            cost: 1,
        })),
        resource(Content::Transit(v1::TransitRoute {
            router: far,
            next_hops: vec![far],
            alternates: vec![],
        })),
    ]
}
