//! What a batch did, in words: the objects it named first, and how many more there were.

use super::NAMED_MAX;
use crate::change::{Action, Checked, Refusal, Target, Update};

/// Of the updates those that hold.
#[must_use]
pub fn of_batch(updates: &[Checked], refusals: &[Option<Refusal>]) -> String {
    let held = updates
        .iter()
        .zip(refusals)
        .filter(|(_, refusal)| refusal.is_none())
        .filter_map(|(update, _)| update.as_ref().ok());
    let mut words: Vec<String> = held.clone().take(NAMED_MAX).map(of_update).collect();
    let more = held.count() - words.len();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    let refused = refusals.iter().flatten().count();
    if refused > 0 {
        words.push(format!("{refused} refused"));
    }
    words.join(", ")
}

fn of_update(update: &Update) -> String {
    let action = match update.action {
        Action::Insert => "INSERT",
        Action::Modify => "MODIFY",
        Action::Delete => "DELETE",
    };
    let kind = update.target.kind();
    let key = match &update.target {
        Target::Agent(spec) => spec.uri.clone(),
        Target::Grant { agent, class, .. } => format!("{agent} {}", class.path),
        Target::Override { agent, skill, .. } => format!("{agent} {skill}"),
        Target::Router { name, .. } | Target::Tenant { name, .. } | Target::Group { name, .. } => {
            name.clone()
        }
        Target::Link { a, b, .. } => format!("{a} {b}"),
        Target::Permission { from, to, class } => format!("{from} {to} {}", class.path),
        Target::Policy(spec) => spec.name.clone(),
        Target::Policer(spec) => spec.name.clone(),
    };
    format!("{action} {kind} {key}").trim_end().to_owned()
}
