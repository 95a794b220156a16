//! Agent identity codes (ACPs AIC) at registration: that of the capability specification is that of the certificate, and
//! check digits fit where their issuer's salt is known. Refuses to know the state.

use caplane_wire::Aic;

use super::parse::AgentSpec;
use super::refusal::{Fault, Refusal};
use crate::salts::{IdentityCheck, Salts, code_of};

/// Checks the codes of an agent's name and of its capability specification.
///
/// # Errors
/// The two differ, or check digits are wrong. What they should be is not told: it is the issuer's to say.
pub(super) fn check(salts: &Salts, spec: &AgentSpec) -> Result<(), Refusal> {
    let of_name = code_of(&spec.uri);
    let of_card = Aic::parse(&spec.aic).ok();
    if let (Some(of_name), Some(of_card)) = (of_name, of_card)
        && of_name != of_card
    {
        return Err(Refusal::new(
            Fault::Invalid,
            "card",
            of_card,
            format!("aic: is not the agent's, which is {of_name}"),
            "give this agent's capability specification, or register it as acps://<aic>",
        ));
    }
    for (field, code) in [("uri", of_name), ("card", of_card)] {
        if let Some(code) = code
            && salts.check(code) == IdentityCheck::Failed
        {
            return Err(Refusal::new(
                Fault::Invalid,
                field,
                code,
                "aic: its check digits do not fit its other levels",
                "copy the AIC again from its issuer; when it is right, correct the salt in [acps] of controller.toml",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use caplane_proto::v1;
    use caplane_proto::v1::entity::Entity as Body;
    use caplane_wire::Label;

    use crate::change::{Fault, parse};
    use crate::knowledge::Knowledge;
    use crate::rib::Rib;
    use crate::salts::{Salt, Salts};
    use crate::taxonomy::Taxonomy;
    use crate::testbed::{self, apply, insert, modify};

    const CODE: &str = "1.2.156.3088.1.1.34C2.478BDF.3GF546.0JU4";
    const SPIFFE: &str = "spiffe://caplane.local/agent/a";

    fn acps() -> String {
        format!("acps://{CODE}")
    }

    fn spec(code: &str, active: bool) -> Vec<u8> {
        let skill =
            serde_json::json!({"id": "book_hotel", "name": "Book Hotel", "version": "1.0.0"});
        serde_json::json!({
            "aic": code, "active": active, "protocolVersion": "02.01", "name": "Desk", "version": "1",
            "endPoints": [{"url": "https://desk.example/rpc", "transport": "JSONRPC"}], "skills": [skill],
        })
        .to_string()
        .into_bytes()
    }

    fn agent(uri: &str, card: Vec<u8>) -> Body {
        Body::Agent(v1::Agent {
            uri: uri.into(),
            card,
            ..v1::Agent::default()
        })
    }

    fn knowledge(salts: &[(&str, &str)]) -> Knowledge {
        let taxonomy = Taxonomy::from_json(testbed::TAXONOMY, "test").expect("good");
        let salts = salts.iter();
        let salts = salts.map(|(prefix, salt)| Salt::parse(prefix, salt).expect("good"));
        Knowledge::new(taxonomy).with_salts(Salts::new(salts.collect()))
    }

    /// The refusal's words, field first; empty = accepted.
    fn told(salts: &[(&str, &str)], uri: &str, card: Vec<u8>) -> String {
        let checked = parse::batch(&knowledge(salts), &[insert(agent(uri, card))]);
        match checked.and_then(|updates| updates.into_iter().collect::<Result<Vec<_>, _>>()) {
            Ok(_) => String::new(),
            Err(refusal) => {
                assert_eq!(refusal.fault, Fault::Invalid);
                refusal.to_string()
            }
        }
    }

    #[test]
    fn the_code_of_a_specification_is_that_of_the_name() {
        assert_eq!(told(&[], &acps(), spec(CODE, true)), "");
        assert_eq!(told(&[], &acps(), spec(&CODE.to_lowercase(), true)), "");
        assert_eq!(told(&[], &acps(), spec("", true)), "");
        assert_eq!(told(&[], SPIFFE, spec(CODE, true)), "");
        let other = CODE.replace("478BDF", "478BD0");
        let refused = told(&[], &acps(), spec(&other, true));
        assert!(
            refused.starts_with(&format!(
                "updates[0].agent.card \"{other}\": aic: is not the agent's"
            )),
            "{refused}"
        );
    }

    #[test]
    fn wrong_check_digits_are_refused_where_the_salt_is_known() {
        let right = [("1.2.156.3088.1", "1234")];
        let wrong = [("1.2.156.3088.1", "4321")];
        let elsewhere = [("1.2.840", "4321")];
        for (uri, field) in [(acps(), "uri"), (SPIFFE.to_owned(), "card")] {
            assert_eq!(told(&right, &uri, spec(CODE, true)), "");
            assert_eq!(told(&elsewhere, &uri, spec(CODE, true)), "");
            let refused = told(&wrong, &uri, spec(CODE, true));
            let due = format!("updates[0].agent.{field} \"{CODE}\": aic: its check digits");
            assert!(refused.starts_with(&due), "{refused}");
        }
        // A name is checked without any card too.
        assert_eq!(told(&right, &acps(), Vec::new()), "");
        assert!(!told(&wrong, &acps(), Vec::new()).is_empty());
    }

    fn serves(rib: &Rib) -> usize {
        let agent = rib.agent(&acps()).expect("registered");
        rib.memberships(agent).len()
    }

    #[test]
    fn an_inactive_agent_serves_nothing_whatever_it_is_granted() {
        let mut rib = Rib::new();
        let grant = |path: &str| {
            insert(Body::Grant(v1::Grant {
                agent_uri: acps(),
                class_path: path.into(),
                weight: 0,
                ..v1::Grant::default()
            }))
        };
        let updates = [
            insert(agent(&acps(), spec(CODE, false))),
            grant("*"),
            grant("finance"),
        ];
        apply(&mut rib, &updates).expect("accepted");
        let hotels: Label = "class:1.1".parse().expect("a label");
        let count = |rib: &Rib| rib.class_count(hotels).agents;
        assert_eq!((serves(&rib), count(&rib)), (0, 0));
        for (active, classes, agents) in [(true, 2, 1), (false, 0, 0)] {
            let change = modify(agent(&acps(), spec(CODE, active)));
            apply(&mut rib, &[change]).expect("accepted");
            assert_eq!((serves(&rib), count(&rib)), (classes, agents), "{active}");
        }
    }
}
