//! Text form of labels (WF-13): `class:7.12.3`, `agent:4711`, `agent:4711.3`, `group:9`, `router:2`.
//!
//! One label has one spelling: no leading zeros, no signs, no spaces, lower case. So text can be compared as text.

use core::fmt;
use core::str::FromStr;

use super::{Label, LabelError, LabelKind};

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            LabelKind::Class => match self.levels() {
                [l1, 0, 0] => write!(f, "class:{l1}"),
                [l1, l2, 0] => write!(f, "class:{l1}.{l2}"),
                [l1, l2, l3] => write!(f, "class:{l1}.{l2}.{l3}"),
            },
            LabelKind::Agent if self.instance() == 0 => write!(f, "agent:{}", self.agent_number()),
            LabelKind::Agent => write!(f, "agent:{}.{}", self.agent_number(), self.instance()),
            LabelKind::Group => write!(f, "group:{}", self.number()),
            LabelKind::Router => write!(f, "router:{}", self.number()),
        }
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({self})")
    }
}

impl FromStr for Label {
    type Err = ParseLabelError;

    /// Reads the text form.
    ///
    /// # Errors
    /// [`ParseLabelError`] with the byte position and the cause.
    fn from_str(text: &str) -> Result<Self, ParseLabelError> {
        let colon = text
            .find(':')
            .ok_or(ParseLabelError::at(0, Cause::NoKind))?;
        let (kind, number_at) = (&text[..colon], colon + 1);
        match kind {
            "class" => class(text, number_at),
            "agent" => agent(text, number_at),
            "group" | "router" => {
                let ([number], _) = numbers::<1>(text, number_at)?;
                let label = if kind == "group" {
                    Label::group(number)
                } else {
                    Label::router(number)
                };
                label.map_err(|cause| ParseLabelError::at(number_at, Cause::Label(cause)))
            }
            _ => Err(ParseLabelError::at(0, Cause::NoKind)),
        }
    }
}

fn class(text: &str, at: usize) -> Result<Label, ParseLabelError> {
    let (levels, places) = numbers::<3>(text, at)?;
    let mut narrow = [0; 3];
    for ((narrow, level), place) in narrow.iter_mut().zip(levels).zip(places) {
        *narrow = u16::try_from(level)
            .ok()
            .filter(|level| *level <= Label::LEVEL_MAX)
            .ok_or(ParseLabelError::at(
                place,
                Cause::Label(LabelError::LevelRange),
            ))?;
        // `7.0` would be a second spelling of `7`, and `7.0.3` no class at all.
        if *narrow == 0 && place != 0 {
            let cause = if place == at {
                LabelError::NoClass
            } else {
                LabelError::LevelGap
            };
            return Err(ParseLabelError::at(place, Cause::Label(cause)));
        }
    }
    Label::class(narrow[0], narrow[1], narrow[2])
        .map_err(|cause| ParseLabelError::at(at, Cause::Label(cause)))
}

fn agent(text: &str, at: usize) -> Result<Label, ParseLabelError> {
    let ([number, instance], [number_at, instance_at]) = numbers::<2>(text, at)?;
    // `agent:4711.0` would be a second spelling of `agent:4711`.
    let instance = match u8::try_from(instance) {
        Ok(0) if instance_at == 0 => 0,
        Ok(instance @ 1..=Label::INSTANCE_MAX) => instance,
        _ => return Err(ParseLabelError::at(instance_at, Cause::Instance)),
    };
    Label::agent(number, instance)
        .map_err(|cause| ParseLabelError::at(number_at, Cause::Label(cause)))
}

/// Up to `N` decimal numbers separated by dots from byte `at` to the end, and the position of each
/// (0 for those that are absent).
fn numbers<const N: usize>(
    text: &str,
    at: usize,
) -> Result<([u32; N], [usize; N]), ParseLabelError> {
    let (mut values, mut places) = ([0; N], [0; N]);
    let mut place = at;
    for (index, digits) in text[at..].split('.').enumerate() {
        if index == N {
            return Err(ParseLabelError::at(place - 1, Cause::TooManyNumbers));
        }
        values[index] = number(digits, place)?;
        places[index] = place;
        place += digits.len() + 1;
    }
    Ok((values, places))
}

fn number(digits: &str, place: usize) -> Result<u32, ParseLabelError> {
    if let Some(offset) = digits.bytes().position(|byte| !byte.is_ascii_digit()) {
        return Err(ParseLabelError::at(place + offset, Cause::NotADigit));
    }
    match digits.as_bytes() {
        [] => Err(ParseLabelError::at(place, Cause::NoNumber)),
        [b'0', _, ..] => Err(ParseLabelError::at(place, Cause::LeadingZero)),
        _ => digits
            .parse()
            .map_err(|_| ParseLabelError::at(place, Cause::Label(LabelError::NumberRange))),
    }
}

/// Why a text is no label, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParseLabelError {
    position: usize,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    NoKind,
    NoNumber,
    NotADigit,
    LeadingZero,
    TooManyNumbers,
    Instance,
    Label(LabelError),
}

impl ParseLabelError {
    const fn at(position: usize, cause: Cause) -> Self {
        Self { position, cause }
    }

    /// Where the text goes wrong, in bytes from its start.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.position
    }
}

impl fmt::Display for ParseLabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a label at byte {}: ", self.position)?;
        match self.cause {
            Cause::NoKind => {
                f.write_str("it must begin with \"class:\", \"agent:\", \"group:\" or \"router:\"")
            }
            Cause::NoNumber => f.write_str("a decimal number must stand here"),
            Cause::NotADigit => f.write_str("only decimal digits and dots may stand here"),
            Cause::LeadingZero => f.write_str("write the number without leading zeros"),
            Cause::TooManyNumbers => {
                f.write_str("a class has at most three levels, an agent one instance, others none")
            }
            Cause::Instance => f.write_str("an instance is 1 to 63; leave it out to mean any"),
            Cause::Label(cause) => cause.fmt(f),
        }
    }
}

impl core::error::Error for ParseLabelError {}
