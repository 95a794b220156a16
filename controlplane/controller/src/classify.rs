//! Classification: which class of the taxonomy a skill, or a question, means (R3).
//!
//! A name that *is* a class (its path, its last segment, an alias, its
//! caption) wins; otherwise a text search decides, if it is sure enough; else
//! the skill waits for an operator. Every decision says why. This module
//! refuses to know identities and grants: a class found here is a claim, not a
//! route.

use std::collections::HashMap;

use caplane_wire::Label;

use crate::taxonomy::{Taxonomy, normalise};

mod bm25;
mod words;

pub use bm25::Bm25;

/// Text scores below this leave a skill waiting. On the shipped classes, with and without
/// the OASF tree beside them, a class described in other words scores 0.58 and more, and
/// words shared by chance stay below 0.4 (measured by this module's tests).
pub const THRESHOLD: f64 = 0.45;
/// Most answers of [`Classifier::find`].
pub const FIND_MAX: usize = 100;

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
    /// The text is the class's label, path or last path segment.
    Exact,
    /// The text is an alias or the caption.
    Alias,
    /// Text search, above the threshold.
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
    /// The evidence in words.
    pub provenance: String,
}

/// Ranks the classes of one taxonomy by nearness of meaning to a text. BM25
/// is built in; an embedding model would be another.
pub trait Scorer: Send + Sync {
    /// Name for provenance, "BM25".
    fn name(&self) -> &'static str;
    /// The nearest classes, best first, at most `limit`, scores in (0, 1).
    fn rank(&self, query: &Query<'_>, limit: usize) -> Vec<Ranked>;
}

/// Texts to look for, each with a weight above 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query<'a> {
    /// Text and weight.
    pub parts: Vec<(&'a str, f64)>,
}

/// One class as a [`Scorer`] sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The class.
    pub label: Label,
    /// In (0, 1).
    pub score: f64,
    /// The words that spoke for it, strongest first.
    pub evidence: Vec<String>,
}

/// Finds classes in one taxonomy. Owns its index: rebuild it when the taxonomy changes.
pub struct Classifier {
    names: HashMap<String, Named>,
    paths: HashMap<Label, String>,
    scorer: Box<dyn Scorer>,
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scorer = self.scorer.name();
        f.debug_struct("Classifier")
            .field("scorer", &scorer)
            .field("names", &self.names.len())
            .finish()
    }
}

/// What a normalised name means. A better rank hides a worse one; two classes
/// of the same rank make the name ambiguous, so it means neither.
#[derive(Clone, Copy)]
struct Named {
    rank: Rank,
    class: Option<Label>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Path,
    Segment,
    Alias,
    Caption,
}

impl Rank {
    fn words(self) -> &'static str {
        match self {
            Self::Path => "the path",
            Self::Segment => "the last path segment",
            Self::Alias => "an alias",
            Self::Caption => "the caption",
        }
    }

    fn matched_by(self) -> MatchedBy {
        match self {
            Self::Path | Self::Segment => MatchedBy::Exact,
            Self::Alias | Self::Caption => MatchedBy::Alias,
        }
    }
}

impl Classifier {
    /// Indexes a taxonomy for exact and BM25 search.
    #[must_use]
    pub fn new(taxonomy: &Taxonomy) -> Self {
        Self::with_scorer(taxonomy, Box::new(Bm25::new(taxonomy)))
    }

    /// Indexes a taxonomy for exact search beside another scorer, built from the same taxonomy.
    #[must_use]
    pub fn with_scorer(taxonomy: &Taxonomy, scorer: Box<dyn Scorer>) -> Self {
        let mut names = HashMap::new();
        for class in taxonomy.iter() {
            let mut add = |name: &str, rank: Rank| add_name(&mut names, name, rank, class.label);
            add(&class.path, Rank::Path);
            add(class.segment(), Rank::Segment);
            add(&class.caption, Rank::Caption);
            class
                .aliases
                .iter()
                .for_each(|alias| add(alias, Rank::Alias));
        }
        let paths = taxonomy
            .iter()
            .map(|class| (class.label, class.path.clone()))
            .collect();
        Self {
            names,
            paths,
            scorer,
        }
    }

    /// Decides the class of a skill: by its id, else by its name, else by all it says of itself.
    #[must_use]
    pub fn classify(&self, claim: &SkillClaim) -> Classification {
        for (what, text) in [("id", &claim.id), ("name", &claim.name)] {
            if let Some((label, rank)) = self.named(text) {
                return Classification {
                    class: Some(label),
                    matched_by: rank.matched_by(),
                    score: 1.0,
                    provenance: format!(
                        "skill {what} {text:?} is {} of {}",
                        rank.words(),
                        self.path(label)
                    ),
                };
            }
        }
        // A card's own name for the skill says more than its prose, and examples
        // mostly name what the skill is applied to.
        let mut parts = vec![
            (claim.id.as_str(), 1.0),
            (claim.name.as_str(), 1.0),
            (claim.description.as_str(), 0.7),
        ];
        parts.extend(claim.tags.iter().map(|tag| (tag.as_str(), 0.8)));
        parts.extend(claim.examples.iter().map(|example| (example.as_str(), 0.2)));
        self.decide(&self.scorer.rank(&Query { parts }, 2))
    }

    /// The classes nearest to a text, best first, at most `limit` and [`FIND_MAX`].
    #[must_use]
    pub fn find(&self, text: &str, limit: usize) -> Vec<Scored> {
        let limit = limit.min(FIND_MAX);
        let by_label = text
            .trim()
            .parse::<Label>()
            .ok()
            .filter(|label| self.paths.contains_key(label));
        let exact = by_label
            .map(|label| (label, MatchedBy::Exact, "the label"))
            .or_else(|| {
                let (label, rank) = self.named(text)?;
                Some((label, rank.matched_by(), rank.words()))
            });
        let mut found: Vec<Scored> = exact
            .into_iter()
            .map(|(label, matched_by, what)| Scored {
                label,
                score: 1.0,
                matched_by,
                provenance: format!("{:?} is {what} of {}", text.trim(), self.path(label)),
            })
            .collect();
        let ranked = self.scorer.rank(
            &Query {
                parts: vec![(text, 1.0)],
            },
            limit,
        );
        let others = ranked
            .into_iter()
            .filter(|ranked| Some(ranked.label) != exact.map(|(label, ..)| label));
        let scorer = self.scorer.name();
        found.extend(others.map(|ranked| Scored {
            label: ranked.label,
            score: ranked.score,
            matched_by: MatchedBy::Text,
            provenance: format!(
                "{scorer} finds {} at {:.2} by {}",
                self.path(ranked.label),
                ranked.score,
                ranked.evidence.join(", ")
            ),
        }));
        found.truncate(limit);
        found
    }

    fn decide(&self, ranked: &[Ranked]) -> Classification {
        let scorer = self.scorer.name();
        let Some(best) = ranked.first() else {
            return Classification {
                class: None,
                matched_by: MatchedBy::Waiting,
                score: 0.0,
                provenance: format!(
                    "{scorer} found no class that shares a word; waits for an operator"
                ),
            };
        };
        let next = ranked.get(1).map_or_else(String::new, |second| {
            format!("; next {} at {:.2}", self.path(second.label), second.score)
        });
        let words = best.evidence.join(", ");
        let (path, score) = (self.path(best.label), best.score);
        if score < THRESHOLD {
            return Classification {
                class: None,
                matched_by: MatchedBy::Waiting,
                score,
                provenance: format!(
                    "{scorer} is not sure: nearest {path} at {score:.2} by {words}, below {THRESHOLD}{next}; waits for an operator"
                ),
            };
        }
        Classification {
            class: Some(best.label),
            matched_by: MatchedBy::Text,
            score,
            provenance: format!("{scorer} puts it in {path} at {score:.2} by {words}{next}"),
        }
    }

    fn named(&self, text: &str) -> Option<(Label, Rank)> {
        let named = self.names.get(&normalise(text))?;
        named.class.map(|label| (label, named.rank))
    }

    fn path(&self, label: Label) -> &str {
        self.paths.get(&label).map_or("?", String::as_str)
    }
}

fn add_name(names: &mut HashMap<String, Named>, name: &str, rank: Rank, label: Label) {
    let normal = normalise(name);
    if normal.is_empty() {
        return;
    }
    let named = names.entry(normal).or_insert(Named {
        rank,
        class: Some(label),
    });
    if rank < named.rank {
        *named = Named {
            rank,
            class: Some(label),
        };
    } else if rank == named.rank && named.class != Some(label) {
        named.class = None;
    }
}

#[cfg(test)]
mod tests;
