//! The words a path is changed with at run time: one command a line, on the
//! standard input of `caplane-load impair` or through [`super::Impairer`].

use super::{Conditions, Direction};
use std::time::Duration;

/// Which directions a command touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Both.
    Both,
    /// One.
    Only(Direction),
}

impl Scope {
    /// Whether `direction` is meant.
    pub fn covers(self, direction: Direction) -> bool {
        match self {
            Scope::Both => true,
            Scope::Only(one) => one == direction,
        }
    }
}

/// One change of the path, or a question to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// Loss probability, 0.0..=1.0.
    Loss(f64),
    /// One-way delay.
    Delay(Duration),
    /// Jitter on top of the delay.
    Jitter(Duration),
    /// Reordering probability, 0.0..=1.0.
    Reorder(f64),
    /// How long reordered packets are held back.
    Hold(Duration),
    /// Duplication probability, 0.0..=1.0.
    Duplicate(f64),
    /// Bits a second.
    Rate(Option<u64>),
    /// Bytes that may wait for the rate.
    Queue(usize),
    /// MTU in bytes, IP header included.
    Mtu(Option<usize>),
    /// Nothing passes.
    Cut,
    /// Ends a cut; other impairments stay.
    Heal,
    /// A perfect path again.
    Clear,
    /// New upstream sockets, as when a NAT forgets its mappings.
    Rebind,
    /// Print conditions and counters.
    Show,
    /// Stop.
    Quit,
}

/// Why a line was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such word.
    #[error("unknown command `{0}`; known: {KNOWN}")]
    Unknown(String),
    /// The word needs a value.
    #[error("`{0}` needs a value, for example `{1}`")]
    NoValue(String, &'static str),
    /// The value is not one.
    #[error("`{word} {value}`: {cause}; for example `{example}`")]
    Value {
        /// The command.
        word: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        cause: &'static str,
        /// A right one.
        example: &'static str,
    },
    /// More words than the command takes.
    #[error("`{0}` is more than `{1}` takes")]
    Trailing(String, String),
}

const KNOWN: &str = "[up|down] loss 5 | delay 20ms | jitter 5ms | reorder 10 | hold 5ms | \
duplicate 1 | rate 100mbit | queue 1250000 | mtu 1400 | cut | heal | clear; rebind | show | quit";

impl Command {
    /// Parses one line: `[up|down] WORD [VALUE]`.
    ///
    /// Percentages may carry `%`; durations take `us`, `ms` or `s` and are
    /// milliseconds without a unit; rates take `kbit`, `mbit` or `gbit` and
    /// are bits a second without; `off` switches rate and mtu off.
    ///
    /// # Errors
    /// [`CommandError`] names the word or value and gives an example.
    pub fn parse(line: &str) -> Result<(Scope, Command), CommandError> {
        let mut words = line.split_whitespace().peekable();
        let scope = match words.peek() {
            Some(&"up") => Scope::Only(Direction::Up),
            Some(&"down") => Scope::Only(Direction::Down),
            _ => Scope::Both,
        };
        if scope != Scope::Both {
            words.next();
        }
        let word = words.next().unwrap_or_default();
        let value = words.next();
        let takes_value = !matches!(word, "cut" | "heal" | "clear" | "rebind" | "show" | "quit");
        let surplus = if takes_value { words.next() } else { value };
        let command = match word {
            "loss" => Command::Loss(percent(word, value, "loss 5")?),
            "delay" => Command::Delay(duration(word, value, "delay 20ms")?),
            "jitter" => Command::Jitter(duration(word, value, "jitter 5ms")?),
            "reorder" => Command::Reorder(percent(word, value, "reorder 10")?),
            "hold" => Command::Hold(duration(word, value, "hold 5ms")?),
            "duplicate" => Command::Duplicate(percent(word, value, "duplicate 1")?),
            "rate" => Command::Rate(rate(word, value, "rate 100mbit")?),
            "queue" => Command::Queue(bytes(word, value, "queue 1250000")?.unwrap_or(usize::MAX)),
            "mtu" => Command::Mtu(bytes(word, value, "mtu 1400")?),
            "cut" => Command::Cut,
            "heal" => Command::Heal,
            "clear" => Command::Clear,
            "rebind" => Command::Rebind,
            "show" => Command::Show,
            "quit" => Command::Quit,
            _ => return Err(CommandError::Unknown(line.trim().to_owned())),
        };
        match surplus {
            Some(extra) => Err(CommandError::Trailing(extra.to_owned(), word.to_owned())),
            None => Ok((scope, command)),
        }
    }

    /// Applies the change to one direction's conditions; questions change nothing.
    pub fn apply(&self, c: &mut Conditions) {
        match *self {
            Command::Loss(p) => c.loss = p,
            Command::Delay(d) => c.delay = d,
            Command::Jitter(d) => c.jitter = d,
            Command::Reorder(p) => c.reorder = p,
            Command::Hold(d) => c.reorder_hold = d,
            Command::Duplicate(p) => c.duplicate = p,
            Command::Rate(r) => c.rate_bits_per_s = r,
            Command::Queue(b) => c.rate_queue_bytes = b,
            Command::Mtu(m) => c.mtu = m,
            Command::Cut => c.cut = true,
            Command::Heal => c.cut = false,
            Command::Clear => *c = Conditions::default(),
            Command::Rebind | Command::Show | Command::Quit => {}
        }
    }
}

fn given<'a>(
    word: &str,
    value: Option<&'a str>,
    example: &'static str,
) -> Result<&'a str, CommandError> {
    value.ok_or_else(|| CommandError::NoValue(word.to_owned(), example))
}

fn wrong(word: &str, value: &str, cause: &'static str, example: &'static str) -> CommandError {
    CommandError::Value {
        word: word.to_owned(),
        value: value.to_owned(),
        cause,
        example,
    }
}

fn percent(word: &str, value: Option<&str>, example: &'static str) -> Result<f64, CommandError> {
    let text = given(word, value, example)?;
    match text.strip_suffix('%').unwrap_or(text).parse::<f64>() {
        Ok(p) if (0.0..=100.0).contains(&p) => Ok(p / 100.0),
        _ => Err(wrong(word, text, "not a percentage from 0 to 100", example)),
    }
}

/// Parses a duration: `us`, `ms`, `s`, or milliseconds without a unit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit_s) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|n| (n, unit)))
        .unwrap_or((text, 1e-3));
    let value = number.parse::<f64>().ok()?;
    // An hour bounds what is held, and keeps every sum of times in range.
    let seconds = value * unit_s;
    (0.0..=3600.0)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

fn duration(
    word: &str,
    value: Option<&str>,
    example: &'static str,
) -> Result<Duration, CommandError> {
    let text = given(word, value, example)?;
    parse_duration(text).ok_or_else(|| wrong(word, text, "not a duration from 0 to 3600s", example))
}

fn rate(
    word: &str,
    value: Option<&str>,
    example: &'static str,
) -> Result<Option<u64>, CommandError> {
    let text = given(word, value, example)?;
    if text == "off" {
        return Ok(None);
    }
    let (number, unit) = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)]
        .into_iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|n| (n, unit)))
        .unwrap_or((text, 1.0));
    match number.parse::<f64>() {
        // Below 1 kbit/s one packet would be held for longer than any test.
        Ok(n) if (1e3..=1e12).contains(&(n * unit)) => Ok(Some((n * unit) as u64)),
        _ => Err(wrong(
            word,
            text,
            "not a rate from 1kbit to 1000gbit",
            example,
        )),
    }
}

fn bytes(
    word: &str,
    value: Option<&str>,
    example: &'static str,
) -> Result<Option<usize>, CommandError> {
    let text = given(word, value, example)?;
    if text == "off" {
        return Ok(None);
    }
    match text.parse::<usize>() {
        Ok(n) if n > 0 => Ok(Some(n)),
        _ => Err(wrong(word, text, "not a number of bytes", example)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_parses_and_applies() {
        let mut c = Conditions::default();
        for line in [
            "loss 5",
            "delay 20ms",
            "jitter 500us",
            "reorder 10%",
            "hold 3",
            "duplicate 1.5",
            "rate 100mbit",
            "queue 4000",
            "mtu 1400",
            "cut",
        ] {
            let (scope, command) = Command::parse(line).expect(line);
            assert_eq!(scope, Scope::Both);
            command.apply(&mut c);
        }
        let expected = Conditions {
            loss: 0.05,
            delay: Duration::from_millis(20),
            jitter: Duration::from_micros(500),
            reorder: 0.1,
            reorder_hold: Duration::from_millis(3),
            duplicate: 0.015,
            rate_bits_per_s: Some(100_000_000),
            rate_queue_bytes: 4000,
            mtu: Some(1400),
            cut: true,
        };
        assert_eq!(c, expected);
        for line in ["heal", "rate off", "mtu off"] {
            Command::parse(line).expect(line).1.apply(&mut c);
        }
        assert!(!c.cut && c.mtu.is_none() && c.rate_bits_per_s.is_none());
        Command::Clear.apply(&mut c);
        assert_eq!(c, Conditions::default());
    }

    #[test]
    fn a_direction_may_stand_first() {
        assert_eq!(
            Command::parse("  down  cut "),
            Ok((Scope::Only(Direction::Down), Command::Cut))
        );
        assert!(Scope::Only(Direction::Up).covers(Direction::Up));
        assert!(!Scope::Only(Direction::Up).covers(Direction::Down));
    }

    #[test]
    fn errors_name_the_word_and_give_an_example() {
        for (line, part) in [
            ("losss 5", "unknown command `losss 5`"),
            ("", "unknown command"),
            ("loss", "`loss` needs a value, for example `loss 5`"),
            ("loss 101", "not a percentage"),
            ("loss nan", "not a percentage"),
            ("delay -1", "not a duration"),
            ("delay 1e300", "not a duration"),
            ("rate 5", "not a rate"),
            ("mtu 0", "not a number of bytes"),
            ("cut now", "`now` is more than `cut` takes"),
            ("loss 5 6", "`6` is more than `loss` takes"),
        ] {
            let error = Command::parse(line).expect_err(line).to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
