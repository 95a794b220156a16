//! The one place that makes northbound statuses.
//!
//! A refusal becomes a code, a message for people, and in
//! `grpc-status-details-bin` the same as data: an `ErrorDetail`, and a
//! `WriteFailure` when several updates of a batch were faulty. Metadata is
//! bounded (clients take 8 KiB and more), so texts are shortened and lists end
//! where they no longer fit. Refuses to know why something is refused.

use caplane_proto::v1;
use prost::Message;
use tonic::{Code, Status};

use crate::access::Role;
use crate::change::{Fault, Refusal};
use crate::commit::CommitError;
use crate::quota::Exceeded;
use crate::store::Leader;

/// Longest message (bytes); percent-encoded it may take three times as much.
const MESSAGE_BYTES_MAX: usize = 1_024;
/// Longest reason and remedy (bytes each).
const TEXT_BYTES_MAX: usize = 400;
/// An `ErrorDetail` beyond it (bytes) tells less of what would be accepted.
const DETAIL_BYTES_MAX: usize = 1_200;
/// Largest `RichStatus` (bytes): 4 KiB in base64.
const RICH_BYTES_MAX: usize = 3 * 1_024;

/// Prefix of a detail's type.
const TYPE_URL: &str = "type.googleapis.com/caplane.v1.";

/// The code of a refusal.
pub(super) fn code(fault: Fault) -> Code {
    match fault {
        Fault::Invalid => Code::InvalidArgument,
        Fault::Exists => Code::AlreadyExists,
        Fault::Missing => Code::NotFound,
        Fault::State => Code::FailedPrecondition,
        Fault::Full => Code::ResourceExhausted,
        Fault::Conflict => Code::Aborted,
        Fault::Denied => Code::PermissionDenied,
        Fault::Store => Code::Unavailable,
    }
}

/// A refusal as a status.
pub(super) fn refused(refusal: &Refusal) -> Status {
    status(code(refusal.fault), refusal)
}

/// A change that did not happen, as a status.
pub(super) fn not_committed(error: &CommitError) -> Status {
    match error {
        CommitError::Refused(refusal) => refused(refusal),
        CommitError::NotLeader(leader) => not_leader(leader.as_deref(), error.to_string()),
        CommitError::Store(_) | CommitError::Uncertain | CommitError::Stopped => {
            unavailable(error.to_string())
        }
    }
}

/// Another controller must be asked.
pub(super) fn not_leader(leader: Option<&Leader>, message: String) -> Status {
    let code = Code::Unavailable;
    let message = cut(message, MESSAGE_BYTES_MAX);
    let detail = leader.map(told).unwrap_or_default();
    let rich = v1::RichStatus {
        code: code as i32,
        message: message.clone(),
        details: vec![packed("NotLeader", &detail)],
    };
    Status::with_details(code, message, rich.encode_to_vec().into())
}

/// A leader, as data.
pub(super) fn told(leader: &Leader) -> v1::NotLeader {
    v1::NotLeader {
        name: cut(leader.name.clone(), TEXT_BYTES_MAX),
        northbound: cut(leader.northbound.clone(), TEXT_BYTES_MAX),
        southbound: cut(leader.southbound.clone(), TEXT_BYTES_MAX),
    }
}

/// What is there now cannot be told; later perhaps.
pub(super) fn unavailable(message: impl Into<String>) -> Status {
    Status::unavailable(cut(message.into(), MESSAGE_BYTES_MAX))
}

/// A fault of this program: `what` broke.
pub(super) fn broke(what: &str) -> Status {
    Status::internal(format!("{what} broke; see the controller's log"))
}

/// A connection without a name: TLS lets none through.
pub(super) fn nameless() -> Status {
    Status::unauthenticated("the connection has no identity")
}

/// A caller that may call nothing.
pub(super) fn stranger(uri: &str) -> Status {
    refused(&Refusal::new(
        Fault::Denied,
        "certificate",
        uri,
        "has no role here",
        "give it one with `roles` or `operators` in controller.toml",
    ))
}

/// A caller that may not make this call; `least` is the role that may, if any.
pub(super) fn not_for(role: Role, path: &str, least: Option<Role>) -> Status {
    let reason = match least {
        Some(least) => format!(
            "needs the role {}, yours is {}",
            least.as_str(),
            role.as_str()
        ),
        None => "is nobody's to call".to_owned(),
    };
    let remedy =
        "ask somebody with that role, or an administrator for it (`roles` in controller.toml)";
    refused(&Refusal::new(Fault::Denied, "call", path, reason, remedy))
}

/// A client that asked for more than is due to it.
pub(super) fn exceeded(exceeded: &Exceeded) -> Status {
    let ms = exceeded.retry_after.as_millis() + 1;
    let ms = u32::try_from(ms).unwrap_or(u32::MAX);
    let mut refusal = Refusal::new(
        Fault::Full,
        &format!("quota.{}", exceeded.kind.field()),
        exceeded.per_second,
        "is what is due to you, and you asked for more",
        format!("ask again in {ms} ms"),
    );
    refusal.about.retry_after_ms = Some(ms);
    refused(&refusal)
}

/// What became of an update that was refused.
pub(super) fn update_status(refusal: &Refusal) -> v1::UpdateStatus {
    v1::UpdateStatus {
        code: code(refusal.fault) as i32,
        message: cut(refusal.to_string(), MESSAGE_BYTES_MAX),
        detail: Some(detail(refusal)),
    }
}

fn status(code: Code, refusal: &Refusal) -> Status {
    let message = cut(refusal.to_string(), MESSAGE_BYTES_MAX);
    let mut rich = v1::RichStatus {
        code: code as i32,
        message: message.clone(),
        details: vec![packed("ErrorDetail", &detail(refusal))],
    };
    if let Some(ms) = refusal.about.retry_after_ms {
        let wait = v1::RetryAfter { ms };
        rich.details.push(packed("RetryAfter", &wait));
    }
    if !refusal.about.further.is_empty() {
        let room = RICH_BYTES_MAX.saturating_sub(rich.encoded_len());
        rich.details
            .push(packed("WriteFailure", &failure(refusal, room)));
    }
    Status::with_details(code, message, rich.encode_to_vec().into())
}

/// All faulty updates, as many as `room` bytes take.
fn failure(first: &Refusal, room: usize) -> v1::WriteFailure {
    let faulty = 1 + first.about.further.len();
    let mut failure = v1::WriteFailure {
        statuses: Vec::new(),
        faulty: u32::try_from(faulty).unwrap_or(u32::MAX),
    };
    // Type, lengths and the number itself.
    let mut left = room.saturating_sub(TYPE_URL.len() + 48);
    for refusal in std::iter::once(first).chain(&first.about.further) {
        let status = v1::UpdateStatus {
            code: code(refusal.fault) as i32,
            message: String::new(),
            detail: Some(detail(refusal)),
        };
        let bytes = status.encoded_len() + 4;
        if bytes > left {
            break;
        }
        left -= bytes;
        failure.statuses.push(status);
    }
    failure
}

fn detail(refusal: &Refusal) -> v1::ErrorDetail {
    let about = &refusal.about;
    let mut detail = v1::ErrorDetail {
        field: cut(refusal.field.clone(), TEXT_BYTES_MAX),
        value: cut(refusal.value.clone(), TEXT_BYTES_MAX),
        reason: cut(refusal.reason.clone(), TEXT_BYTES_MAX),
        remedy: cut(refusal.remedy.clone(), TEXT_BYTES_MAX),
        accepted: about.accepted.clone(),
        update_index: about.update.and_then(|index| u32::try_from(index).ok()),
    };
    while detail.encoded_len() > DETAIL_BYTES_MAX && detail.accepted.pop().is_some() {}
    detail
}

fn packed(name: &str, detail: &impl Message) -> v1::PackedDetail {
    v1::PackedDetail {
        type_url: format!("{TYPE_URL}{name}"),
        value: detail.encode_to_vec(),
    }
}

/// At most `bytes` bytes of a text, whole characters.
fn cut(mut text: String, bytes: usize) -> String {
    const MORE: &str = "...";
    if text.len() > bytes {
        let mut end = bytes - MORE.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rich(status: &Status) -> v1::RichStatus {
        v1::RichStatus::decode(status.details()).expect("a RichStatus")
    }

    fn unpacked<T: Message + Default>(rich: &v1::RichStatus, name: &str) -> T {
        let url = format!("{TYPE_URL}{name}");
        let found = rich.details.iter().find(|detail| detail.type_url == url);
        T::decode(found.expect("there").value.as_slice()).expect("what its type says")
    }

    #[test]
    fn a_refusal_is_told_as_data_too() {
        let refusal = Refusal::new(
            Fault::Invalid,
            "agent.weight",
            70_000,
            "is too large",
            "less",
        )
        .accepting(["0..=65535"])
        .of_update(3);
        let status = refused(&refusal);
        assert_eq!(status.code(), Code::InvalidArgument);
        let rich = rich(&status);
        assert_eq!((rich.code, rich.message.as_str()), (3, status.message()));
        let expected = v1::ErrorDetail {
            field: "updates[3].agent.weight".into(),
            value: "70000".into(),
            reason: "is too large".into(),
            remedy: "less".into(),
            accepted: vec!["0..=65535".into()],
            update_index: Some(3),
        };
        assert_eq!(unpacked::<v1::ErrorDetail>(&rich, "ErrorDetail"), expected);
        assert_eq!(rich.details.len(), 1, "one fault needs no list");
    }

    #[test]
    fn who_asks_for_too_much_is_told_how_long_to_wait() {
        let status = exceeded(&Exceeded {
            kind: crate::quota::Kind::Updates,
            per_second: 100,
            retry_after: std::time::Duration::from_micros(1_500),
        });
        assert_eq!(status.code(), Code::ResourceExhausted);
        let wait: v1::RetryAfter = unpacked(&rich(&status), "RetryAfter");
        assert_eq!(wait.ms, 2, "never too early");
        assert!(
            status
                .message()
                .starts_with("quota.updates_per_second \"100\""),
            "{status}"
        );
    }

    #[test]
    fn who_leads_is_told_as_data() {
        let leader = Leader {
            name: "c2".into(),
            northbound: "10.0.0.2:7442".into(),
            southbound: "10.0.0.2:7443".into(),
        };
        let status = not_committed(&CommitError::NotLeader(Some(leader.into())));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status.message().contains("ask c2 at 10.0.0.2:7442"),
            "{}",
            status.message()
        );
        let told: v1::NotLeader = unpacked(&rich(&status), "NotLeader");
        assert_eq!(told.northbound, "10.0.0.2:7442");
        assert_eq!(told.southbound, "10.0.0.2:7443");
        let status = not_committed(&CommitError::NotLeader(None));
        let told: v1::NotLeader = unpacked(&rich(&status), "NotLeader");
        assert_eq!(told, v1::NotLeader::default());
    }

    #[test]
    fn details_stay_within_what_metadata_takes() {
        // Two bytes a character, and nothing short anywhere.
        let long = "ä".repeat(2_000);
        let refusal = |index| {
            Refusal::new(Fault::Missing, "f", &long, &long, &long)
                .accepting(vec![long.clone(); 100])
                .of_update(index)
        };
        let mut first = refusal(0);
        first.about.further = (1..300).map(refusal).collect();
        let status = refused(&first);
        assert!(
            status.details().len() <= RICH_BYTES_MAX,
            "{}",
            status.details().len()
        );
        assert!(status.message().len() <= MESSAGE_BYTES_MAX);
        let failure: v1::WriteFailure = unpacked(&rich(&status), "WriteFailure");
        assert_eq!(failure.faulty, 300, "all are counted, told or not");

        let small = |index| Refusal::new(Fault::Missing, "f", "v", "r", "m").of_update(index);
        let mut first = small(0);
        first.about.further = (1..10_000).map(small).collect();
        let status = refused(&first);
        assert!(
            status.details().len() <= RICH_BYTES_MAX,
            "{}",
            status.details().len()
        );
        let failure: v1::WriteFailure = unpacked(&rich(&status), "WriteFailure");
        let told: Vec<Option<u32>> = failure
            .statuses
            .iter()
            .map(|status| status.detail.as_ref().expect("always").update_index)
            .collect();
        assert!(told.len() > 50, "{}", told.len());
        assert!(
            told.iter().copied().eq((0..).take(told.len()).map(Some)),
            "in order"
        );
    }
}
