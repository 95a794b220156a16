//! What the stub controller tells the rig's routers: identities, classes and
//! the row they stand in.

use super::{Rig, RigError, START_PATIENCE, router_label, router_name};
use crate::load::serves;
use crate::stub_controller::Table;
use caplane::pki::{self, Issued, Role};
use caplane_proto::v1::resource::Resource as Kind;
use caplane_proto::v1::{
    Allow, ClassKey, ClassRoute, Egress, GroupRoute, Identity, Membership, Neighbour, PolicyGroup,
    TransitRoute,
};
use caplane_wire::Label;

/// Policy group of everybody in the rig.
const POLICY: u32 = 1;
/// Agent numbers: senders share one identity, receivers have one each.
const SENDER_AGENT: u32 = 1;
const FIRST_RECEIVER_AGENT: u32 = 100;

impl Rig {
    pub(super) fn table(&self, n: usize, routers: usize) -> Table {
        let plan = &self.plan;
        let mut table = Table::new(router_label(n));
        table.put(Kind::Policy(PolicyGroup {
            id: POLICY,
            tenant: plan.tenant,
            allow: vec![Allow {
                tenant: plan.tenant,
                label: 0,
            }],
            reply_tenants: vec![plan.tenant],
            reply_all: false,
            priority_max: 6,
            rate: None,
            class_rates: Vec::new(),
        }));
        table.put(self.identity(&self.sender.uri, SENDER_AGENT, Vec::new(), Vec::new()));
        for (r, issued) in self.receivers.iter().enumerate() {
            let groups = if plan.fan_out {
                bits(&plan.classes)
            } else {
                Vec::new()
            };
            table.put(self.receiver(r, issued, groups));
        }
        if plan.fan_out {
            for label in bits(&plan.classes) {
                table.put(self.group(label, routers));
            }
            self.put_topology(&mut table, n, routers);
            return table;
        }
        for (k, class) in plan.classes.iter().enumerate() {
            let members =
                (0..plan.receivers).filter(|r| serves(*r, plan.receivers, k, plan.classes.len()));
            let egress = vec![Egress {
                router: router_label(routers - 1),
                weight: members.count() as u32,
            }];
            table.put(Kind::Class(ClassRoute {
                key: Some(ClassKey {
                    tenant: plan.tenant,
                    label: class.bits(),
                }),
                own: egress.clone(),
                subtree: egress,
            }));
        }
        self.put_topology(&mut table, n, routers);
        table
    }

    /// Makes receivers members of a group, beside the classes they serve, and waits until that is live everywhere.
    ///
    /// # Errors
    /// When a router refuses or does not answer in time.
    pub fn add_group(&self, label: Label, members: &[usize]) -> Result<(), RigError> {
        let generations: Vec<u64> = self
            .members
            .iter()
            .map(|router| {
                self.controller.edit_table(&router.name, |table| {
                    for r in members {
                        table.put(self.receiver(*r, &self.receivers[*r], vec![label.bits()]));
                    }
                    table.put(self.group(label.bits(), self.members.len()));
                })
            })
            .collect();
        for (router, generation) in self.members.iter().zip(generations) {
            let live = self
                .controller
                .wait_live(&router.name, generation, START_PATIENCE);
            self.runtime.block_on(live)?;
        }
        Ok(())
    }

    /// What is delivered at the last router to its members.
    fn group(&self, label: u32, routers: usize) -> Kind {
        Kind::Group(GroupRoute {
            label,
            tenant: self.plan.tenant,
            routers: vec![router_label(routers - 1)],
        })
    }

    /// Receiver `r` with the classes it serves; when everything goes to groups, none.
    fn receiver(&self, r: usize, issued: &Issued, groups: Vec<u32>) -> Kind {
        let plan = &self.plan;
        // Flow n asks for class n modulo their number: no flow asks for one beyond.
        let classes = (0..plan.classes.len().min(plan.flows))
            .filter(|k| !plan.fan_out && serves(r, plan.receivers, *k, plan.classes.len()))
            .map(|k| Membership {
                tenant: plan.tenant,
                label: plan.classes[k].bits(),
                weight: 1,
            })
            .collect();
        let agent = FIRST_RECEIVER_AGENT + r as u32;
        self.identity(&issued.uri, agent, classes, groups)
    }

    fn identity(&self, uri: &str, agent: u32, classes: Vec<Membership>, groups: Vec<u32>) -> Kind {
        Kind::Identity(Identity {
            uri: uri.to_owned(),
            agent: agent_label(agent),
            tenant: self.plan.tenant,
            policy: POLICY,
            classes,
            groups,
        })
    }

    /// Neighbours and next hops along the row; the lower number dials.
    fn put_topology(&self, table: &mut Table, n: usize, routers: usize) {
        for other in (0..routers).filter(|other| *other != n) {
            let next = if other > n { n + 1 } else { n - 1 };
            table.put(Kind::Transit(TransitRoute {
                router: router_label(other),
                next_hops: vec![router_label(next)],
                alternates: Vec::new(),
            }));
            if other == next {
                let role = pki::uri_of(pki::TRUST_DOMAIN, &Role::Router, &router_name(other));
                table.put(Kind::Neighbour(Neighbour {
                    router: router_label(other),
                    name: router_name(other),
                    uri: role.unwrap_or_default(),
                    address: self.members[other].listen.to_string(),
                    dial: n < other,
                    cost: 1,
                }));
            }
        }
    }
}

fn bits(labels: &[Label]) -> Vec<u32> {
    labels.iter().map(|label| label.bits()).collect()
}

fn agent_label(number: u32) -> u32 {
    Label::agent(number, 0)
        .expect("agent numbers here are below 2^24")
        .bits()
}
