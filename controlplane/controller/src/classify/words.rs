//! Text to index terms: words in lower case, without the ones that say
//! nothing, cut to a stem so that "booking hotels" meets "book a hotel".
//!
//! The stemmer is small on purpose and knows English endings only; words of
//! other languages pass whole. Both sides of a comparison go through it, so a
//! stem need not be a word.

/// Longest text that is read (bytes): a card's whole description fits many times.
const TEXT_BYTES_MAX: usize = 16_384;

/// Words that say nothing about a class, in lower case, sorted: those of every English
/// sentence, and those that cards and people say of any agent.
#[rustfmt::skip]
const SILENT: &[&str] = &[
    "a", "able", "about", "agent", "agents", "ai", "all", "an", "and", "any", "are", "as",
    "assist", "assistant", "assists", "at", "be", "bot", "by", "can", "capability", "criteria",
    "do", "does", "etc", "for", "from", "given", "has", "have", "help", "helper", "helping",
    "helps", "how", "i", "if", "in", "into", "is", "it", "its", "like", "me", "my", "need", "no",
    "not", "of", "on", "one", "or", "other", "our", "over", "perform", "performs", "please",
    "provide", "provides", "service", "services", "skill", "skills", "so", "some", "such", "task",
    "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "to",
    "tool", "tools", "up", "us", "use", "user", "users", "using", "very", "want", "wants", "was",
    "we", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you", "your",
];

/// Calls `each` with every index term of a text, in order, repeats included.
pub(super) fn terms(text: &str, mut each: impl FnMut(String)) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut word = String::new();
    let mut lower_before = false;
    for c in text[..end].chars().chain(std::iter::once(' ')) {
        let boundary = !c.is_alphanumeric() || (lower_before && c.is_uppercase());
        if boundary && !word.is_empty() {
            let whole = std::mem::take(&mut word);
            // A lone letter is the rest of "customer's" or "N-sided".
            let letter = whole.len() == 1 && whole.as_bytes()[0].is_ascii_alphabetic();
            if !letter && SILENT.binary_search(&whole.as_str()).is_err() {
                each(stem(whole));
            }
        }
        lower_before = c.is_lowercase();
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
}

fn stem(mut word: String) -> String {
    if !word.is_ascii() || word.len() <= 3 {
        return word;
    }
    strip_plural(&mut word);
    if strip_verb_ending(&mut word) && word.ends_with("at") {
        word.push('e');
    }
    // "configuration", "configure"; "activation", "activate"; "connection", "connect". What is
    // left must be long enough to be a word's body: "station" is not "state".
    for (ending, rest) in [("ation", 4), ("ate", 4), ("ion", 5)] {
        if word.len() >= ending.len() + rest && word.ends_with(ending) {
            word.truncate(word.len() - ending.len());
            break;
        }
    }
    if word.len() > 4 && word.ends_with('e') {
        word.pop();
    }
    if word.len() > 5 && word.ends_with("is") {
        word.truncate(word.len() - 1);
        word.push('z');
    }
    word
}

fn strip_plural(word: &mut String) {
    if word.len() > 4 && word.ends_with("ies") {
        word.truncate(word.len() - 3);
        word.push('y');
    } else if ["sses", "xes", "ches", "shes"]
        .iter()
        .any(|ending| word.ends_with(ending))
    {
        word.truncate(word.len() - 2);
    } else if word.ends_with('s')
        && !["ss", "us", "is"]
            .iter()
            .any(|ending| word.ends_with(ending))
    {
        word.pop();
    }
}

/// True when an ending was taken off.
fn strip_verb_ending(word: &mut String) -> bool {
    let ending = match word.as_str() {
        ing if ing.ends_with("ing") => 3,
        ed if ed.ends_with("ed") => 2,
        _ => return false,
    };
    let rest = &word[..word.len() - ending];
    if rest.len() < 3 || !rest.contains(['a', 'e', 'i', 'o', 'u', 'y']) {
        return false;
    }
    word.truncate(rest.len());
    // "planning": the doubled consonant belongs to the ending; "billing", "pass", "buzz" keep theirs.
    let bytes = word.as_bytes();
    let last = bytes[bytes.len() - 1];
    if last == bytes[bytes.len() - 2] && !b"aeioulsz".contains(&last) {
        word.pop();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        terms(text, |term| found.push(term));
        found
    }

    #[test]
    fn silent_words_are_sorted_for_the_search() {
        assert!(SILENT.is_sorted());
    }

    #[test]
    fn endings_meet() {
        for (a, b) in [
            ("booking", "books"),
            ("hotels", "hotel"),
            ("planning", "plan"),
            ("billing", "bill"),
            ("currencies", "currency"),
            ("configuration", "configure"),
            ("configuring", "configures"),
            ("activation", "activate"),
            ("translating", "translation"),
            ("optimisation", "optimize"),
            ("conversions", "conversion"),
            ("rates", "rating"),
            ("taxes", "tax"),
        ] {
            assert_eq!(all(a), all(b), "{a} and {b}");
        }
    }

    #[test]
    fn words_that_look_alike_stay_apart() {
        for (a, b) in [
            ("ring", "r"),
            ("station", "state"),
            ("bus", "bu"),
            ("order", "ordinary"),
        ] {
            assert_ne!(all(a), all(b), "{a} and {b}");
        }
    }

    #[test]
    fn identifiers_and_sentences_give_the_same_terms() {
        assert_eq!(all("book_air_tickets"), ["book", "air", "ticket"]);
        assert_eq!(all("bookAirTickets"), ["book", "air", "ticket"]);
        assert_eq!(
            all("Helps with booking air tickets, given a criteria."),
            ["book", "air", "ticket"]
        );
        assert_eq!(all("Wi-Fi 6"), ["wi", "fi", "6"]);
        assert_eq!(all("zürich ÖBB 北京"), ["zürich", "öbb", "北京"]);
        assert!(all(" the of, a - with!").is_empty());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = "ü".repeat(TEXT_BYTES_MAX);
        assert_eq!(all(&long).len(), 1);
        let odd = format!("x{long}");
        assert_eq!(all(&odd).len(), 1);
    }
}
