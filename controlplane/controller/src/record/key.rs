//! Names of objects, and how they are stored.

use caplane_wire::Label;

use super::{CounterKind, RecordError};

/// Names one object of the desired state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// By kind.
    Counter(CounterKind),
    /// By name.
    Tenant(String),
    /// By URI.
    Agent(String),
    /// Agent URI, class path.
    Grant(String, String),
    /// Agent URI, skill id.
    Override(String, String),
    /// By name.
    Router(String),
    /// Names in order.
    Link(String, String),
    /// From, to, class path.
    Permission(u32, u32, String),
    /// By name.
    Group(String),
    /// Label bits.
    Attachment(u32),
    /// Caller, idempotency key.
    Request(String, String),
    /// Generation.
    Pending(u64),
    /// By name.
    Policy(String),
    /// By name.
    Policer(String),
}

impl ObjectKey {
    /// Number of the kind: first byte of the stored key.
    #[must_use]
    pub fn tag(&self) -> u8 {
        match self {
            Self::Counter(_) => 1,
            Self::Tenant(_) => 2,
            Self::Agent(_) => 3,
            Self::Grant(..) => 4,
            Self::Override(..) => 5,
            Self::Router(_) => 6,
            Self::Link(..) => 7,
            Self::Permission(..) => 8,
            Self::Group(_) => 9,
            Self::Attachment(_) => 10,
            Self::Request(..) => 12,
            Self::Pending(_) => 13,
            Self::Policy(_) => 15,
            Self::Policer(_) => 16,
        }
    }

    /// The stored key: tag, then each part; texts carry their length in two bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.tag()];
        let text = |out: &mut Vec<u8>, text: &str| {
            let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        match self {
            Self::Counter(kind) => out.push(*kind as u8),
            Self::Tenant(name)
            | Self::Agent(name)
            | Self::Router(name)
            | Self::Group(name)
            | Self::Policy(name)
            | Self::Policer(name) => {
                text(&mut out, name);
            }
            Self::Grant(a, b) | Self::Override(a, b) | Self::Link(a, b) | Self::Request(a, b) => {
                text(&mut out, a);
                text(&mut out, b);
            }
            Self::Permission(from, to, class) => {
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&to.to_be_bytes());
                text(&mut out, class);
            }
            Self::Attachment(label) => out.extend_from_slice(&label.to_be_bytes()),
            Self::Pending(generation) => out.extend_from_slice(&generation.to_be_bytes()),
        }
        out
    }

    /// What kind it is and what names it, for people.
    #[must_use]
    pub fn words(&self) -> (&'static str, String) {
        match self {
            Self::Counter(kind) => ("counter", format!("{kind:?}")),
            Self::Tenant(name) => ("tenant", name.clone()),
            Self::Agent(uri) => ("agent", uri.clone()),
            Self::Grant(agent, path) => ("grant", format!("{agent} {path}")),
            Self::Override(agent, skill) => ("override", format!("{agent} {skill}")),
            Self::Router(name) => ("router", name.clone()),
            Self::Link(a, b) => ("link", format!("{a} {b}")),
            Self::Permission(from, to, path) => {
                ("permission", format!("tenant {from} to tenant {to} {path}"))
            }
            Self::Group(name) => ("group", name.clone()),
            Self::Attachment(label) => ("attachment", Label::from_bits(*label).to_string()),
            Self::Request(caller, key) => ("idempotency_key", format!("{caller} {key}")),
            Self::Pending(generation) => ("pending_commit", generation.to_string()),
            Self::Policy(name) => ("policy", name.clone()),
            Self::Policer(name) => ("policer", name.clone()),
        }
    }

    /// Reads a stored key.
    ///
    /// # Errors
    /// An unknown kind, or bytes that are no key of it.
    pub fn from_bytes(key: &[u8]) -> Result<Self, RecordError> {
        let (&tag, mut rest) = key.split_first().ok_or_else(|| RecordError {
            tag: 0,
            cause: "the key is empty".into(),
        })?;
        let broken = || RecordError {
            tag,
            cause: "the key is broken".into(),
        };
        let read = key_of(tag, &mut rest).ok_or_else(broken)?;
        if rest.is_empty() {
            Ok(read)
        } else {
            Err(broken())
        }
    }
}

/// The key of a kind that `rest` begins with; `None` = there is none.
fn key_of(tag: u8, rest: &mut &[u8]) -> Option<ObjectKey> {
    fn number<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (number, after) = rest.split_first_chunk::<N>()?;
        *rest = after;
        Some(*number)
    }
    fn text(rest: &mut &[u8]) -> Option<String> {
        let len = usize::from(u16::from_be_bytes(number(rest)?));
        let (text, after) = rest.split_at_checked(len)?;
        *rest = after;
        String::from_utf8(text.to_vec()).ok()
    }
    Some(match tag {
        1 => {
            let [kind] = number(rest)?;
            ObjectKey::Counter(CounterKind::from_number(kind.into())?)
        }
        2 => ObjectKey::Tenant(text(rest)?),
        3 => ObjectKey::Agent(text(rest)?),
        4 => ObjectKey::Grant(text(rest)?, text(rest)?),
        5 => ObjectKey::Override(text(rest)?, text(rest)?),
        6 => ObjectKey::Router(text(rest)?),
        7 => ObjectKey::Link(text(rest)?, text(rest)?),
        8 => ObjectKey::Permission(
            u32::from_be_bytes(number(rest)?),
            u32::from_be_bytes(number(rest)?),
            text(rest)?,
        ),
        9 => ObjectKey::Group(text(rest)?),
        10 => ObjectKey::Attachment(u32::from_be_bytes(number(rest)?)),
        12 => ObjectKey::Request(text(rest)?, text(rest)?),
        13 => ObjectKey::Pending(u64::from_be_bytes(number(rest)?)),
        15 => ObjectKey::Policy(text(rest)?),
        16 => ObjectKey::Policer(text(rest)?),
        _ => return None,
    })
}
