//! `caplane apply` and `caplane diff`: make a file true, or say how it is not.

use caplane_proto::v1;
use caplane_proto::v1::update::Type;
use prost::Message;
use serde_json::{Value, json};

use super::written;
use crate::api::{Api, WriteOptions, Written};
use crate::arguments::ManifestArguments;
use crate::failure::{Exit, Failure};
use crate::manifest::plan::{Change, key};
use crate::manifest::{Manifest, Names};
use crate::output::{Output, clean};
use crate::pki::{Role, uri_of};
use crate::settings::Settings;

/// Updates of one Write, as the controller takes them.
const UPDATES_MAX: usize = 10_000;
/// Bytes of one Write: the controller takes 32 MiB, frames and all.
const BYTES_MAX: usize = 24 * 1024 * 1024;
/// Changes that are spelt out as text; JSON has all of them.
const SHOWN_MAX: usize = 100;

/// Makes the file true.
pub(super) async fn apply(
    settings: &Settings,
    arguments: &ManifestArguments,
) -> Result<Output, Failure> {
    let (api, changes, generation) = planned(settings, arguments).await?;
    if changes.is_empty() {
        let text = format!("nothing to do: it is so (generation {generation})\n");
        let json = json!({ "generation": generation, "changes": [] });
        return Ok(Output::new("caplane.applied/1", json, text));
    }
    let mut batches = batches(&changes);
    let options = &settings.write;
    let of_one =
        options.dry_run || options.confirm_within.is_some() || !options.idempotency_key.is_empty();
    if batches.len() > 1 && of_one {
        let text = format!(
            "{} updates do not fit one change; leave --dry-run, --confirm-within and --idempotency-key out, or use several files",
            changes.len()
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut expected = options.expected_generation.unwrap_or(generation);
    let last = batches.pop().unwrap_or_default();
    let mut done = 0;
    for batch in batches {
        let between = WriteOptions {
            expected_generation: Some(expected),
            ..WriteOptions::default()
        };
        let updates = batch.len();
        let answer = write(&api, between, batch).await;
        expected = answer.map_err(|failure| partly(failure, done))?.generation;
        done += updates;
    }
    let options = WriteOptions {
        expected_generation: Some(expected),
        ..options.clone()
    };
    let dry_run = options.dry_run;
    let answer = write(&api, options, last).await;
    let answer = answer.map_err(|failure| partly(failure, done))?;
    let written = Written {
        // It is about all of them.
        entity: changes[0].entity.clone(),
        generation: answer.generation,
        dry_run: dry_run.then_some(answer.diff),
        repeated: answer.repeated_request,
        pending: answer.pending,
        rollout: answer.rollout,
    };
    let text = format!("{}{}\n", lines(&changes), written::place(&written));
    let json = json!({ "changes": as_json(&changes) });
    written::output("caplane.applied/1", &written, json, text)
}

/// Says what `apply` would do, and what routers would get. An error when that is anything.
pub(super) async fn diff(
    settings: &Settings,
    arguments: &ManifestArguments,
    as_json_text: bool,
) -> Result<(), Failure> {
    let (api, changes, generation) = planned(settings, arguments).await?;
    if changes.is_empty() {
        let text = format!("no difference (generation {generation})\n");
        let json = json!({ "generation": generation, "changes": [] });
        return Output::new("caplane.diff/1", json, text).print(as_json_text);
    }
    let mut batches = batches(&changes);
    let tables = match batches.len() {
        // The controller says what is wrong with it, and what routers would get.
        1 => {
            let options = WriteOptions {
                dry_run: true,
                expected_generation: Some(generation),
                ..WriteOptions::default()
            };
            let answer = write(&api, options, batches.remove(0)).await?;
            Some(answer.diff)
        }
        _ => None,
    };
    let written = Written {
        entity: changes[0].entity.clone(),
        generation,
        dry_run: tables,
        repeated: false,
        pending: None,
        rollout: None,
    };
    let json = json!({ "changes": as_json(&changes) });
    written::output("caplane.diff/1", &written, json, lines(&changes))?.print(as_json_text)?;
    let text = format!(
        "{} updates would make it so: `caplane apply`",
        changes.len()
    );
    Err(Failure::new(Exit::Differs, text))
}

/// What must be done, and the generation that was looked at.
async fn planned(
    settings: &Settings,
    arguments: &ManifestArguments,
) -> Result<(Api, Vec<Change>, u64), Failure> {
    let names = FabricNames {
        trust_domain: settings.trust_domain()?,
    };
    let manifest = Manifest::load(&arguments.file, &names)?;
    let api = settings.api().await?;
    let (mut there, mut generation) = (Vec::new(), None);
    for kind in manifest.kinds() {
        let read = api.read(kind, "").await?;
        // Of the first: what was written after it is to be noticed.
        generation.get_or_insert(read.first_generation);
        there.extend(read.entities);
    }
    let changes = manifest.plan(there, arguments.prune);
    Ok((api, changes, generation.unwrap_or_default()))
}

struct FabricNames {
    trust_domain: String,
}

impl Names for FabricNames {
    fn agent(&self, name: &str, tenant: &str) -> Result<String, String> {
        if name.contains("://") {
            return Ok(name.to_owned());
        }
        let role = Role::Agent {
            tenant: tenant.to_owned(),
        };
        uri_of(&self.trust_domain, &role, name).map_err(|error| error.to_string())
    }

    fn router(&self, name: &str) -> Result<String, String> {
        uri_of(&self.trust_domain, &Role::Router, name).map_err(|error| error.to_string())
    }
}

/// Changes in order, as many to a batch as one Write takes.
fn batches(changes: &[Change]) -> Vec<Vec<Change>> {
    let mut batches: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let entity = v1::Entity {
            entity: Some(change.entity.clone()),
        };
        // The action, and the lengths around it.
        let more = entity.encoded_len() + 16;
        let room = batches
            .last()
            .is_some_and(|batch| batch.len() < UPDATES_MAX);
        if !room || bytes + more > BYTES_MAX {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(batch) = batches.last_mut() {
            batch.push(change.clone());
        }
    }
    batches
}

async fn write(
    api: &Api,
    options: WriteOptions,
    batch: Vec<Change>,
) -> Result<v1::WriteResponse, Failure> {
    let api = api.clone().with_options(options);
    let updates = batch
        .into_iter()
        .map(|change| (change.action, change.entity));
    Ok(api.write(updates).await?)
}

/// Says how much holds already, when something does.
fn partly(failure: Failure, done: usize) -> Failure {
    if done == 0 {
        return failure;
    }
    let text = format!(
        "{}; the first {done} updates hold, apply it again",
        failure.text
    );
    Failure { text, ..failure }
}

fn lines(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes.iter().take(SHOWN_MAX) {
        let key = key(&change.entity);
        let fields = match change.fields.as_slice() {
            [] => String::new(),
            fields => format!(" ({})", fields.join(", ")),
        };
        let line = format!(
            "{} {} {}{fields}",
            sign(change.action),
            key.noun(),
            key.name()
        );
        text.push_str(&clean(&line));
        text.push('\n');
    }
    if changes.len() > SHOWN_MAX {
        text.push_str(&format!("and {} more\n", changes.len() - SHOWN_MAX));
    }
    text
}

fn sign(action: Type) -> char {
    match action {
        Type::Delete => '-',
        Type::Modify => '~',
        Type::Insert | Type::Unspecified => '+',
    }
}

fn as_json(changes: &[Change]) -> Vec<Value> {
    let one = |change: &Change| {
        let key = key(&change.entity);
        json!({
            "action": change.action.as_str_name().to_lowercase(), "kind": key.noun(), "key": key.name(),
            "fields": change.fields,
        })
    };
    changes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use caplane_proto::v1::entity::Entity as Kind;

    fn insert(card_bytes: usize) -> Change {
        Change {
            action: Type::Insert,
            entity: Kind::Agent(v1::Agent {
                card: vec![b' '; card_bytes],
                ..v1::Agent::default()
            }),
            fields: Vec::new(),
        }
    }

    #[test]
    fn batches_hold_what_one_write_takes() {
        let sizes = |changes: &[Change]| batches(changes).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        assert_eq!(sizes(&vec![insert(0); 10_001]), [10_000, 1]);
        let large = vec![insert(64 * 1024); 1_000];
        let sizes = sizes(&large);
        assert_eq!(sizes.iter().sum::<usize>(), 1_000);
        assert!(sizes.iter().all(|batch| batch * 64 * 1024 <= BYTES_MAX) && sizes.len() == 3);
    }
}
