//! Just enough of Rust's lexical structure to tell code from comments and
//! strings, to find where items end, and to leave test modules out.

/// A Rust file with comments and literals blanked out: same length, same lines.
pub struct Source {
    code: Vec<u8>,
}

/// A function and the lines from its `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub first_line: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(text: &str) -> Source {
        Source {
            code: blank_comments_and_literals(text.as_bytes()),
        }
    }

    /// Lines outside items under `#[cfg(test)]`.
    pub fn lines_without_tests(&self) -> usize {
        let all = self.line_of(self.code.len()) - 1;
        let mut tests = 0;
        let mut from = 0;
        while let Some(at) = self.find(b"#[cfg(test)]", from) {
            let end = self.item_end(at);
            tests += self.line_of(end) - self.line_of(at) + 1;
            from = end;
        }
        all.saturating_sub(tests)
    }

    /// Words of the code: identifiers and keywords, with their lines.
    pub fn words(&self) -> impl Iterator<Item = (&str, usize)> {
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let mut at = 0;
        let mut line = 1;
        std::iter::from_fn(move || {
            while at < self.code.len() && !is_word(&self.code[at]) {
                line += usize::from(self.code[at] == b'\n');
                at += 1;
            }
            let len = self.code[at..].iter().take_while(|b| is_word(b)).count();
            let word = &self.code[at..at + len];
            at += len;
            (len > 0).then(|| (std::str::from_utf8(word).expect("ASCII"), line))
        })
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = self.find(b"fn ", from) {
            from = at + 3;
            if at > 0 && (self.code[at - 1].is_ascii_alphanumeric() || self.code[at - 1] == b'_') {
                continue;
            }
            let end = self.item_end(at);
            if self.code.get(end) != Some(&b'}') {
                continue;
            }
            let name = self.code[from..]
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
                .map(|b| *b as char)
                .collect();
            let first_line = self.line_of(at);
            found.push(Function {
                name,
                first_line,
                lines: self.line_of(end) - first_line + 1,
            });
        }
        found
    }

    fn line_of(&self, at: usize) -> usize {
        1 + self.code[..at].iter().filter(|b| **b == b'\n').count()
    }

    fn find(&self, needle: &[u8], from: usize) -> Option<usize> {
        self.code[from..]
            .windows(needle.len())
            .position(|w| w == needle)
            .map(|n| from + n)
    }

    /// Index of the `;` or closing `}` that ends the item beginning at `at`.
    fn item_end(&self, at: usize) -> usize {
        let mut depth = 0usize;
        for (n, b) in self.code.iter().enumerate().skip(at) {
            match b {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' => depth = depth.saturating_sub(1),
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return n;
                    }
                }
                b';' if depth == 0 => return n,
                _ => {}
            }
        }
        self.code.len()
    }
}

/// Replaces everything in comments, strings and character literals by blanks.
fn blank_comments_and_literals(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = at + skipped(&text[at..], at.checked_sub(1).map(|p| text[p]));
        if end == at {
            at += 1;
            continue;
        }
        for b in &mut out[at..end] {
            if *b != b'\n' {
                *b = b' ';
            }
        }
        at = end;
    }
    out
}

/// Length of the comment or literal that begins here, or 0.
fn skipped(text: &[u8], before: Option<u8>) -> usize {
    let until = |needle: &[u8], from: usize| -> usize {
        text[from..]
            .windows(needle.len())
            .position(|w| w == needle)
            .map_or(text.len(), |n| from + n + needle.len())
    };
    match text {
        [b'/', b'/', ..] => until(b"\n", 0).saturating_sub(1).max(2),
        [b'/', b'*', ..] => block_comment(text),
        [b'"', ..] => string(text),
        [b'r', b'"' | b'#', ..] if !before.is_some_and(is_name) => {
            let hashes = text[1..].iter().take_while(|b| **b == b'#').count();
            if text.get(1 + hashes) != Some(&b'"') {
                return 0;
            }
            let mut close = vec![b'"'];
            close.resize(1 + hashes, b'#');
            until(&close, 2 + hashes)
        }
        // A character, not a lifetime: 'x' or '\n' or '\u{1F600}'.
        [b'\'', b'\\', ..] => until(b"'", 3),
        [b'\'', rest @ ..] => {
            let start = &rest[..rest.len().min(4)];
            let whole = std::str::from_utf8(start)
                .or_else(|e| std::str::from_utf8(&start[..e.valid_up_to()]))
                .unwrap_or_default();
            let width = whole.chars().next().map_or(1, char::len_utf8);
            if rest.get(width) == Some(&b'\'') {
                width + 2
            } else {
                0
            }
        }
        _ => 0,
    }
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Length of a block comment; they nest.
fn block_comment(text: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "let a = \"unsafe\"; // unsafe\n/* unsafe /* x */ */ 'u' r#\"unsafe \" \"# b'\\'' fn<'a>() \"\\\"unsafe\"";
    let source = Source::new(text);
    let words: Vec<_> = source.words().map(|(w, _)| w).collect();
    assert_eq!(words, ["let", "a", "b", "fn", "a"]);
}

#[test]
fn functions_are_measured_to_their_closing_brace() {
    let text = "fn a() -> [u8; 4] {\n  if x { }\n}\ntrait T { fn none(&self); }\npub fn b<F: Fn(u8)>(f: F) where F: Sized {}\n";
    let found = Source::new(text).functions();
    let names: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.lines)).collect();
    assert_eq!(names, [("a", 3), ("b", 1)]);
}

#[test]
fn test_modules_are_left_out() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn t() {}\n}\nfn b() {}\n#[cfg(test)]\nmod more;\n";
    // Lines 2-5 and 7-8 are tests.
    assert_eq!(Source::new(text).lines_without_tests(), 2);
}
