//! The committed counts: one line a case. Refuses to know what is counted.

/// Beside the sources of the bench.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gates/counts.txt");

/// Counts and the compiler they belong to.
pub struct Table {
    pub compiler: String,
    pub counts: Vec<(String, u64)>,
}

impl Table {
    /// # Errors
    ///
    /// The file is missing or does not read.
    pub fn read() -> Result<Table, String> {
        let text = std::fs::read_to_string(PATH).map_err(|e| format!("{PATH}: {e}"))?;
        let mut table = Table {
            compiler: String::new(),
            counts: Vec::new(),
        };
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("#", _)) | None => {}
                Some(("compiler", version)) => table.compiler = version.trim().to_owned(),
                Some((name, count)) => {
                    let count = count.trim().parse();
                    let count = count.map_err(|e| format!("{PATH}: {line}: {e}"))?;
                    table.counts.push((name.to_owned(), count));
                }
            }
        }
        Ok(table)
    }

    pub fn count(&self, name: &str) -> Option<u64> {
        let mut counts = self.counts.iter();
        counts.find(|(known, _)| known == name).map(|(_, n)| *n)
    }

    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self) -> Result<(), String> {
        let mut text = String::from(
            "# Instructions per 1,000 messages (lookups, copies), counted by callgrind; `make gates` compares.\n\
             # Written by: cargo bench -p caplane-core --bench gates -- --update\n",
        );
        text += &format!("compiler {}\n", self.compiler);
        for (name, count) in &self.counts {
            text += &format!("{name:<24} {count}\n");
        }
        std::fs::write(PATH, text).map_err(|e| format!("{PATH}: {e}"))
    }
}
