//! Okapi BM25 over the texts of classes, with fields weighted into one term
//! frequency (BM25F; Robertson and Zaragoza 2009, section 3.6).
//!
//! The tree is small (hundreds to thousands of short texts), so an index in
//! memory of a few hundred lines of arithmetic does; a search engine would be
//! a dependency without a use.

use std::collections::{BTreeMap, HashMap};

use caplane_wire::Label;

use super::{Query, Ranked, Scorer, words};
use crate::taxonomy::{Class, Taxonomy};

/// Saturation of repeated terms; the usual value.
const K1: f64 = 1.2;
/// How much a long text is held against a class. Less than the usual 0.75: a
/// class with many aliases is better described, not more diffuse.
const B: f64 = 0.3;
/// What a term in each field counts.
const WEIGHT_NAME: f64 = 2.0;
const WEIGHT_ALIAS: f64 = 1.5;
const WEIGHT_DESCRIPTION: f64 = 1.0;
/// Of the parent: places the class, without making it answer for its siblings.
const WEIGHT_PARENT: f64 = 0.4;
/// What the score keeps when only one word of several is shared: the word may be
/// there by chance ("suggests", "patterns").
const LONE_WORD: f64 = 0.5;
/// Most distinct terms of a query that are looked up.
const QUERY_TERMS_MAX: usize = 256;
/// Words given as evidence.
const EVIDENCE_MAX: usize = 4;

/// The built-in scorer.
#[derive(Debug)]
pub struct Bm25 {
    labels: Vec<Label>,
    /// Term to the classes that hold it, with the share each would score at query weight 1.
    postings: HashMap<String, Vec<Posting>>,
}

#[derive(Debug, Clone, Copy)]
struct Posting {
    class: u32,
    /// idf x saturated frequency, in units of a term that only one class holds.
    gain: f64,
}

impl Bm25 {
    /// Indexes every class of a taxonomy.
    #[must_use]
    pub fn new(taxonomy: &Taxonomy) -> Self {
        let labels: Vec<Label> = taxonomy.iter().map(|class| class.label).collect();
        let texts: Vec<BTreeMap<String, f64>> = taxonomy
            .iter()
            .map(|class| {
                let parent = class
                    .label
                    .parent()
                    .and_then(|label| taxonomy.by_label(label));
                frequencies(class, parent)
            })
            .collect();
        let lengths: Vec<f64> = texts.iter().map(|text| text.values().sum()).collect();
        let mean = (lengths.iter().sum::<f64>() / lengths.len().max(1) as f64).max(1.0);
        let mut postings: HashMap<String, Vec<Posting>> = HashMap::new();
        for ((class, text), length) in texts.into_iter().enumerate().zip(lengths) {
            let class = u32::try_from(class).expect("a taxonomy has at most CLASSES_MAX classes");
            for (term, frequency) in text {
                let frequency = frequency / (1.0 - B + B * length / mean);
                let gain = frequency * (K1 + 1.0) / (frequency + K1);
                postings
                    .entry(term)
                    .or_default()
                    .push(Posting { class, gain });
            }
        }
        let unit = idf(labels.len(), 1);
        for list in postings.values_mut() {
            let rarity = idf(labels.len(), list.len()) / unit;
            list.iter_mut().for_each(|posting| posting.gain *= rarity);
        }
        Self { labels, postings }
    }
}

impl Scorer for Bm25 {
    fn name(&self) -> &'static str {
        "BM25"
    }

    fn rank(&self, query: &Query<'_>, limit: usize) -> Vec<Ranked> {
        let terms = query_terms(query);
        let mut totals: HashMap<u32, (f64, usize)> = HashMap::new();
        for (term, weight) in &terms {
            for posting in self.postings.get(term).into_iter().flatten() {
                let (total, shared) = totals.entry(posting.class).or_default();
                *total += posting.gain * weight;
                *shared += 1;
            }
        }
        let damped = |(class, (total, shared)): (u32, (f64, usize))| {
            (
                class,
                if shared == 1 && terms.len() > 1 {
                    total * LONE_WORD
                } else {
                    total
                },
            )
        };
        let mut order: Vec<(u32, f64)> = totals.into_iter().map(damped).collect();
        // Equal scores fall to the lower label: the same question always has the same answer.
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(limit);
        order
            .into_iter()
            .map(|(class, total)| Ranked {
                label: self.labels[class as usize],
                score: scaled(total),
                evidence: self.evidence(&terms, class),
            })
            .collect()
    }
}

impl Bm25 {
    fn evidence(&self, terms: &[(String, f64)], class: u32) -> Vec<String> {
        let mut gains: Vec<(f64, &str)> = terms
            .iter()
            .filter_map(|(term, weight)| {
                let posting = self
                    .postings
                    .get(term)?
                    .iter()
                    .find(|posting| posting.class == class)?;
                Some((posting.gain * weight, term.as_str()))
            })
            .collect();
        gains.sort_by(|a, b| b.0.total_cmp(&a.0));
        gains
            .into_iter()
            .take(EVIDENCE_MAX)
            .map(|(_, term)| format!("{term:?}"))
            .collect()
    }
}

/// A total of `n` full matches of unique terms becomes about n / (n + 1): 0.5
/// for one, whatever the size of the taxonomy; never 0 and never 1.
fn scaled(total: f64) -> f64 {
    const FULL_MATCH: f64 = 1.5;
    (total / (total + FULL_MATCH)).clamp(f64::MIN_POSITIVE, 0.999)
}

fn idf(classes: usize, holders: usize) -> f64 {
    let (n, df) = (classes as f64, holders as f64);
    (1.0 + (n - df + 0.5) / (df + 0.5)).ln()
}

/// Weighted frequency of every term of a class, in term order: sums of fractions
/// depend on their order, and every controller must come to the same ones.
fn frequencies(class: &Class, parent: Option<&Class>) -> BTreeMap<String, f64> {
    let mut found: BTreeMap<String, f64> = BTreeMap::new();
    let mut add = |text: &str, weight: f64| {
        words::terms(text, |term| *found.entry(term).or_default() += weight);
    };
    add(class.segment(), WEIGHT_NAME / 2.0);
    add(&class.caption, WEIGHT_NAME / 2.0);
    add(&class.description, WEIGHT_DESCRIPTION);
    class
        .aliases
        .iter()
        .for_each(|alias| add(alias, WEIGHT_ALIAS));
    if let Some(parent) = parent {
        add(&parent.caption, WEIGHT_PARENT);
    }
    found
}

/// Distinct terms of a query, each at the highest weight it came with, in order of first appearance.
fn query_terms(query: &Query<'_>) -> Vec<(String, f64)> {
    let mut terms: Vec<(String, f64)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for &(text, weight) in &query.parts {
        words::terms(text, |term| match places.get(&term) {
            Some(&place) => terms[place].1 = terms[place].1.max(weight),
            None if terms.len() < QUERY_TERMS_MAX => {
                places.insert(term.clone(), terms.len());
                terms.push((term, weight));
            }
            None => {}
        });
    }
    terms
}
