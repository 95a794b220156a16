//! What should be, as one file: the entities that `caplane apply` sets and `caplane diff` compares.
//!
//! A file is parsed once into entities as the controller keeps them, defaults filled in, each once. Every fault says
//! file, line and column. Refuses to know what is there already ([`plan`] does) and how it is written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Kind;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::failure::{Exit, Failure};

pub mod plan;
mod policy;

#[cfg(test)]
mod tests;

/// The tenant of those who name none.
const SHARED: &str = "shared";
/// Weight of an agent that names none, as the controller has it.
const WEIGHT_DEFAULT: u32 = 100;
/// Cost of a link that names none, as the controller has it.
const COST_DEFAULT: u32 = 1;

/// How identities are written out: URIs as they are, names in the fabric's trust domain.
pub trait Names {
    /// URI of an agent of a tenant.
    ///
    /// # Errors
    /// What is wrong with the name.
    fn agent(&self, name: &str, tenant: &str) -> Result<String, String>;
    /// URI of a router.
    ///
    /// # Errors
    /// What is wrong with the name.
    fn router(&self, name: &str) -> Result<String, String>;
}

/// What should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Each once, in no order.
    pub entities: Vec<Kind>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    tenant: Vec<Tenant>,
    #[serde(default)]
    router: Vec<Router>,
    #[serde(default)]
    link: Vec<Link>,
    #[serde(default)]
    agent: Vec<Agent>,
    #[serde(default)]
    grant: Vec<Grant>,
    #[serde(default, rename = "override")]
    overrides: Vec<Override>,
    #[serde(default)]
    permission: Vec<Permission>,
    #[serde(default)]
    group: Vec<Group>,
    #[serde(default)]
    policy: Vec<policy::Policy>,
    #[serde(default)]
    policer: Vec<policy::Policer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tenant {
    name: Spanned<String>,
    #[serde(default)]
    policer: String,
    #[serde(default)]
    direct: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Router {
    name: Spanned<String>,
    uri: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    a: Spanned<String>,
    b: Spanned<String>,
    #[serde(default = "cost_default", deserialize_with = "cost")]
    cost: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Agent {
    agent: Spanned<String>,
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    card: Option<Spanned<PathBuf>>,
    #[serde(default = "weight_default", deserialize_with = "weight")]
    weight: u32,
    #[serde(default)]
    lease_seconds: u32,
    priority_max: Option<u32>,
    #[serde(default)]
    policy: String,
    #[serde(default)]
    locality: String,
    #[serde(default)]
    cost: u32,
    #[serde(default)]
    out_of_service: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    agent: Spanned<String>,
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    class: Spanned<String>,
    #[serde(default)]
    weight: u32,
    #[serde(default)]
    out_of_service: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    agent: Spanned<String>,
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    skill: String,
    class: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permission {
    from: Spanned<String>,
    to: String,
    class: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: Spanned<String>,
    #[serde(default = "shared", deserialize_with = "tenant")]
    tenant: String,
    #[serde(default)]
    agents: Vec<Spanned<String>>,
}

// Defaults of what is left out, and of what is 0 or empty: to the controller that says the same.

fn cost_default() -> u32 {
    COST_DEFAULT
}

fn cost<'de, D: Deserializer<'de>>(given: D) -> Result<u32, D::Error> {
    Ok(filled(u32::deserialize(given)?, 0, cost_default))
}

fn weight_default() -> u32 {
    WEIGHT_DEFAULT
}

fn weight<'de, D: Deserializer<'de>>(given: D) -> Result<u32, D::Error> {
    Ok(filled(u32::deserialize(given)?, 0, weight_default))
}

fn shared() -> String {
    SHARED.to_owned()
}

fn tenant<'de, D: Deserializer<'de>>(given: D) -> Result<String, D::Error> {
    Ok(filled(String::deserialize(given)?, String::new(), shared))
}

fn filled<T: PartialEq>(given: T, nothing: T, default: fn() -> T) -> T {
    if given == nothing { default() } else { given }
}

/// A fault and the byte where it is.
struct Fault {
    offset: usize,
    text: String,
}

impl Fault {
    fn at<T>(place: &Spanned<T>, text: impl Into<String>) -> Self {
        Self {
            offset: place.span().start,
            text: text.into(),
        }
    }
}

impl Manifest {
    /// Reads a file; paths in it are taken from its folder.
    ///
    /// # Errors
    /// [`Failure`] with file, line and column.
    pub fn load(path: &Path, names: &dyn Names) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!("cannot read {}: {error}", path.display());
            Failure::new(Exit::Usage, text)
        })?;
        Self::parse(&text, path, names)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`Failure`] with file, line and column.
    pub fn parse(text: &str, path: &Path, names: &dyn Names) -> Result<Self, Failure> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let raw: Result<Raw, Fault> = toml::from_str(text).map_err(|error| Fault {
            offset: error.span().map_or(0, |span| span.start),
            text: error.message().to_owned(),
        });
        let manifest = raw.and_then(|raw| Reader { folder, names }.manifest(raw));
        manifest.map_err(|fault| {
            let (line, column) = place(text, fault.offset);
            let text = format!("{}:{line}:{column}: {}", path.display(), fault.text);
            Failure::new(Exit::Usage, text)
        })
    }
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}

struct Reader<'a> {
    folder: &'a Path,
    names: &'a dyn Names,
}

impl Reader<'_> {
    fn manifest(&self, raw: Raw) -> Result<Manifest, Fault> {
        let mut read: Vec<(usize, Kind)> = Vec::new();
        for tenant in raw.tenant {
            let kind = Kind::Tenant(v1::Tenant {
                name: tenant.name.get_ref().clone(),
                policer: tenant.policer,
                direct: tenant.direct,
                ..v1::Tenant::default()
            });
            read.push((tenant.name.span().start, kind));
        }
        for router in raw.router {
            read.push((router.name.span().start, self.router(router)?));
        }
        for link in raw.link {
            read.push((link.a.span().start, Kind::Link(ordered(link))));
        }
        for agent in raw.agent {
            read.push((agent.agent.span().start, self.agent(agent)?));
        }
        for grant in raw.grant {
            read.push((grant.agent.span().start, self.grant(grant)?));
        }
        for told in raw.overrides {
            read.push((told.agent.span().start, self.skill_override(told)?));
        }
        for permission in raw.permission {
            let place = permission.from.span().start;
            read.push((place, self.permission(permission)?));
        }
        for group in raw.group {
            read.push((group.name.span().start, self.group(group)?));
        }
        for policy in raw.policy {
            let place = policy.name.span().start;
            read.push((place, Kind::Policy(policy.entity()?)));
        }
        for policer in raw.policer {
            let place = policer.name.span().start;
            read.push((place, Kind::Policer(policer.entity()?)));
        }
        let mut seen = BTreeSet::new();
        for (offset, kind) in &read {
            let key = plan::key(kind);
            if !seen.insert(key.clone()) {
                return Err(Fault {
                    offset: *offset,
                    text: format!("{} {} stands twice in the file", key.noun(), key.name()),
                });
            }
        }
        let entities = read.into_iter().map(|(_, kind)| kind).collect();
        Ok(Manifest { entities })
    }

    fn uri(&self, agent: &Spanned<String>, tenant: &str) -> Result<String, Fault> {
        let uri = self.names.agent(agent.get_ref(), tenant);
        uri.map_err(|text| Fault::at(agent, text))
    }

    fn router(&self, router: Router) -> Result<Kind, Fault> {
        let uri = match router.uri {
            Some(uri) => uri,
            None => self
                .names
                .router(router.name.get_ref())
                .map_err(|text| Fault::at(&router.name, text))?,
        };
        Ok(Kind::Router(v1::Router {
            name: router.name.into_inner(),
            uri,
            ..v1::Router::default()
        }))
    }

    fn agent(&self, agent: Agent) -> Result<Kind, Fault> {
        let card = match &agent.card {
            None => Vec::new(),
            Some(card) => {
                let path = self.folder.join(card.get_ref());
                std::fs::read(&path).map_err(|error| {
                    Fault::at(card, format!("cannot read {}: {error}", path.display()))
                })?
            }
        };
        Ok(Kind::Agent(v1::Agent {
            uri: self.uri(&agent.agent, &agent.tenant)?,
            card,
            tenant: agent.tenant,
            weight: agent.weight,
            lease_seconds: agent.lease_seconds,
            priority_max: agent.priority_max,
            policy: agent.policy,
            locality: agent.locality,
            cost: agent.cost,
            out_of_service: agent.out_of_service,
            ..v1::Agent::default()
        }))
    }

    fn grant(&self, grant: Grant) -> Result<Kind, Fault> {
        Ok(Kind::Grant(v1::Grant {
            agent_uri: self.uri(&grant.agent, &grant.tenant)?,
            class_path: class(&grant.class)?,
            weight: grant.weight,
            out_of_service: grant.out_of_service,
        }))
    }

    fn skill_override(&self, told: Override) -> Result<Kind, Fault> {
        Ok(Kind::Override(v1::SkillOverride {
            agent_uri: self.uri(&told.agent, &told.tenant)?,
            skill_id: told.skill,
            class_path: class(&told.class)?,
        }))
    }

    fn permission(&self, permission: Permission) -> Result<Kind, Fault> {
        Ok(Kind::Permission(v1::Permission {
            from: filled(permission.from.into_inner(), String::new(), shared),
            to: permission.to,
            class_path: permission
                .class
                .as_ref()
                .map(class)
                .transpose()?
                .unwrap_or_default(),
        }))
    }

    fn group(&self, group: Group) -> Result<Kind, Fault> {
        let members = group.agents.iter();
        let members: Result<BTreeSet<String>, Fault> = members
            .map(|agent| self.uri(agent, &group.tenant))
            .collect();
        Ok(Kind::Group(v1::Group {
            name: group.name.into_inner(),
            tenant: group.tenant,
            agent_uris: members?.into_iter().collect(),
            label: 0,
        }))
    }
}

/// The names in order, as the controller keeps them.
fn ordered(link: Link) -> v1::Link {
    let (a, b) = (link.a.into_inner(), link.b.into_inner());
    let (a, b) = if a <= b { (a, b) } else { (b, a) };
    v1::Link {
        a,
        b,
        cost: link.cost,
    }
}

/// A class by path: a label says the same only as long as the taxonomy stays.
fn class(text: &Spanned<String>) -> Result<String, Fault> {
    if text.get_ref().contains(':') {
        let reason = "is a label; a file names classes by path (`caplane class list`)";
        return Err(Fault::at(
            text,
            format!("class {:?} {reason}", text.get_ref()),
        ));
    }
    Ok(text.get_ref().clone())
}
