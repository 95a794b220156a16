//! Why a command did not do what was asked, as a person reads it and as a
//! script sees it.

use caplane_client::{AttachError, Fault, NoticeCode, ResolveError, SendError};
use serde_json::{Value, json};
use tonic::Code;

use crate::api::{ApiError, Details};
use crate::fabric::FabricError;
use crate::output::clean;
use crate::pki::PkiError;

/// Exit codes. Stable: scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed while running.
    Failed = 1,
    /// Wrong arguments, files or configuration.
    Usage = 2,
    /// It is not there, or nothing matched.
    NotFound = 3,
    /// It is there already.
    Exists = 4,
    /// The identity may not do this.
    NotAllowed = 5,
    /// A controller or router could not be reached, or did not answer in time.
    Unreachable = 6,
    /// A message was not delivered, or not answered.
    Undelivered = 7,
    /// `caplane up --once` saw a message lost, changed, doubled or out of order; `caplane audit verify` that the log is not
    /// whole.
    CheckFailed = 8,
    /// Somebody else wrote first (`--expect-generation`).
    Conflict = 9,
    /// `caplane diff` found differences.
    Differs = 10,
}

/// The table of exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed while running
  2  wrong arguments, files or configuration
  3  it is not there, or nothing matched
  4  it is there already
  5  this identity may not do this
  6  a controller or router could not be reached, or did not answer in time
  7  a message was not delivered, or not answered
  8  `up --once` saw a message lost, changed, doubled or out of order; `audit verify`, that the log was changed
  9  somebody else wrote first (--expect-generation, apply)
  10 `diff` found differences";

/// An error of a command: what failed, on what, what to do; and its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For people.
    pub text: String,
    /// What the controller said as data, if it did.
    pub details: Details,
}

impl Failure {
    /// A failure of one's own.
    #[must_use]
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
            details: Details::default(),
        }
    }

    /// For programs: an object of the form "caplane.error/1".
    #[must_use]
    pub fn json(&self) -> Value {
        let faults = self.details.faults.iter().map(|fault| {
            json!({
                "field": fault.field, "value": fault.value, "reason": fault.reason,
                "remedy": fault.remedy, "accepted": fault.accepted,
                "update_index": fault.update_index,
            })
        });
        json!({
            "schema": "caplane.error/1", "exit": self.exit as u8, "error": self.text,
            "faulty": self.details.faulty, "faults": faults.collect::<Vec<_>>(),
            "retry_after_ms": self.details.retry_after_ms,
        })
    }
}

/// What of the details the message does not say: values that would be accepted, further faulty updates.
fn more(details: &Details) -> String {
    let mut text = String::new();
    for (i, fault) in details.faults.iter().enumerate() {
        if i > 0 {
            let (field, value) = (&fault.field, &fault.value);
            let line = format!("{field} \"{value}\": {}; {}", fault.reason, fault.remedy);
            text.push_str(&format!("\n  also {}", clean(&line)));
        }
        if !fault.accepted.is_empty() {
            text.push_str(&format!(
                "\n  accepted: {}",
                clean(&fault.accepted.join(", "))
            ));
        }
    }
    let untold = details.faulty.saturating_sub(details.faults.len());
    if untold > 0 {
        text.push_str(&format!("\n  and {untold} more faulty updates"));
    }
    text
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match error.code() {
            Code::NotFound => Exit::NotFound,
            Code::AlreadyExists => Exit::Exists,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NotAllowed,
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => Exit::Usage,
            Code::Aborted => Exit::Conflict,
            _ => Exit::Failed,
        };
        let text = error.to_string();
        match error {
            ApiError::Refused { details, .. } => Self {
                exit,
                text: text + &more(&details),
                details,
            },
            _ => Self::new(exit, text),
        }
    }
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        let exit = match error {
            PkiError::Exists { .. } => Exit::Exists,
            PkiError::Name { .. } | PkiError::Unreadable { .. } => Exit::Usage,
            PkiError::Io { .. } | PkiError::Certificate { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<FabricError> for Failure {
    fn from(error: FabricError) -> Self {
        match error {
            FabricError::Api(error) => error.into(),
            FabricError::Pki(error) => error.into(),
            FabricError::Deadline { .. } => Self::new(Exit::Unreachable, error.to_string()),
            FabricError::NoBinary { .. } => Self::new(Exit::Usage, error.to_string()),
            other => Self::new(Exit::Failed, other.to_string()),
        }
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        let exit = match error.fault() {
            Fault::Caller => Exit::Usage,
            Fault::Peer => Exit::NotAllowed,
            Fault::Operating => Exit::Unreachable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let exit = match error.fault() {
            Fault::Caller => Exit::Usage,
            Fault::Peer => Exit::NotFound,
            Fault::Operating => Exit::Unreachable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let exit = match &error {
            SendError::Refused {
                code: NoticeCode::PolicyDenied,
                ..
            } => Exit::NotAllowed,
            other if other.fault() == Fault::Caller => Exit::Usage,
            _ => Exit::Undelivered,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_tells_every_exit_code() {
        for exit in [
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Exists,
            Exit::NotAllowed,
            Exit::Unreachable,
            Exit::Undelivered,
            Exit::CheckFailed,
            Exit::Conflict,
        ] {
            assert!(
                EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)),
                "{exit:?}"
            );
        }
    }

    #[test]
    fn errors_of_the_api_have_codes_that_scripts_can_tell_apart() {
        let refused = |code| {
            Failure::from(ApiError::Refused {
                code,
                message: "m".into(),
                details: Details::default(),
            })
            .exit
        };
        assert_eq!(refused(Code::NotFound), Exit::NotFound);
        assert_eq!(refused(Code::AlreadyExists), Exit::Exists);
        assert_eq!(refused(Code::PermissionDenied), Exit::NotAllowed);
        assert_eq!(refused(Code::InvalidArgument), Exit::Usage);
        assert_eq!(refused(Code::Internal), Exit::Failed);
        assert_eq!(refused(Code::Aborted), Exit::Conflict);
        let away = ApiError::Unreachable {
            address: "a:1".into(),
            cause: "c".into(),
        };
        assert_eq!(Failure::from(away).exit, Exit::Unreachable);
    }
    #[test]
    fn what_would_be_accepted_is_told_to_people_and_programs() {
        let fault = |index, accepted: &[&str]| caplane_proto::v1::ErrorDetail {
            field: format!("updates[{index}].tenant.name"),
            value: "a b".into(),
            reason: "is no name".into(),
            remedy: "use another".into(),
            accepted: accepted.iter().map(|text| (*text).to_owned()).collect(),
            update_index: Some(index),
        };
        let failure = Failure::from(ApiError::Refused {
            code: Code::InvalidArgument,
            message: "m".into(),
            details: Details {
                faults: vec![fault(0, &["x", "y"]), fault(4, &[])],
                faulty: 3,
                retry_after_ms: None,
            },
        });
        assert_eq!(
            failure.to_string(),
            "the controller refused: m\n  accepted: x, y\n  also updates[4].tenant.name \"a b\": is no name; use another\n  and 1 more faulty updates"
        );
        let json = failure.json();
        assert_eq!(json["schema"], "caplane.error/1");
        assert_eq!(
            (json["exit"].as_u64(), json["faulty"].as_u64()),
            (Some(2), Some(3))
        );
        assert_eq!(json["faults"][0]["accepted"][1], "y");
        assert_eq!(json["faults"][1]["update_index"], 4);
    }
}
