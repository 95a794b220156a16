//! Resolve from the router's own table: label text only. Paths, identities and free text
//! need the taxonomy, which the controller has.

use caplane_core::Fib;
use caplane_core::fib::IdentityEntry;
use caplane_proto::v1;
use caplane_proto::v1::resolve::Target;
use caplane_wire::{Label, LabelKind};

/// Answers `query` for `asker`, leaving out what it may not reach; `None` = ask the controller.
pub(crate) fn from_table(
    fib: &Fib,
    asker: &IdentityEntry,
    query: &v1::Resolve,
) -> Option<v1::Resolved> {
    // What agents say of themselves is not in the table.
    let (Some(Target::Path(text)), None) = (&query.target, &query.constraints) else {
        return None;
    };
    let label: Label = text.parse().ok()?;
    let mut candidates = match label.kind() {
        LabelKind::Class => class(fib, asker, label),
        LabelKind::Agent => agent(fib, label),
        LabelKind::Group => group(fib, label),
        // Routers are no destinations of instances.
        LabelKind::Router => Vec::new(),
    };
    candidates.retain(|c| fib.allows(asker.policy, c.tenant, label));
    if label.kind() == LabelKind::Class && candidates.iter().any(|c| c.members > 0) {
        candidates.retain(|c| c.members > 0);
    }
    let limit = if query.limit == 0 { 5 } else { query.limit };
    candidates.truncate(limit as usize);
    Some(v1::Resolved {
        query_id: query.query_id,
        candidates,
        error: String::new(),
        generation: fib.generation().0,
    })
}

/// An answer that says why there is none.
pub(crate) fn failed(query_id: u64, generation: u64, error: impl Into<String>) -> v1::Resolved {
    v1::Resolved {
        query_id,
        candidates: Vec::new(),
        error: error.into(),
        generation,
    }
}

fn candidate(label: Label, tenant: u32, name: String, members: usize) -> v1::Candidate {
    v1::Candidate {
        label: label.bits(),
        tenant,
        name,
        caption: String::new(),
        score: 1.0,
        matched_by: "label".to_owned(),
        members: members as u32,
        ..v1::Candidate::default()
    }
}

/// The asker's own tenant, then the shared one. The table knows egress routers and not their
/// members, so `members` is the number of routers: at least that many instances.
fn class(fib: &Fib, asker: &IdentityEntry, label: Label) -> Vec<v1::Candidate> {
    let mut tenants = vec![asker.tenant];
    if asker.tenant != 0 {
        tenants.push(0);
    }
    tenants
        .into_iter()
        .map(|tenant| {
            let routers = fib
                .class(tenant, label)
                .map_or(0, |entry| entry.subtree.len());
            candidate(label, tenant, label.to_string(), routers)
        })
        .collect()
}

fn agent(fib: &Fib, label: Label) -> Vec<v1::Candidate> {
    let Some(entry) = fib.agent(label.any_instance()) else {
        return Vec::new();
    };
    let wanted = label.instance();
    let members = entry
        .instances
        .iter()
        .filter(|i| wanted == 0 || i.instance == wanted)
        .count();
    let name = fib
        .identity_of(label.any_instance())
        .map_or_else(|| label.to_string(), |identity| identity.uri.clone());
    vec![candidate(label, entry.tenant, name, members)]
}

fn group(fib: &Fib, label: Label) -> Vec<v1::Candidate> {
    fib.group(label)
        .map(|entry| candidate(label, entry.tenant, label.to_string(), entry.routers.len()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use caplane_core::fib::{
        AgentEntry, Allow, ClassEntry, Delta, Egress, Entry, Generation, InstanceAt, PolicyEntry,
    };

    const TENANT: u32 = 3;

    fn identity(agent: u32) -> IdentityEntry {
        IdentityEntry {
            uri: format!("spiffe://caplane.local/tenant/t/agent/{agent}"),
            agent: Label::agent(agent, 0).unwrap(),
            tenant: TENANT,
            policy: 30,
            classes: vec![],
            groups: vec![],
        }
    }

    fn fib() -> Fib {
        let router = Label::router(1).unwrap();
        let class = |tenant, label| {
            Entry::Class(ClassEntry {
                tenant,
                label,
                own: vec![],
                subtree: vec![Egress { router, weight: 1 }],
            })
        };
        let upserts = vec![
            Entry::Policy(PolicyEntry {
                id: 30,
                tenant: TENANT,
                allow: vec![
                    Allow {
                        tenant: 0,
                        label: Label::NONE,
                    },
                    Allow {
                        tenant: TENANT,
                        label: Label::NONE,
                    },
                ],
                reply_tenants: vec![],
                reply_all: false,
                priority_max: 6,
                rate: None,
                class_rates: vec![],
            }),
            Entry::Identity(identity(1)),
            Entry::Identity(identity(2)),
            Entry::Agent(AgentEntry {
                label: Label::agent(2, 0).unwrap(),
                tenant: TENANT,
                instances: vec![
                    InstanceAt {
                        instance: 5,
                        router,
                        weight: 1,
                    },
                    InstanceAt {
                        instance: 6,
                        router,
                        weight: 1,
                    },
                ],
            }),
            class(0, "class:7.12".parse().unwrap()),
            class(9, "class:8".parse().unwrap()),
        ];
        Fib::empty(0, router)
            .apply(&Delta {
                base: Generation(0),
                generation: Generation(4),
                upserts,
                removes: vec![],
            })
            .map_err(|e| e[0].to_string())
            .unwrap()
    }

    fn ask(text: &str) -> Option<v1::Resolved> {
        let query = v1::Resolve {
            query_id: 77,
            target: Some(Target::Path(text.into())),
            limit: 0,
            ..v1::Resolve::default()
        };
        from_table(&fib(), &identity(1), &query)
    }

    #[test]
    fn a_class_label_is_found_in_the_shared_tenant() {
        let answer = ask("class:7.12").unwrap();
        assert_eq!((answer.query_id, answer.generation), (77, 4));
        assert_eq!(answer.candidates.len(), 1);
        assert_eq!(answer.candidates[0].tenant, 0);
        assert_eq!(answer.candidates[0].members, 1);
    }

    #[test]
    fn an_agent_label_names_its_identity_and_counts_its_instances() {
        let answer = ask("agent:2").unwrap();
        assert_eq!(answer.candidates[0].name, identity(2).uri);
        assert_eq!(answer.candidates[0].members, 2);
        assert_eq!(ask("agent:2.6").unwrap().candidates[0].members, 1);
        assert!(ask("agent:99").unwrap().candidates.is_empty());
    }

    #[test]
    fn paths_text_and_constraints_go_to_the_controller() {
        assert!(ask("travel/hotels/book_hotel").is_none());
        let constrained = v1::Resolve {
            target: Some(Target::Path("class:7.12".into())),
            constraints: Some(v1::Constraints::default()),
            ..v1::Resolve::default()
        };
        assert!(from_table(&fib(), &identity(1), &constrained).is_none());
        let text = v1::Resolve {
            query_id: 1,
            target: Some(Target::Text("class:7".into())),
            limit: 0,
            ..v1::Resolve::default()
        };
        assert!(from_table(&fib(), &identity(1), &text).is_none());
    }
}
