//! `caplane audit`: the audit log shown, and whether it is whole.

use std::path::Path;

use caplane_proto::v1;
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use crate::arguments::AuditCommand;
use crate::audit::verify;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Table};
use crate::settings::Settings;

pub(super) async fn run(settings: &Settings, command: AuditCommand) -> Result<Output, Failure> {
    match command {
        AuditCommand::List { from, count } => list(settings, from, count).await,
        AuditCommand::Verify { keys, expect_head } => {
            let keys = keys
                .iter()
                .map(|path| key(path))
                .collect::<Result<Vec<_>, _>>()?;
            let head = match &expect_head {
                Some(text) => Some(digits(text).ok_or_else(|| {
                    let text = format!("--expect-head {text:?} is no hash; give the 64 hexadecimal digits that `caplane audit verify` printed");
                    Failure::new(Exit::Usage, text)
                })?),
                None => None,
            };
            whole(settings, &keys, head.as_deref()).await
        }
    }
}

/// 32 bytes of 64 hexadecimal digits.
fn digits(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..64).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(path: &Path) -> Result<Vec<u8>, Failure> {
    let told = |cause: String| {
        let text = format!("cannot read the public key {}: {cause}", path.display());
        Failure::new(Exit::Usage, text)
    };
    let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    digits(&text).ok_or_else(|| told("it is not 64 hexadecimal digits".to_owned()))
}

async fn whole(
    settings: &Settings,
    keys: &[Vec<u8>],
    head: Option<&[u8]>,
) -> Result<Output, Failure> {
    let head_checked = head.is_some();
    let records = settings.api().await?.audit(0, 0).await?;
    let whole = verify(&records, keys, head).map_err(|broken| {
        let text = format!("the audit log is not whole: {broken}");
        Failure::new(Exit::CheckFailed, text)
    })?;
    let (oldest, newest, head) = (whole.oldest, whole.newest, hex(&whole.head));
    let text = match newest {
        0 => "the audit log is empty: so it is before the first change and never again; if there was one, all records are gone\n"
            .to_owned(),
        _ => format!(
            "whole: records {oldest} to {newest}\nhead: {head}\n{}{}",
            match keys {
                [] => "signed by one key, which was not checked: give --public-key\n",
                _ => "",
            },
            match head_checked {
                false => "whether newer records are missing was not checked: give --expect-head with a head that you noted before\n",
                true => "",
            },
        ),
    };
    let json = json!({
        "oldest": oldest, "newest": newest, "head": head, "key_checked": !keys.is_empty(),
        "head_checked": head_checked,
    });
    Ok(Output::new("caplane.audit-check/1", json, text))
}

async fn list(settings: &Settings, from: u64, count: u32) -> Result<Output, Failure> {
    let records = settings.api().await?.audit(from, count).await?;
    let mut table = Table::new(&["NUMBER", "TIME", "WHO", "ROLE", "CALL", "OUTCOME", "WHAT"]);
    let mut all = Vec::new();
    for record in &records {
        let body = v1::AuditBody::decode(record.body.as_slice()).map_err(|error| {
            let text =
                format!("an audit record cannot be read: {error}; see `caplane audit verify`");
            Failure::new(Exit::Failed, text)
        })?;
        all.push(as_json(record, &body));
        let outcome = match body.code {
            0 => format!("generation {}", body.generation),
            code => Code::from(code).description().to_owned(),
        };
        let who = match body.who.as_str() {
            "" => "the controller".to_owned(),
            who => who.to_owned(),
        };
        let what = match body.left_out {
            0 => body.what,
            more => format!("{} ({more} denials before it were counted only)", body.what),
        };
        table.row([
            body.sequence.to_string(),
            time(body.unix_ms),
            who,
            body.role,
            body.call,
            outcome,
            what,
        ]);
    }
    let json = json!({ "records": all });
    Ok(Output::new(
        "caplane.audit/1",
        json,
        table.render("no records"),
    ))
}

fn as_json(record: &v1::AuditRecord, body: &v1::AuditBody) -> Value {
    json!({
        "sequence": body.sequence, "unix_ms": body.unix_ms, "who": body.who, "peer": body.peer,
        "role": body.role, "call": body.call, "request_sha256": hex(&body.request_sha256),
        "what": body.what, "code": body.code, "generation": body.generation,
        "left_out": body.left_out, "pruned_through": body.pruned_through,
        "previous": hex(&body.previous), "hash": hex(&record.hash),
    })
}

/// Seconds in UTC, as RFC 3339 writes them.
fn time(unix_ms: i64) -> String {
    let (days, rest) = (
        unix_ms.div_euclid(86_400_000),
        unix_ms.rem_euclid(86_400_000) / 1_000,
    );
    // Days since 1 March of year 0, in eras of 400 years: after H. Hinnant's chrono-compatible date algorithms.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_709_251_199_999), "2024-02-29T23:59:59Z");
        assert_eq!(time(4_102_444_800_000), "2100-01-01T00:00:00Z");
    }

    #[test]
    fn hashes_are_64_digits() {
        let text = "0aff".repeat(16);
        let bytes = digits(&text).expect("a hash");
        assert_eq!((bytes[0], bytes[1], hex(&bytes)), (0x0a, 0xff, text));
        for bad in ["", "0a", &"zz".repeat(32), &"ä".repeat(32)] {
            assert_eq!(digits(bad), None, "{bad}");
        }
    }
}
