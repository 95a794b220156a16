//! The taxonomy: the versioned tree of capability classes, read from JSON files.
//!
//! A class's place in the tree *is* its label: uid `7.12.3` becomes
//! `class:7.12.3`, so labels of unchanged classes never change (R3). This
//! module refuses to know agents, grants and routes.

use std::collections::{BTreeMap, HashMap};

use caplane_wire::Label;

mod file;

pub(crate) use file::without_position;

/// Largest taxonomy file (bytes): ten times what 5,000 classes take.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most classes of one file.
pub const CLASSES_MAX: usize = 50_000;
/// Longest class path (bytes).
pub const PATH_BYTES_MAX: usize = 512;
/// Longest caption or alias (bytes).
pub const NAME_BYTES_MAX: usize = 256;
/// Longest description (bytes).
pub const DESCRIPTION_BYTES_MAX: usize = 4_096;
/// Most aliases of one class.
pub const ALIASES_MAX: usize = 64;

/// The taxonomy that ships with the controller: network operations, telecom
/// business and everyday classes, at level-1 numbers 101 and up, so that it
/// loads beside the OASF tree (1 to 18).
pub const SHIPPED_JSON: &str = include_str!("../taxonomy/caplane-classes.json");
/// Name of the shipped taxonomy in messages.
pub const SHIPPED_NAME: &str = "caplane-classes.json";

/// One capability class: a node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// `class:…`; the levels are the file's uid.
    pub label: Label,
    /// Path of names from the root, `finance/currency/currency_conversion`.
    pub path: String,
    /// Name for people.
    pub caption: String,
    /// What an agent of this class does.
    pub description: String,
    /// Other names and phrases that mean exactly this class.
    pub aliases: Vec<String>,
}

impl Class {
    /// Last segment of the path.
    #[must_use]
    pub fn segment(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// All classes, in label order.
#[derive(Debug, Clone, Default)]
pub struct Taxonomy {
    /// Sorted by label: a parent stands before its children.
    classes: Vec<Class>,
    by_path: HashMap<String, usize>,
    /// Level-1 number to the file it came from.
    origins: BTreeMap<u16, String>,
    versions: Vec<String>,
}

/// Why a taxonomy file was refused, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaxonomyError {
    /// The file, as the caller named it.
    pub source_name: String,
    /// Line and column, both from 1, when the JSON itself is at fault.
    pub position: Option<(usize, usize)>,
    /// Index in `skills`, from 0.
    pub entry: Option<usize>,
    /// The entry's path, or the JSON field.
    pub path: Option<String>,
    /// What is wrong, and what would be right.
    pub cause: String,
}

impl std::error::Error for TaxonomyError {}

impl std::fmt::Display for TaxonomyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source_name)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        match (self.entry, &self.path) {
            (Some(index), Some(path)) => write!(f, ": skills[{index}] ({path})")?,
            (Some(index), None) => write!(f, ": skills[{index}]")?,
            (None, Some(path)) => write!(f, ": {path}")?,
            (None, None) => {}
        }
        write!(f, ": {}", self.cause)
    }
}

impl Taxonomy {
    /// Reads one taxonomy file: `{"skills": [{"path", "uid", "caption",
    /// "description", "aliases"?}, …], "version"?}`. Other fields are accepted
    /// and skipped; entries may stand in any order.
    ///
    /// # Errors
    /// Names the file, the entry, its path and the cause.
    pub fn from_json(text: &str, source_name: &str) -> Result<Self, TaxonomyError> {
        let file::Checked {
            mut classes,
            version,
        } = file::read(text, source_name)?;
        classes.sort_by_key(|class| class.label);
        let origins = classes
            .iter()
            .map(|class| (class.label.levels()[0], source_name.to_owned()))
            .collect();
        Ok(Self::assemble(classes, origins, vec![version]))
    }

    /// The taxonomy that ships with the controller.
    ///
    /// # Errors
    /// None in a released build: the shipped file is read by the tests.
    pub fn shipped() -> Result<Self, TaxonomyError> {
        Self::from_json(SHIPPED_JSON, SHIPPED_NAME)
    }

    /// Joins two taxonomies whose level-1 numbers do not collide.
    ///
    /// # Errors
    /// Names both files and the number, path or alias that both use.
    pub fn merge(self, other: Self) -> Result<Self, TaxonomyError> {
        let collision = |path: &str, mine: &str, theirs: &str, what: &str| TaxonomyError {
            source_name: theirs.to_owned(),
            position: None,
            entry: None,
            path: Some(path.to_owned()),
            cause: format!("{what} is used by {mine} too; change it in one of the two files"),
        };
        for class in &other.classes {
            let level = class.label.levels()[0];
            let theirs = other.origin(class.label);
            if let Some(mine) = self.origins.get(&level) {
                return Err(collision(
                    &class.path,
                    mine,
                    theirs,
                    &format!("level-1 number {level}"),
                ));
            }
            if let Some(same) = self.class_by_path(&class.path) {
                return Err(collision(
                    &class.path,
                    self.origin(same.label),
                    theirs,
                    "this path",
                ));
            }
        }
        let aliases = file::alias_owners(&self.classes);
        for class in &other.classes {
            for alias in &class.aliases {
                if let Some(owner) = aliases.get(&normalise(alias)) {
                    let mine = format!("{} of {}", owner.path, self.origin(owner.label));
                    let what = format!("alias {alias:?}");
                    return Err(collision(
                        &class.path,
                        &mine,
                        other.origin(class.label),
                        &what,
                    ));
                }
            }
        }
        drop(aliases);
        let Self {
            mut classes,
            mut origins,
            mut versions,
            ..
        } = self;
        classes.extend(other.classes);
        classes.sort_by_key(|class| class.label);
        origins.extend(other.origins);
        versions.extend(other.versions);
        Ok(Self::assemble(classes, origins, versions))
    }

    /// Changes whenever a class, a name or an alias may have changed: each
    /// file's own version with a digest of its text, joined by commas.
    #[must_use]
    pub fn version(&self) -> String {
        self.versions.join(",")
    }

    /// The class with this path.
    #[must_use]
    pub fn class_by_path(&self, path: &str) -> Option<&Class> {
        self.by_path.get(path).map(|&index| &self.classes[index])
    }

    /// The class with this label.
    #[must_use]
    pub fn by_label(&self, label: Label) -> Option<&Class> {
        let index = self
            .classes
            .binary_search_by_key(&label, |class| class.label)
            .ok()?;
        Some(&self.classes[index])
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

    fn assemble(
        classes: Vec<Class>,
        origins: BTreeMap<u16, String>,
        versions: Vec<String>,
    ) -> Self {
        let by_path = classes
            .iter()
            .enumerate()
            .map(|(index, class)| (class.path.clone(), index))
            .collect();
        Self {
            classes,
            by_path,
            origins,
            versions,
        }
    }

    fn origin(&self, label: Label) -> &str {
        self.origins
            .get(&label.levels()[0])
            .map_or("?", String::as_str)
    }
}

/// A name as exact matching compares it: lower case, words joined by `_`.
/// "Currency Conversion", "currency-conversion" and "currencyConversion" are one name.
#[must_use]
pub fn normalise(name: &str) -> String {
    let mut normal = String::with_capacity(name.len() + 4);
    let mut gap = false;
    let mut lower_before = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            gap = true;
            lower_before = false;
            continue;
        }
        if (gap || (lower_before && c.is_uppercase())) && !normal.is_empty() {
            normal.push('_');
        }
        gap = false;
        lower_before = c.is_lowercase() || c.is_numeric();
        normal.extend(c.to_lowercase());
    }
    normal
}

#[cfg(test)]
mod tests;
