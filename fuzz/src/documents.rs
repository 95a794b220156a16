//! Documents that operators and agents hand in: agent cards and taxonomy files.

use std::collections::HashSet;

use caplane_controller::card::{AgentCard, CARD_BYTES_MAX, CardForm, NAME_BYTES_MAX, SKILLS_MAX};
use caplane_controller::taxonomy::{PATH_BYTES_MAX, Taxonomy};
use caplane_wire::Aic;

/// An A2A agent card or an ACPs capability specification.
///
/// # Panics
/// When an accepted card passes a bound, or a refusal has no place or cause.
pub fn agent_card(data: &[u8]) {
    match AgentCard::parse(data) {
        Ok(card) => {
            assert!(data.len() <= CARD_BYTES_MAX);
            assert!(!card.name.is_empty() && card.name.len() <= NAME_BYTES_MAX);
            assert!(card.skills.len() <= SKILLS_MAX);
            let ids: HashSet<_> = card.skills.iter().map(|skill| &skill.id).collect();
            assert_eq!(ids.len(), card.skills.len(), "two skills of one id");
            assert!(card.form == CardForm::Acs || card.active && card.aic.is_none());
            if let Some(code) = &card.aic {
                let code = Aic::parse(code).expect("a code that was accepted");
                assert!(!code.as_str().bytes().any(|byte| byte.is_ascii_lowercase()));
            }
        }
        Err(error) => assert!(error.line > 0 && !error.cause.is_empty(), "{error}"),
    }
}

/// A taxonomy file.
///
/// # Panics
/// When an accepted taxonomy is no tree, or a refusal has no cause.
pub fn taxonomy_file(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let taxonomy = match Taxonomy::from_json(text, "fuzz.json") {
        Ok(taxonomy) => taxonomy,
        Err(error) => return assert!(!error.cause.is_empty(), "{error}"),
    };
    for class in taxonomy.iter() {
        assert!(class.label.is_destination(), "{}", class.label);
        assert!(!class.path.is_empty() && class.path.len() <= PATH_BYTES_MAX);
        assert_eq!(taxonomy.by_label(class.label), Some(class));
        assert_eq!(taxonomy.class_by_path(&class.path), Some(class));
        if let Some(parent) = class.label.parent() {
            let parent = taxonomy
                .by_label(parent)
                .expect("a class stands below its parent");
            assert_eq!(
                class.path.rsplit_once('/').map(|(above, _)| above),
                Some(&*parent.path)
            );
        }
    }
    assert_eq!(taxonomy.iter().count(), taxonomy.len());
}
