//! The taxonomy: the versioned tree of capability classes, read from JSON files.
//!
//! A class's place in the tree *is* its label: uid `7.12.3` becomes
//! `class:7.12.3`. This module refuses to know agents, grants and routes.

use caplane_wire::Label;

/// One capability class: a node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// `class:…`; the levels are the file's uid.
    pub label: Label,
    /// Path of names from the root, `finance/currency/convert_currency`.
    pub path: String,
    /// Name for people.
    pub caption: String,
    /// What an agent of this class does.
    pub description: String,
    /// Other names and phrases that mean exactly this class.
    pub aliases: Vec<String>,
}

/// All classes, in label order.
#[derive(Debug, Clone, Default)]
pub struct Taxonomy {
    classes: Vec<Class>,
}

/// Why a taxonomy file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {cause}")]
pub struct TaxonomyError {
    /// The file, as the caller named it.
    pub source_name: String,
    /// What is wrong.
    pub cause: String,
}

impl Taxonomy {
    /// Reads one taxonomy file.
    ///
    /// # Errors
    /// Names the file, the entry, its path and the cause.
    pub fn from_json(_text: &str, _source_name: &str) -> Result<Self, TaxonomyError> {
        Ok(Self::default())
    }

    /// Joins two taxonomies whose level-1 numbers do not collide.
    ///
    /// # Errors
    /// Names both files and what they share.
    pub fn merge(self, _other: Self) -> Result<Self, TaxonomyError> {
        Ok(self)
    }

    /// Version as text: each file's name and version.
    #[must_use]
    pub fn version(&self) -> String {
        String::new()
    }

    /// The class with this path.
    #[must_use]
    pub fn class_by_path(&self, path: &str) -> Option<&Class> {
        self.classes.iter().find(|class| class.path == path)
    }

    /// The class with this label.
    #[must_use]
    pub fn by_label(&self, label: Label) -> Option<&Class> {
        self.classes.iter().find(|class| class.label == label)
    }

    /// Every class, in label order: a parent before its children.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Class> {
        self.classes.iter()
    }

    /// How many classes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// True when there is no class.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }
}
