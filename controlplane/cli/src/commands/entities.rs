//! What commands on plain entities share: one is added, removed, or all are listed. Knows no kind of entity.

use caplane_proto::v1::entity::Entity as Kind;
use caplane_proto::v1::read_request::Kind as ReadKind;
use serde_json::{Value, json};

use super::written;
use crate::api::Written;
use crate::failure::Failure;
use crate::output::{Output, Table};
use crate::settings::Settings;

pub(super) async fn add(
    settings: &Settings,
    entity: Kind,
    noun: &str,
    what: &str,
) -> Result<Output, Failure> {
    change(settings, entity, false, noun, what).await
}

/// Adds an entity or, with `replace`, assigns it anew.
pub(super) async fn change(
    settings: &Settings,
    entity: Kind,
    replace: bool,
    noun: &str,
    what: &str,
) -> Result<Output, Failure> {
    let written = written_anew(settings, entity, replace).await?;
    let text = format!("added: {noun} {what} {}\n", written::place(&written));
    let json = json!({ "added": what });
    written::output(&format!("caplane.{noun}/1"), &written, json, text)
}

async fn written_anew(
    settings: &Settings,
    entity: Kind,
    replace: bool,
) -> Result<Written, Failure> {
    let api = settings.api().await?;
    let written = if replace {
        api.upsert(entity).await?
    } else {
        api.insert(entity).await?
    };
    Ok(written)
}

/// The same, and tells what was written as `json` does.
pub(super) async fn put(
    settings: &Settings,
    entity: Kind,
    replace: bool,
    noun: &str,
    what: &str,
    json: impl Fn(&Kind) -> Value,
) -> Result<Output, Failure> {
    let written = written_anew(settings, entity, replace).await?;
    let text = format!("added: {noun} {what} {}\n", written::place(&written));
    let json = json!({ noun: json(&written.entity) });
    written::output(&format!("caplane.{noun}/1"), &written, json, text)
}

pub(super) async fn remove(
    settings: &Settings,
    key: Kind,
    noun: &str,
    what: &str,
) -> Result<Output, Failure> {
    let written = settings.api().await?.delete(key).await?;
    let text = format!("removed: {noun} {what} {}\n", written::place(&written));
    let json = json!({ "removed": what });
    written::output(&format!("caplane.{noun}/1"), &written, json, text)
}

pub(super) async fn list(
    settings: &Settings,
    kind: ReadKind,
    key: &str,
    nouns: &str,
    heading: &[&str],
    each: impl Fn(Kind) -> Option<(Vec<String>, Value)>,
) -> Result<Output, Failure> {
    let read = settings.api().await?.read(kind, key).await?;
    let mut table = Table::new(heading);
    let mut all = Vec::new();
    for (cells, json) in read.entities.into_iter().filter_map(each) {
        table.row(cells);
        all.push(json);
    }
    let json = json!({ nouns: all, "generation": read.generation });
    Ok(Output::new(
        &format!("caplane.{nouns}/1"),
        json,
        table.render(&format!("no {nouns}")),
    ))
}
