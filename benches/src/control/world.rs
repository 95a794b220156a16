//! What an operator would have at scale: a taxonomy, a file of agents and grants, a card for each.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

const DOMAINS: [&str; 20] = [
    "freight",
    "harvest",
    "theatre",
    "clinic",
    "foundry",
    "library",
    "harbour",
    "vineyard",
    "bakery",
    "railway",
    "observatory",
    "orchard",
    "quarry",
    "studio",
    "brewery",
    "aviation",
    "forestry",
    "fishery",
    "textile",
    "insurance",
];
const OBJECTS: [&str; 10] = [
    "invoice",
    "schedule",
    "inventory",
    "permit",
    "contract",
    "sensor",
    "shipment",
    "customer",
    "recipe",
    "machine",
];
const VERBS: [&str; 24] = [
    "forecast",
    "audit",
    "translate",
    "negotiate",
    "archive",
    "inspect",
    "summarise",
    "validate",
    "compare",
    "repair",
    "book",
    "cancel",
    "price",
    "visualise",
    "monitor",
    "route",
    "classify",
    "draft",
    "schedule_again",
    "insure",
    "calibrate",
    "reconcile",
    "anonymise",
    "publish",
];
/// Tenants that agents are spread over, besides the shared one.
const TENANTS: usize = 10;

/// Classes of the taxonomy: leaves and what is above them.
pub const CLASSES: usize = DOMAINS.len() * (1 + OBJECTS.len() * (1 + VERBS.len()));

/// Words of one leaf.
struct Leaf {
    domain: &'static str,
    object: &'static str,
    verb: &'static str,
}

fn leaf(number: usize) -> Leaf {
    Leaf {
        domain: DOMAINS[number % DOMAINS.len()],
        object: OBJECTS[number / DOMAINS.len() % OBJECTS.len()],
        verb: VERBS[number / (DOMAINS.len() * OBJECTS.len()) % VERBS.len()],
    }
}

/// Writes a taxonomy of three levels.
pub fn taxonomy(folder: &Path) -> io::Result<PathBuf> {
    let mut classes = Vec::with_capacity(CLASSES);
    let mut add = |path: &str, uid: String, caption: String, description: String| {
        classes.push(
            json!({ "path": path, "uid": uid, "caption": caption, "description": description }),
        );
    };
    for (d, domain) in DOMAINS.iter().enumerate() {
        add(
            domain,
            format!("{}", d + 1),
            format!("All of {domain}"),
            format!("Everything about {domain}."),
        );
        for (o, object) in OBJECTS.iter().enumerate() {
            let path = format!("{domain}/{domain}_{object}");
            let caption = format!("{domain} {object}");
            let description = format!("What is done with each {object} of a {domain}.");
            add(&path, format!("{}.{}", d + 1, o + 1), caption, description);
            for (v, verb) in VERBS.iter().enumerate() {
                let path = format!("{path}/{domain}_{object}_{verb}");
                let caption = format!("{verb} {domain} {object}");
                let description =
                    format!("Can {verb} an {object} that belongs to a {domain}, and explain how.");
                add(
                    &path,
                    format!("{}.{}.{}", d + 1, o + 1, v + 1),
                    caption,
                    description,
                );
            }
        }
    }
    let path = folder.join("taxonomy.json");
    fs::write(
        &path,
        json!({ "version": "scale", "skills": classes }).to_string(),
    )?;
    Ok(path)
}

/// Name of the tenant of an agent.
fn tenant(number: usize) -> String {
    match number % (TENANTS + 1) {
        0 => "shared".to_owned(),
        tenant => format!("t{tenant}"),
    }
}

/// A card: one skill by the name of its class, and of every fifth agent another that only its words tell.
#[must_use]
pub fn card(number: usize) -> Vec<u8> {
    let Leaf {
        domain,
        object,
        verb,
    } = leaf(number);
    let mut skills = vec![json!({
        "id": format!("{domain}_{object}_{verb}"), "name": format!("{verb} {object}"),
        "description": format!("Agent {number} will {verb} any {object}."), "tags": [domain, verb],
    })];
    if number.is_multiple_of(5) {
        let other = leaf(number * 7 + 3);
        skills.push(json!({
            "id": format!("skill-{number}"), "name": format!("{} the {}", other.verb, other.object),
            "description": format!("For a {}: {} its {}.", other.domain, other.verb, other.object), "tags": [other.object],
        }));
    }
    let card = json!({
        "name": format!("Agent {number}"), "description": format!("Works in a {domain}."), "version": "1.0.0",
        "protocolVersion": "0.3.0", "url": format!("https://agents.example/{number}"), "capabilities": {},
        "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"], "skills": skills,
    });
    card.to_string().into_bytes()
}

/// Writes the cards of the agents `from..to`, and a file of the first `to` agents with their grants.
pub fn manifest(folder: &Path, from: usize, to: usize) -> io::Result<PathBuf> {
    let cards = folder.join("cards");
    fs::create_dir_all(&cards)?;
    for number in from..to {
        fs::write(cards.join(format!("{number}.json")), card(number))?;
    }
    let mut text = String::new();
    for tenant in 1..=TENANTS {
        let _ = writeln!(text, "[[tenant]]\nname = \"t{tenant}\"");
    }
    for number in 0..to {
        let tenant = tenant(number);
        let _ = writeln!(
            text,
            "[[agent]]\nagent = \"a{number}\"\ntenant = \"{tenant}\"\ncard = \"cards/{number}.json\"\n\
             [[grant]]\nagent = \"a{number}\"\ntenant = \"{tenant}\"\nclass = \"*\"",
        );
    }
    let path = folder.join(format!("fabric-{to}.toml"));
    fs::write(&path, text)?;
    Ok(path)
}

/// What somebody may ask for, in words.
#[must_use]
pub fn question(number: usize) -> String {
    let Leaf {
        domain,
        object,
        verb,
    } = leaf(number * 13 + 5);
    match number % 3 {
        0 => format!("{verb} the {object} of my {domain}"),
        1 => format!("who can {verb} a {object} for us, and explain it, please?"),
        _ => format!("{domain} {object}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_classes_as_promised_and_cards_are_json() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = fs::read_to_string(taxonomy(folder.path()).expect("written")).expect("read");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["skills"].as_array().expect("a list").len(), CLASSES);
        const { assert!(CLASSES >= 5_000) };
        let path = manifest(folder.path(), 0, 12).expect("written");
        let text = fs::read_to_string(path).expect("read");
        assert_eq!(text.matches("[[agent]]").count(), 12);
        let card: serde_json::Value = serde_json::from_slice(&card(5)).expect("JSON");
        assert_eq!(card["skills"].as_array().expect("a list").len(), 2);
        assert_ne!(question(1), question(2));
    }
}
