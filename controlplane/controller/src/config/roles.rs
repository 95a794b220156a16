//! `operators` and `[[roles]]`: who may use the northbound API, and as what.

use serde::Deserialize;
use toml::Spanned;

use super::UriPattern;
use super::raw::{Fault, fault, name_is_good};
use crate::access::{Role, Rule};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    who: Spanned<String>,
    role: Spanned<String>,
    tenants: Option<Spanned<Vec<Spanned<String>>>>,
    agents: Option<Spanned<Vec<Spanned<String>>>>,
}

/// All rules. `locally` = there is a socket for this user and root, who need none.
pub(super) fn rules(
    operators: Option<&Spanned<Vec<Spanned<String>>>>,
    roles: &[RawRole],
    locally: bool,
) -> Result<Vec<Rule>, Fault> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut add = |at: &Spanned<String>, rule: Rule| {
        if rules.iter().any(|known| known.who == rule.who) {
            let cause = format!("\"{}\" is here twice; one has one role", rule.who);
            return Err(fault(at, cause));
        }
        rules.push(rule);
        Ok(())
    };
    for entry in operators.map(|list| list.get_ref()).into_iter().flatten() {
        let rule = Rule {
            who: pattern("operators", entry)?,
            role: Role::Admin,
            tenants: None,
            agents: None,
        };
        add(entry, rule)?;
    }
    for raw in roles {
        let rule = rule(raw)?;
        add(&raw.who, rule)?;
    }
    if rules.is_empty() && !locally {
        let offset = operators.map_or(0, |list| list.span().start);
        let message = "operators is empty, so nobody could use the northbound API; name at least one, for example \"spiffe://caplane.local/operator/*\"";
        return Err(Fault {
            offset,
            message: message.to_owned(),
        });
    }
    Ok(rules)
}

fn rule(raw: &RawRole) -> Result<Rule, Fault> {
    let role = Role::parse(raw.role.get_ref()).ok_or_else(|| {
        let (word, words) = (raw.role.get_ref(), Role::words().join(", "));
        fault(
            &raw.role,
            format!("roles: \"{word}\" is no role; use one of {words}"),
        )
    })?;
    let tenants = match &raw.tenants {
        Some(list) => Some(tenants(role, list)?),
        None => None,
    };
    let agents = match &raw.agents {
        Some(list) => {
            let patterns = list
                .get_ref()
                .iter()
                .map(|entry| pattern("roles: agents", entry));
            Some(patterns.collect::<Result<_, Fault>>()?)
        }
        None => None,
    };
    Ok(Rule {
        who: pattern("roles", &raw.who)?,
        role,
        tenants,
        agents,
    })
}

fn tenants(role: Role, list: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>, Fault> {
    if role > Role::Orchestrator {
        let role = role.as_str();
        let cause = format!(
            "roles: {role} is bound to no tenant, what it writes is everybody's; leave tenants out, or use viewer or orchestrator"
        );
        return Err(fault(list, cause));
    }
    let good = |entry: &Spanned<String>| {
        let name = entry.get_ref();
        if name_is_good(name) {
            return Ok(name.clone());
        }
        let cause =
            format!("roles: tenant \"{name}\" must be 1 to 64 characters of A-Z a-z 0-9 . _ -");
        Err(fault(entry, cause))
    };
    list.get_ref().iter().map(good).collect()
}

fn pattern(field: &str, entry: &Spanned<String>) -> Result<UriPattern, Fault> {
    UriPattern::parse(entry.get_ref()).map_err(|cause| fault(entry, format!("{field}: {cause}")))
}
