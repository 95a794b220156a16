//! Classification: which class of the taxonomy a skill, or a question, means.

use caplane_wire::Label;

use crate::taxonomy::Taxonomy;

/// What a card says of one skill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkillClaim {
    /// Identifier, unique within the card.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What the skill does.
    pub description: String,
    /// Keywords.
    pub tags: Vec<String>,
    /// Example requests.
    pub examples: Vec<String>,
}

/// How a class was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchedBy {
    /// The skill's id is the class's path or last path segment.
    Exact,
    /// The skill's id or name is an alias or the caption.
    Alias,
    /// Text search above the threshold.
    Text,
    /// Nothing was sure enough: the skill waits for an operator.
    Waiting,
}

impl MatchedBy {
    /// "exact", "alias", "text", "waiting", as the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Alias => "alias",
            Self::Text => "text",
            Self::Waiting => "waiting",
        }
    }
}

/// The decision on one skill.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// The class; `None` while the skill waits for an operator.
    pub class: Option<Label>,
    /// How it was found.
    pub matched_by: MatchedBy,
    /// 1.0 = exact; text scores lie in (0, 1); 0.0 when nothing matched at all.
    pub score: f64,
    /// The evidence in words.
    pub provenance: String,
}

/// One answer to a text query.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The class.
    pub label: Label,
    /// 1.0 = exact; text scores lie in (0, 1).
    pub score: f64,
    /// How it was found.
    pub matched_by: MatchedBy,
}

/// Finds classes in one taxonomy. Owns its index: rebuild it when the taxonomy changes.
pub struct Classifier {}

impl Classifier {
    /// Indexes a taxonomy for exact and BM25 search.
    #[must_use]
    pub fn new(_taxonomy: &Taxonomy) -> Self {
        Self {}
    }

    /// Decides the class of a skill.
    #[must_use]
    pub fn classify(&self, _claim: &SkillClaim) -> Classification {
        Classification {
            class: None,
            matched_by: MatchedBy::Waiting,
            score: 0.0,
            provenance: String::new(),
        }
    }

    /// The classes nearest to a text, best first, at most `limit`.
    #[must_use]
    pub fn find(&self, _text: &str, _limit: usize) -> Vec<Scored> {
        Vec::new()
    }
}
