//! The taxonomy, its classifier and the salts of identity codes: loaded once and never changed while running.

use std::path::{Path, PathBuf};

use caplane_wire::Label;

use crate::classify::{Classifier, SkillClaim};
use crate::compile::COMPILER_VERSION;
use crate::record::SkillRecord;
use crate::salts::Salts;
use crate::store::Epoch;
use crate::taxonomy::{Class, SHIPPED_JSON, SHIPPED_NAME, Taxonomy, TaxonomyError};

/// What the controller knows of capability classes and of identity codes.
pub struct Knowledge {
    taxonomy: Taxonomy,
    classifier: Classifier,
    epoch: Epoch,
    salts: Salts,
}

/// Why the taxonomy could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KnowledgeError {
    /// A file cannot be read.
    #[error("taxonomy {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is wrong.
    #[error("taxonomy {0}")]
    Invalid(#[from] TaxonomyError),
}

impl Knowledge {
    /// Loads and joins these files; none = the shipped taxonomy.
    ///
    /// # Errors
    /// [`KnowledgeError`], naming the file.
    pub fn load(files: &[PathBuf]) -> Result<Self, KnowledgeError> {
        let mut joined: Option<Taxonomy> = None;
        for path in files {
            let next = read(path)?;
            joined = Some(match joined {
                None => next,
                Some(before) => before.merge(next)?,
            });
        }
        let taxonomy = match joined {
            Some(taxonomy) => taxonomy,
            None => Taxonomy::from_json(SHIPPED_JSON, SHIPPED_NAME)?,
        };
        Ok(Self::new(taxonomy))
    }

    /// Indexes a taxonomy.
    #[must_use]
    pub fn new(taxonomy: Taxonomy) -> Self {
        let classifier = Classifier::new(&taxonomy);
        let epoch = Epoch {
            compiler: COMPILER_VERSION,
            taxonomy: format!("{} {:016x}", taxonomy.version(), digest(&taxonomy)),
        };
        Self {
            taxonomy,
            classifier,
            epoch,
            salts: Salts::default(),
        }
    }

    /// With these salts, and no others.
    #[must_use]
    pub fn with_salts(self, salts: Salts) -> Self {
        Self { salts, ..self }
    }

    /// Whose identity codes can be checked.
    #[must_use]
    pub fn salts(&self) -> &Salts {
        &self.salts
    }

    /// The classes.
    #[must_use]
    pub fn taxonomy(&self) -> &Taxonomy {
        &self.taxonomy
    }

    /// The search over them.
    #[must_use]
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// What stored classifications and routes were made from.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The class that a path ("finance/currency") or a label text ("class:103.2") names.
    #[must_use]
    pub fn class(&self, text: &str) -> Option<&Class> {
        self.taxonomy.class_by_path(text).or_else(|| {
            let label: Label = text.parse().ok()?;
            self.taxonomy.by_label(label)
        })
    }

    /// Path of a class; empty for one the taxonomy does not have.
    #[must_use]
    pub fn path(&self, label: Label) -> &str {
        self.taxonomy
            .by_label(label)
            .map_or("", |class| class.path.as_str())
    }

    /// Classifies the skills of a card.
    #[must_use]
    pub fn classify(&self, skills: &[SkillClaim]) -> Vec<SkillRecord> {
        skills
            .iter()
            .map(|claim| {
                let decided = self.classifier.classify(claim);
                SkillRecord {
                    id: claim.id.clone(),
                    name: claim.name.clone(),
                    class: decided.class.map_or(0, Label::bits),
                    matched_by: decided.matched_by.as_str().to_owned(),
                    score: decided.score,
                    provenance: decided.provenance,
                }
            })
            .collect()
    }
}

fn read(path: &Path) -> Result<Taxonomy, KnowledgeError> {
    let text = std::fs::read_to_string(path).map_err(|source| KnowledgeError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(Taxonomy::from_json(&text, &path.display().to_string())?)
}

/// FNV-1a over all that classification depends on: the same in every run and on every machine.
fn digest(taxonomy: &Taxonomy) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for class in taxonomy.iter() {
        eat(&class.label.bits().to_be_bytes());
        eat(class.path.as_bytes());
        eat(class.caption.as_bytes());
        eat(class.description.as_bytes());
        for alias in &class.aliases {
            eat(alias.as_bytes());
        }
    }
    hash
}
