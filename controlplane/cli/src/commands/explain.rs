//! `caplane explain`: what would become of a message, and why.

use caplane_proto::v1;
use caplane_proto::v1::explain_request::{To, Without};
use caplane_proto::v1::resolve::Target;
use serde_json::{Value, json};

use super::classes::target;
use super::{agent_uri, label};
use crate::arguments::ExplainArguments;
use crate::failure::Failure;
use crate::output::{Output, clean};
use crate::settings::Settings;

pub(super) async fn explain(
    settings: &Settings,
    arguments: &ExplainArguments,
) -> Result<Output, Failure> {
    let request = request(settings, arguments)?;
    let answer = settings.api().await?.explain(request).await?;
    Ok(Output::new(
        "caplane.explanation/1",
        as_json(&answer),
        describe(&answer),
    ))
}

fn request(
    settings: &Settings,
    arguments: &ExplainArguments,
) -> Result<v1::ExplainRequest, Failure> {
    let to = match (&arguments.group, &arguments.to) {
        (Some(group), _) => To::Group(group.clone()),
        (None, to) => need(to.as_deref().unwrap_or_default()),
    };
    let without = match (&arguments.without_link, &arguments.without_router) {
        (Some(ends), _) => match &ends[..] {
            [a, b] => Some(Without::Link(v1::Link {
                a: a.clone(),
                b: b.clone(),
                cost: 0,
            })),
            _ => None,
        },
        (None, router) => router.clone().map(Without::GoneRouter),
    };
    Ok(v1::ExplainRequest {
        source: agent_uri(settings, &arguments.source, &arguments.as_tenant)?,
        to: Some(to),
        tenant: arguments.tenant.clone(),
        traffic_class: u32::from(arguments.priority) * 2 + u32::from(arguments.blocking),
        router: arguments.router.clone().unwrap_or_default(),
        flow: arguments.flow,
        no_affinity: arguments.no_affinity,
        without,
    })
}

fn need(text: &str) -> To {
    match target(text) {
        Target::AgentId(uri) => To::Agent(uri),
        Target::Path(path) if path.starts_with("agent:") => To::Agent(path),
        Target::Path(path) => To::Path(path),
        Target::Text(text) => To::Text(text),
    }
}

fn traces(answer: &v1::ExplainResponse) -> impl Iterator<Item = (&'static str, &v1::Trace)> {
    let traces = [
        ("now", &answer.now),
        ("while_gone", &answer.while_gone),
        ("after", &answer.after),
    ];
    traces
        .into_iter()
        .filter_map(|(name, trace)| Some((name, trace.as_ref()?)))
}

fn describe(answer: &v1::ExplainResponse) -> String {
    let mut text = format!("generation {}\n", answer.generation);
    for assumed in &answer.assumed {
        text.push_str(&format!("assumed: {}\n", clean(assumed)));
    }
    if let Some(best) = answer.resolved.first() {
        let (name, label) = (clean(&best.name), label(best.label));
        text.push_str(&format!("understood as {name} {label}\n"));
    }
    for (name, trace) in traces(answer) {
        let when = match name {
            "while_gone" => "as soon as it is gone",
            "after" => "with the tables made without it",
            _ => "now",
        };
        text.push_str(&format!("\n{when}: {}\n", trace.outcome));
        for hop in &trace.hops {
            describe_hop(&mut text, hop);
        }
        for receiver in &trace.receivers {
            text.push_str(&format!(
                "  to {} {} {}\n",
                receiver.agent_uri,
                label(receiver.label),
                clean(&receiver.instance_name)
            ));
        }
    }
    text
}

fn describe_hop(text: &mut String, hop: &v1::Hop) {
    text.push_str(&format!(
        "  {}: {} in, {} out: {}",
        hop.router,
        label(hop.label_in),
        label(hop.label_out),
        hop.verdict
    ));
    if !hop.next_hop.is_empty() {
        text.push_str(&format!(" to {}", hop.next_hop));
    }
    if !hop.alternates.is_empty() {
        text.push_str(&format!(", else {}", hop.alternates.join(", ")));
    }
    text.push('\n');
    if hop.behind {
        text.push_str(&format!(
            "    holds generation {} still\n",
            hop.live_generation
        ));
    }
    for line in [&hop.policy, &hop.policer] {
        if !line.is_empty() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    for one in &hop.considered {
        let tenant = match one.tenant.as_str() {
            "" => String::new(),
            tenant => format!(" of {tenant}"),
        };
        let weight = match one.weight {
            0 => String::new(),
            weight => format!(", weight {weight}"),
        };
        text.push_str(&format!(
            "    {}: {} for {}{tenant}{weight}\n",
            one.verdict, one.member, one.matched
        ));
    }
    if hop.considered_more > 0 {
        text.push_str(&format!("    and {} more\n", hop.considered_more));
    }
}

fn as_json(answer: &v1::ExplainResponse) -> Value {
    let resolved = answer.resolved.iter().map(|candidate| {
        json!({
            "label": label(candidate.label), "tenant": candidate.tenant, "name": candidate.name,
            "score": candidate.score, "matched_by": candidate.matched_by,
        })
    });
    let mut json = json!({
        "generation": answer.generation, "assumed": answer.assumed,
        "resolved": resolved.collect::<Vec<_>>(),
    });
    for (name, trace) in traces(answer) {
        json[name] = trace_json(trace);
    }
    json
}

fn trace_json(trace: &v1::Trace) -> Value {
    let hops = trace.hops.iter().map(|hop| {
        let considered = hop.considered.iter().map(|one| {
            json!({
                "matched": one.matched, "tenant": one.tenant, "router": one.router, "member": one.member,
                "weight": one.weight, "verdict": one.verdict,
            })
        });
        json!({
            "router": hop.router, "live_generation": hop.live_generation, "behind": hop.behind,
            "label_in": label(hop.label_in), "label_out": label(hop.label_out),
            "policy": hop.policy, "policer": hop.policer,
            "considered": considered.collect::<Vec<_>>(), "considered_more": hop.considered_more,
            "next_hop": hop.next_hop, "alternates": hop.alternates, "verdict": hop.verdict,
        })
    });
    let receivers = trace.receivers.iter().map(|receiver| {
        json!({
            "agent_uri": receiver.agent_uri, "instance_name": receiver.instance_name,
            "label": label(receiver.label), "router": receiver.router,
        })
    });
    json!({
        "outcome": trace.outcome, "hops": hops.collect::<Vec<_>>(),
        "receivers": receivers.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_read_as_it_looks() {
        assert_eq!(need("agent:7.1"), To::Agent("agent:7.1".into()));
        assert_eq!(need("class:7.1"), To::Path("class:7.1".into()));
        assert_eq!(need("spiffe://a/b"), To::Agent("spiffe://a/b".into()));
        assert_eq!(need("book a hotel"), To::Text("book a hotel".into()));
    }

    #[test]
    fn a_trace_is_told_hop_by_hop() {
        let considered = v1::Considered {
            matched: "travel".into(),
            tenant: "shared".into(),
            member: "r2".into(),
            weight: 100,
            verdict: "chosen".into(),
            router: "r2".into(),
        };
        let hop = v1::Hop {
            router: "r1".into(),
            verdict: "forward".into(),
            next_hop: "r2".into(),
            alternates: vec!["r3 (gone)".into()],
            considered: vec![considered],
            considered_more: 3,
            behind: true,
            live_generation: 4,
            ..v1::Hop::default()
        };
        let answer = v1::ExplainResponse {
            generation: 5,
            now: Some(v1::Trace {
                hops: vec![hop],
                outcome: "delivered".into(),
                receivers: Vec::new(),
            }),
            ..v1::ExplainResponse::default()
        };
        let text = describe(&answer);
        for line in [
            "now: delivered\n",
            "  r1: - in, - out: forward to r2, else r3 (gone)\n",
            "    holds generation 4 still\n",
            "    chosen: r2 for travel of shared, weight 100\n",
            "    and 3 more\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let json = as_json(&answer);
        assert_eq!(json["now"]["hops"][0]["considered"][0]["member"], "r2");
        assert!(json.get("after").is_none());
    }
}
