//! Reading and checking one taxonomy file. Nothing here outlives the reading.

use std::collections::HashMap;

use caplane_wire::Label;
use serde::Deserialize;

use super::{
    ALIASES_MAX, CLASSES_MAX, Class, DESCRIPTION_BYTES_MAX, FILE_BYTES_MAX, NAME_BYTES_MAX,
    PATH_BYTES_MAX, TaxonomyError, normalise,
};

/// Highest child number of one node: a level is ten bits, 0 means "any below".
const CHILD_MAX: u16 = 1_023;

/// A file that passed every check.
pub(super) struct Checked {
    pub(super) classes: Vec<Class>,
    pub(super) version: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: String,
    skills: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    uid: String,
    #[serde(default)]
    caption: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    aliases: Vec<String>,
}

pub(super) fn read(text: &str, source_name: &str) -> Result<Checked, TaxonomyError> {
    let whole = |cause: String| TaxonomyError {
        source_name: source_name.to_owned(),
        position: None,
        entry: None,
        path: None,
        cause,
    };
    if text.len() > FILE_BYTES_MAX {
        return Err(whole(format!(
            "{} bytes; at most {FILE_BYTES_MAX}",
            text.len()
        )));
    }
    let file = parse(text, source_name)?;
    if file.skills.is_empty() || file.skills.len() > CLASSES_MAX {
        return Err(whole(format!(
            "{} skills; give 1 to {CLASSES_MAX}",
            file.skills.len()
        )));
    }
    let mut classes = Vec::with_capacity(file.skills.len());
    for (index, entry) in file.skills.into_iter().enumerate() {
        let path = entry.path.clone();
        let class = check_entry(entry).map_err(|cause| at(source_name, index, &path, cause))?;
        classes.push(class);
    }
    check_tree(&classes)
        .map_err(|(index, cause)| at(source_name, index, &classes[index].path, cause))?;
    let version = match file.version.as_str() {
        "" => format!("{:016x}", digest(text)),
        version => format!("{version}-{:016x}", digest(text)),
    };
    Ok(Checked { classes, version })
}

fn at(source_name: &str, index: usize, path: &str, cause: String) -> TaxonomyError {
    TaxonomyError {
        source_name: source_name.to_owned(),
        position: None,
        entry: Some(index),
        // A path that is itself at fault may be long: the message stays readable.
        path: Some(path.chars().take(80).collect()),
        cause,
    }
}

fn parse(text: &str, source_name: &str) -> Result<File, TaxonomyError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let file: Result<File, _> = serde_path_to_error::deserialize(&mut json);
    let (error, path) = match file {
        Ok(file) => match json.end() {
            Ok(()) => return Ok(file),
            Err(error) => (error, None),
        },
        Err(error) => {
            let path = Some(error.path().to_string()).filter(|path| path != ".");
            (error.into_inner(), path)
        }
    };
    Err(TaxonomyError {
        source_name: source_name.to_owned(),
        position: Some((error.line(), error.column())),
        entry: None,
        path,
        cause: without_position(&error),
    })
}

/// serde_json ends its messages with the position, which we show in front.
pub(crate) fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let suffix = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&suffix).unwrap_or(&text).to_owned()
}

/// Checks what one entry can tell by itself.
fn check_entry(entry: Entry) -> Result<Class, String> {
    let Entry {
        path,
        uid,
        caption,
        description,
        aliases,
    } = entry;
    let label = parse_uid(&uid)?;
    if path.len() > PATH_BYTES_MAX {
        return Err(format!(
            "the path is {} bytes long; at most {PATH_BYTES_MAX}",
            path.len()
        ));
    }
    let segment_fits = |segment: &str| {
        !segment.is_empty() && !segment.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if !path.split('/').all(segment_fits) {
        return Err("the path must be names without blanks, joined by '/'".to_owned());
    }
    let (segments, levels) = (path.split('/').count(), uid.split('.').count());
    if segments != levels {
        return Err(format!(
            "the path has {segments} segments and uid {uid:?} has {levels}; they must be as many"
        ));
    }
    check_length("caption", &caption, NAME_BYTES_MAX)?;
    check_length("description", &description, DESCRIPTION_BYTES_MAX)?;
    if aliases.len() > ALIASES_MAX {
        return Err(format!("{} aliases; at most {ALIASES_MAX}", aliases.len()));
    }
    for alias in &aliases {
        check_length("alias", alias, NAME_BYTES_MAX)?;
        if normalise(alias).is_empty() {
            return Err(format!("alias {alias:?} holds no letter and no digit"));
        }
    }
    let mut class = Class {
        label,
        path,
        caption,
        description,
        aliases,
    };
    if class.caption.is_empty() {
        class.caption = class.segment().replace('_', " ");
    }
    Ok(class)
}

fn check_length(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!(
            "a {what} of {} bytes; at most {bytes_max}",
            text.len()
        ));
    }
    Ok(())
}

/// `"7.12.3"` to `class:7.12.3`.
fn parse_uid(uid: &str) -> Result<Label, String> {
    let shape = |cause: &str| {
        format!(
            "uid {uid:?} {cause}; write one to three numbers 1..={CHILD_MAX} joined by dots, \"7.12.3\""
        )
    };
    let mut levels = [0_u16; 3];
    for (depth, part) in uid.split('.').enumerate() {
        let Some(level) = levels.get_mut(depth) else {
            return Err(shape("is deeper than three levels"));
        };
        let digits =
            !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
        if !digits || part.starts_with('0') {
            return Err(shape(&format!("has {part:?} where a number belongs")));
        }
        *level = part
            .parse()
            .ok()
            .filter(|number| *number <= CHILD_MAX)
            .ok_or_else(|| shape(&format!("has {part}, past {CHILD_MAX}")))?;
    }
    Label::class(levels[0], levels[1], levels[2]).map_err(|e| shape(&e.to_string()))
}

/// Checks what the entries say together. The index is that of the entry at fault.
fn check_tree(classes: &[Class]) -> Result<(), (usize, String)> {
    let mut by_label: HashMap<Label, usize> = HashMap::with_capacity(classes.len());
    let mut by_path: HashMap<&str, usize> = HashMap::with_capacity(classes.len());
    for (index, class) in classes.iter().enumerate() {
        if let Some(first) = by_label.insert(class.label, index) {
            let cause = format!("has the uid of skills[{first}] ({})", classes[first].path);
            return Err((index, cause));
        }
        if let Some(first) = by_path.insert(&class.path, index) {
            return Err((index, format!("has the path of skills[{first}]")));
        }
    }
    for (index, class) in classes.iter().enumerate() {
        let Some(parent) = class.label.parent() else {
            continue;
        };
        let Some(&parent_index) = by_label.get(&parent) else {
            return Err((index, format!("its parent {parent} is not in the file")));
        };
        let parent_path = &classes[parent_index].path;
        let own = class.path.rsplit_once('/').map_or("", |(above, _)| above);
        if own != parent_path {
            let cause = format!("its uid stands under {parent_path:?}, its path under {own:?}");
            return Err((index, cause));
        }
    }
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (index, class) in classes.iter().enumerate() {
        for alias in &class.aliases {
            match owners.insert(normalise(alias), index) {
                Some(first) if first != index => {
                    let other = &classes[first].path;
                    return Err((index, format!("alias {alias:?} belongs to {other} already")));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Normalised alias to its class.
pub(super) fn alias_owners(classes: &[Class]) -> HashMap<String, &Class> {
    classes
        .iter()
        .flat_map(|class| {
            class
                .aliases
                .iter()
                .map(move |alias| (normalise(alias), class))
        })
        .collect()
}

/// FNV-1a, 64 bits: tells versions of a file apart, protects against nothing.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
