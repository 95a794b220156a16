//! `caplane rollout status` and `caplane generation show`: which routers forward by what.

use caplane_proto::v1;
use caplane_proto::v1::rollout_summary::Step;
use caplane_proto::v1::router_rollout::State;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Output, Table, clean};
use crate::settings::Settings;

/// Shows a generation; 0 = the newest.
pub(super) async fn show(settings: &Settings, generation: u64) -> Result<Output, Failure> {
    let answer = settings.api().await?.rollout(generation).await?;
    let summary = answer.summary.unwrap_or_default();
    let routers: Vec<Value> = answer.routers.iter().map(router_json).collect();
    let mut json = as_json(&summary);
    json["routers"] = routers.into();
    let text = format!("{}{}", made(&summary), describe(&summary, &answer.routers));
    Ok(Output::new("caplane.rollout/1", json, text))
}

/// "generation 12 is live on 2 of 3 routers, 1 refused it": for the end of a change, too.
pub(super) fn reach(summary: &v1::RolloutSummary) -> String {
    let v1::RolloutSummary {
        generation,
        live,
        routers,
        connected,
        refused,
        ..
    } = summary;
    let mut text = format!("generation {generation} is live on {live} of {routers} routers");
    let away = routers.saturating_sub(*connected);
    for (count, what) in [(*refused, "refused it"), (away, "away")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text + "\n"
}

fn made(summary: &v1::RolloutSummary) -> String {
    if summary.committed_unix_ms == 0 {
        return "who made it is not known any more\n".to_owned();
    }
    let mut text = format!(
        "{} table entries changed{}\n",
        summary.entries,
        part(summary)
    );
    for origin in &summary.origins {
        let who = match origin.who.as_str() {
            "" => "the controller".to_owned(),
            who => clean(who),
        };
        text.push_str(&format!("  {who}: {}\n", clean(&origin.what)));
    }
    if summary.origins_left_out > 0 {
        text.push_str(&format!("  and {} more\n", summary.origins_left_out));
    }
    text
}

/// Which step of a change it is, if that has several.
fn part(summary: &v1::RolloutSummary) -> String {
    let what = match summary.step() {
        Step::Unspecified | Step::Whole => return String::new(),
        Step::Make => "what will be pointed at",
        Step::Point => "who points there",
        Step::Break => "what nobody points at any more",
    };
    let last = summary.last_generation;
    format!(": {what}; generation {last} completes the change")
}

fn waiting(summary: &v1::RolloutSummary) -> String {
    let mut text = String::new();
    if !summary.waits_for.is_empty() {
        let names = clean(&summary.waits_for.join(", "));
        text.push_str(&format!("held back until {names} has what is before it\n"));
    }
    if !summary.gave_up_on.is_empty() {
        let names = clean(&summary.gave_up_on.join(", "));
        text.push_str(&format!("went without waiting longer for {names}\n"));
    }
    text
}

fn describe(summary: &v1::RolloutSummary, routers: &[v1::RouterRollout]) -> String {
    let mut table = Table::new(&["ROUTER", "STATE", "LIVE", "TOOK", "AT THE ROUTER"]);
    let mut refusals = String::new();
    for router in routers {
        table.row([
            router.router.clone(),
            state(router).to_owned(),
            router.live_generation.to_string(),
            time(router.took_us),
            time(router.applied_us),
        ]);
        for refused in &router.refused {
            let what = match (refused.entity.as_str(), refused.entry.as_str()) {
                ("", "") => "the update".to_owned(),
                ("", entry) => entry.to_owned(),
                (entity, entry) => format!("{entity} ({entry})"),
            };
            let line = format!("{} refused {what}: {}", router.router, refused.reason);
            refusals.push_str(&clean(&line));
            refusals.push('\n');
        }
        if router.refused_left_out > 0 {
            let more = router.refused_left_out;
            refusals.push_str(&format!("{} refused {more} more\n", router.router));
        }
    }
    let nothing = "no routers; register one with `caplane router add NAME`";
    let (rows, waiting) = (table.render(nothing), waiting(summary));
    format!("{rows}{}{waiting}{refusals}", reach(summary))
}

fn time(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        us => format!("{:.1} ms", us as f64 / 1e3),
    }
}

fn state(router: &v1::RouterRollout) -> &'static str {
    match router.state() {
        State::Unspecified => "unknown",
        State::Live => "live",
        State::Accepted => "accepted",
        State::Sent => "sent",
        State::Behind => "behind",
        State::Refused => "refused",
        State::Away => "away",
        State::HeldBack => "held back",
    }
}

fn step(summary: &v1::RolloutSummary) -> &'static str {
    match summary.step() {
        Step::Unspecified => "unknown",
        Step::Whole => "whole",
        Step::Make => "make",
        Step::Point => "point",
        Step::Break => "break",
    }
}

pub(super) fn as_json(summary: &v1::RolloutSummary) -> Value {
    let origin = |origin: &v1::Origin| json!({ "who": origin.who, "what": origin.what });
    json!({
        "generation": summary.generation, "committed_unix_ms": summary.committed_unix_ms,
        "origins": summary.origins.iter().map(origin).collect::<Vec<_>>(),
        "origins_left_out": summary.origins_left_out, "entries": summary.entries,
        "live": summary.live, "connected": summary.connected, "refused": summary.refused,
        "registered": summary.routers, "step": step(summary), "last_generation": summary.last_generation,
        "waits_for": summary.waits_for, "gave_up_on": summary.gave_up_on,
    })
}

fn router_json(router: &v1::RouterRollout) -> Value {
    let refused = |refused: &v1::RefusedEntry| json!({ "entry": refused.entry, "entity": refused.entity, "reason": refused.reason });
    json!({
        "router": router.router, "state": state(router), "live_generation": router.live_generation,
        "live_unix_ms": router.live_unix_ms, "took_us": router.took_us, "applied_us": router.applied_us,
        "refused": router.refused.iter().map(refused).collect::<Vec<_>>(),
        "refused_left_out": router.refused_left_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_says_how_far_it_came_and_what_was_refused() {
        let summary = v1::RolloutSummary {
            generation: 7,
            committed_unix_ms: 1,
            origins: vec![v1::Origin {
                who: String::new(),
                what: "leases ended".into(),
            }],
            origins_left_out: 2,
            entries: 3,
            routers: 3,
            connected: 2,
            live: 1,
            refused: 1,
            step: Step::Break.into(),
            last_generation: 7,
            waits_for: vec!["r2".into()],
            gave_up_on: vec!["r3".into()],
        };
        assert_eq!(
            reach(&summary),
            "generation 7 is live on 1 of 3 routers, 1 refused it, 1 away\n"
        );
        assert_eq!(
            made(&summary),
            "3 table entries changed: what nobody points at any more; generation 7 completes the change\n  the controller: leases ended\n  and 2 more\n"
        );
        let refusing = v1::RouterRollout {
            router: "r1".into(),
            state: State::Refused.into(),
            refused: vec![v1::RefusedEntry {
                entry: "identity u".into(),
                entity: "agent u".into(),
                reason: "too many".into(),
            }],
            ..v1::RouterRollout::default()
        };
        let live = v1::RouterRollout {
            router: "r2".into(),
            state: State::Live.into(),
            live_generation: 7,
            took_us: 2_500,
            applied_us: 700,
            ..v1::RouterRollout::default()
        };
        let text = describe(&summary, &[refusing, live]);
        assert!(
            text.contains("r1 refused agent u (identity u): too many\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "held back until r2 has what is before it\nwent without waiting longer for r3\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("r2      live     7     2.5 ms  0.7 ms\n"),
            "{text}"
        );
    }
}
