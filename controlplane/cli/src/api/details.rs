//! What a refusal says as data: the details of its status.

use caplane_proto::v1;
use prost::Message;
use tonic::Status;

/// Prefix of a detail's type.
const TYPE_URL: &str = "type.googleapis.com/caplane.v1.";

/// The details of a refusal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// What was refused and what would be accepted: first what the status is about, then the batch's other faulty
    /// updates as far as it names them.
    pub faults: Vec<v1::ErrorDetail>,
    /// Faulty updates in all; more than `faults` when not all were named.
    pub faulty: usize,
    /// When the same would do (milliseconds).
    pub retry_after_ms: Option<u32>,
}

/// Who leads instead of the controller that answered, when that is why it refused; all empty = nobody known.
pub(super) fn not_leader(status: &Status) -> Option<v1::NotLeader> {
    let rich = v1::RichStatus::decode(status.details()).ok()?;
    let mut details = rich.details.iter();
    let packed =
        details.find(|packed| packed.type_url.strip_prefix(TYPE_URL) == Some("NotLeader"))?;
    v1::NotLeader::decode(packed.value.as_slice()).ok()
}

impl Details {
    /// Reads a status; what is not understood is left out.
    pub(super) fn of(status: &Status) -> Self {
        let mut details = Self::default();
        let Ok(rich) = v1::RichStatus::decode(status.details()) else {
            return details;
        };
        for packed in &rich.details {
            let value = packed.value.as_slice();
            match packed.type_url.strip_prefix(TYPE_URL) {
                Some("ErrorDetail") => details.faults.extend(v1::ErrorDetail::decode(value)),
                Some("WriteFailure") => {
                    let Ok(failure) = v1::WriteFailure::decode(value) else {
                        continue;
                    };
                    details.faulty = failure.faulty as usize;
                    let told = failure.statuses.into_iter().filter_map(|told| told.detail);
                    // The first of them is the one that the status is about.
                    details.faults.extend(told.skip(1));
                }
                Some("RetryAfter") => {
                    let wait = v1::RetryAfter::decode(value);
                    details.retry_after_ms = wait.ok().map(|wait| wait.ms);
                }
                _ => {}
            }
        }
        details.faulty = details.faulty.max(details.faults.len());
        details
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn fault(field: &str) -> v1::ErrorDetail {
        v1::ErrorDetail {
            field: field.into(),
            ..v1::ErrorDetail::default()
        }
    }

    fn packed(name: &str, detail: &impl Message) -> v1::PackedDetail {
        v1::PackedDetail {
            type_url: format!("{TYPE_URL}{name}"),
            value: detail.encode_to_vec(),
        }
    }

    #[test]
    fn who_leads_is_read() {
        let leader = v1::NotLeader {
            name: "c2".into(),
            northbound: "10.0.0.2:7442".into(),
            southbound: String::new(),
        };
        let rich = v1::RichStatus {
            details: vec![
                packed("ErrorDetail", &fault("a")),
                packed("NotLeader", &leader),
            ],
            ..v1::RichStatus::default()
        };
        let status = Status::with_details(Code::Unavailable, "m", rich.encode_to_vec().into());
        assert_eq!(not_leader(&status), Some(leader));
        assert_eq!(not_leader(&Status::unavailable("stopping")), None);
    }

    #[test]
    fn the_first_fault_is_told_once_and_strangers_are_skipped() {
        let told = |field| v1::UpdateStatus {
            detail: Some(fault(field)),
            ..v1::UpdateStatus::default()
        };
        let failure = v1::WriteFailure {
            statuses: vec![told("a"), told("b")],
            faulty: 9,
        };
        let rich = v1::RichStatus {
            details: vec![
                packed("Unheard", &fault("x")),
                packed("ErrorDetail", &fault("a")),
                packed("WriteFailure", &failure),
                packed("RetryAfter", &v1::RetryAfter { ms: 40 }),
            ],
            ..v1::RichStatus::default()
        };
        let status = Status::with_details(Code::NotFound, "m", rich.encode_to_vec().into());
        let details = Details::of(&status);
        assert_eq!(details.faults, [fault("a"), fault("b")]);
        assert_eq!((details.faulty, details.retry_after_ms), (9, Some(40)));
        let garbage = Status::with_details(Code::NotFound, "m", vec![0xff; 9].into());
        assert_eq!(Details::of(&garbage), Details::default());
    }
}
