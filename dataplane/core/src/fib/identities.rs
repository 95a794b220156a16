//! Who may attach: identities by certificate URI and by agent, in copy-on-write shards. Refuses to
//! know who *is* attached.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use caplane_wire::Label;

use super::entry::IdentityEntry;
use crate::mix::{MixMap, MixState, mix64};

/// 1,024 shards: at 1 M identities a change copies about a thousand references.
pub(crate) const SHARDS: usize = 1_024;

#[derive(Clone)]
struct ByUri(Arc<IdentityEntry>);

impl Borrow<str> for ByUri {
    fn borrow(&self) -> &str {
        &self.0.uri
    }
}

impl PartialEq for ByUri {
    fn eq(&self, other: &ByUri) -> bool {
        self.0.uri == other.0.uri
    }
}

impl Eq for ByUri {}

impl Hash for ByUri {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uri.hash(state);
    }
}

type UriShard = HashSet<ByUri, MixState>;
type AgentShard = MixMap<u32, Arc<IdentityEntry>>;

/// The identities of one table.
#[derive(Clone)]
pub(crate) struct Identities {
    by_uri: Arc<[Arc<UriShard>]>,
    by_agent: Arc<[Arc<AgentShard>]>,
}

/// The shard of an identity, below [`SHARDS`].
pub(crate) fn uri_shard(uri: &str) -> usize {
    MixState::default().hash_one(uri) as usize % SHARDS
}

fn agent_shard(agent: Label) -> usize {
    mix64(u64::from(agent.agent_number())) as usize % SHARDS
}

impl Identities {
    pub fn empty() -> Identities {
        Identities {
            by_uri: vec![Arc::default(); SHARDS].into(),
            by_agent: vec![Arc::default(); SHARDS].into(),
        }
    }

    pub fn of_uri(&self, uri: &str) -> Option<&Arc<IdentityEntry>> {
        self.by_uri[uri_shard(uri)].get(uri).map(|by| &by.0)
    }

    pub fn of_agent(&self, agent: Label) -> Option<&Arc<IdentityEntry>> {
        self.by_agent[agent_shard(agent)].get(&agent.agent_number())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<IdentityEntry>> + '_ {
        self.by_uri
            .iter()
            .flat_map(|shard| shard.iter().map(|by| &by.0))
    }

    /// Shards of URIs in which an entry may differ, without looking at any.
    pub fn changed<'a>(&'a self, other: &'a Identities) -> impl Iterator<Item = usize> + 'a {
        let pairs = self.by_uri.iter().zip(other.by_uri.iter()).enumerate();
        pairs
            .filter(|(_, (mine, theirs))| !Arc::ptr_eq(mine, theirs))
            .map(|(shard, _)| shard)
    }

    pub fn edit(&mut self) -> IdentityEdit<'_> {
        IdentityEdit {
            by_uri: self.by_uri.to_vec(),
            by_agent: self.by_agent.to_vec(),
            target: self,
        }
    }
}

/// Identities being changed: a touched shard is copied at its first change.
pub(crate) struct IdentityEdit<'a> {
    by_uri: Vec<Arc<UriShard>>,
    by_agent: Vec<Arc<AgentShard>>,
    target: &'a mut Identities,
}

impl IdentityEdit<'_> {
    pub fn put(&mut self, entry: &IdentityEntry) {
        // The same again changes nothing for those attached.
        let held = self.by_uri[uri_shard(&entry.uri)].get(entry.uri.as_str());
        let agents = &self.by_agent[agent_shard(entry.agent)];
        let agent = agents.get(&entry.agent.agent_number());
        if let (Some(held), Some(agent)) = (held, agent)
            && Arc::ptr_eq(&held.0, agent)
            && **agent == *entry
        {
            return;
        }
        self.remove(&entry.uri);
        let entry = Arc::new(entry.clone());
        let agents = Arc::make_mut(&mut self.by_agent[agent_shard(entry.agent)]);
        agents.insert(entry.agent.agent_number(), entry.clone());
        Arc::make_mut(&mut self.by_uri[uri_shard(&entry.uri)]).insert(ByUri(entry));
    }

    pub fn remove(&mut self, uri: &str) {
        let at = uri_shard(uri);
        if !self.by_uri[at].contains(uri) {
            return;
        }
        let Some(ByUri(gone)) = Arc::make_mut(&mut self.by_uri[at]).take(uri) else {
            return;
        };
        let agents = &mut self.by_agent[agent_shard(gone.agent)];
        let number = gone.agent.agent_number();
        // Another URI may have taken the agent over.
        if agents.get(&number).is_some_and(|held| held.uri == gone.uri) {
            Arc::make_mut(agents).remove(&number);
        }
    }

    pub fn finish(self) {
        self.target.by_uri = self.by_uri.into();
        self.target.by_agent = self.by_agent.into();
    }
}
