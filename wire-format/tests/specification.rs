//! `SPEC.md` says what the code does: its worked examples, its protobuf, its tables and its rule numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use caplane_wire::control::LengthPrefix;
use caplane_wire::extension::{DEADLINE, Extension};
use caplane_wire::notice::Notice;
use caplane_wire::preface::{Preface, StreamKind};
use caplane_wire::{
    CloseCode, CongestionAction, Flags, Header, HeaderRepr, Label, NoticeCode, StreamCode,
    TrafficClass, receipt,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn specification() -> String {
    std::fs::read_to_string(root().join("SPEC.md")).expect("SPEC.md stands beside the manifest")
}

/// Fenced blocks of SPEC.md whose info string begins with `language`: the rest of that string, and the block.
fn blocks(language: &str) -> Vec<(String, String)> {
    let spec = specification();
    let mut blocks = Vec::new();
    let mut lines = spec.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let body: String = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .flat_map(|l| [l, "\n"])
                .collect();
            if let Some(name) = info.strip_prefix(language) {
                blocks.push((name.trim().to_owned(), body));
            }
        }
    }
    blocks
}

fn bytes_of_example(block: &str) -> Vec<u8> {
    let hex = block.lines().filter_map(|line| line.split('#').next());
    let bytes = hex.flat_map(str::split_ascii_whitespace);
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits"))
        .collect()
}

const DOMAIN: u32 = 64_512;
const FLOW: u64 = 0x0102_0304_0506_0708;
const DROP_4: TrafficClass = TrafficClass::new(4, CongestionAction::Drop);
const BLOCK_1: TrafficClass = TrafficClass::new(1, CongestionAction::Block);

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn message(header: HeaderRepr, extensions: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = HeaderRepr {
        extension_len: extensions.len() as u16,
        payload_len: payload.len() as u32,
        ..header
    };
    [&header.to_bytes(), extensions, payload].concat()
}

/// Data of the worked examples' instance, to `wanted`.
fn data(wanted: &str, class: TrafficClass) -> HeaderRepr {
    HeaderRepr {
        class,
        label: label(wanted),
        requested_label: label(wanted),
        source_label: label("agent:4711.3"),
        source_domain: DOMAIN,
        flow: FLOW,
        ..HeaderRepr::default()
    }
}

fn first_message() -> Vec<u8> {
    let flags = Flags::AFFINITY | Flags::RECEIPT;
    message(
        HeaderRepr {
            tenant: 42,
            flags,
            ..data("class:7.12.3", DROP_4)
        },
        &[],
        b"hello",
    )
}

fn with_extensions() -> Vec<u8> {
    let mut extensions = [0; 64];
    let deadline = 1_767_225_600_000_000_u64.to_be_bytes();
    let mut used = Extension {
        kind: DEADLINE,
        value: &deadline,
    }
    .emit(&mut extensions)
    .unwrap();
    let unknown = Extension {
        kind: 0x7F,
        value: &[0xCA, 0xFE],
    };
    used += unknown.emit(&mut extensions[used..]).unwrap();
    let flags = Flags::AFFINITY | Flags::RECEIPT | Flags::DEADLINE;
    let header = HeaderRepr {
        flags,
        sequence: 1,
        ..data("agent:815.1", DROP_4)
    };
    message(header, &extensions[..used], b"ok")
}

fn bulk() -> Vec<u8> {
    let preface = Preface {
        kind: StreamKind::Bulk,
        class: BLOCK_1,
    }
    .to_bytes();
    let header = HeaderRepr {
        flow: FLOW + 1,
        payload_len: 100_000,
        ..data("agent:815", BLOCK_1)
    };
    [&preface[..], &header.to_bytes()].concat()
}

/// Just enough protobuf to write the control stream's examples.
mod protobuf {
    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 0x7F {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    pub fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        [
            varint(field << 3 | 2),
            varint(value.len() as u64),
            value.to_vec(),
        ]
        .concat()
    }

    pub fn double(field: u64, value: f64) -> Vec<u8> {
        [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
    }
}

/// A control frame with its length prefix; `frame` is the number in the `oneof`.
fn control_frame(frame: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    let frame = protobuf::bytes(frame, &fields.concat());
    [LengthPrefix::new(frame.len()).unwrap().as_bytes(), &frame].concat()
}

fn welcome() -> Vec<u8> {
    use protobuf::{bytes, number};
    let limits = [
        number(1, 65_536),
        number(2, 16_777_216),
        number(3, 6),
        number(4, 30_000),
    ]
    .concat();
    control_frame(
        2,
        &[
            number(1, label("agent:4711.3").bits().into()),
            number(2, DOMAIN.into()),
            number(3, 42),
            number(4, label("router:1").bits().into()),
            bytes(5, b"r1"),
            number(6, 7),
            bytes(8, &limits),
        ],
    )
}

fn resolved() -> Vec<u8> {
    use protobuf::{bytes, double, number};
    let candidate = [
        number(1, label("class:7.12.3").bits().into()),
        number(2, 42),
        bytes(3, b"finance/currency/convert"),
        double(5, 0.5),
        bytes(6, b"text"),
        number(7, 2),
    ];
    control_frame(
        4,
        &[number(1, 1), bytes(2, &candidate.concat()), number(4, 7)],
    )
}

/// What the code emits for each worked example.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    use protobuf::{bytes, number};
    let first = first_message();
    let (delivered, _) = Header::split(&first).unwrap();
    let (other, reply_len) = (label("agent:815.1"), 6);
    let reply = receipt::reply(&delivered, other, DOMAIN, reply_len);
    let offending = *delivered.as_bytes();
    let notice = Notice {
        code: NoticeCode::NoRoute,
        router: label("router:1"),
        offending,
    };
    let hello = [bytes(1, b"pod-7f3"), number(2, 1), bytes(5, b"demo/1")];
    BTreeMap::from([
        ("hello", control_frame(1, &hello)),
        ("welcome", welcome()),
        (
            "resolve",
            control_frame(3, &[number(1, 1), bytes(4, b"convert currency")]),
        ),
        ("resolved", resolved()),
        (
            "lane-preface",
            Preface {
                kind: StreamKind::Lane,
                class: DROP_4,
            }
            .to_bytes()
            .to_vec(),
        ),
        (
            "receipt",
            receipt::receipt(&delivered, other, DOMAIN)
                .to_bytes()
                .to_vec(),
        ),
        ("reply", message(reply, &[], b"world!")),
        ("notice", notice.to_message(DOMAIN).to_vec()),
        ("extensions", with_extensions()),
        ("bulk", bulk()),
        ("bye", control_frame(6, &[bytes(2, b"done")])),
        ("data", first),
    ])
}

#[test]
fn worked_examples_are_what_the_code_emits() {
    let expected = examples();
    let written = blocks("hex ");
    for (name, block) in &written {
        let code = expected
            .get(name.as_str())
            .unwrap_or_else(|| panic!("no code for {name}"));
        assert_eq!(&bytes_of_example(block), code, "example {name}");
    }
    let written: BTreeSet<_> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(written, expected.into_keys().collect());
}

#[test]
fn the_inlined_protobuf_is_the_file() {
    let path = root().join("../controlplane/proto/proto/caplane/v1/control.proto");
    let Ok(file) = std::fs::read_to_string(path) else {
        return; // The crate stands alone; SPEC.md is then the only copy there is.
    };
    let blocks = blocks("protobuf");
    assert_eq!(blocks.len(), 1);
    assert!(
        blocks[0].1 == file,
        "copy controlplane/proto's control.proto into SPEC.md section 17"
    );
}

#[test]
fn close_codes_are_the_protobufs() {
    let (_, protobuf) = blocks("protobuf").remove(0);
    let written: BTreeSet<_> = protobuf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("BYE_CODE_")?.strip_suffix(';'))
        .map(|line| line.split_once(" = ").expect("name = number"))
        .map(|(name, number)| (name.to_owned(), number.parse::<u64>().unwrap()))
        .collect();
    let code = CloseCode::ALL
        .iter()
        .map(|code| (code.name().to_owned(), code.number()));
    assert_eq!(written, code.collect());
}

/// Whether some table row of SPEC.md begins with these cells.
fn has_row(spec: &str, cells: &[&str]) -> bool {
    let row = format!("| {} |", cells.join(" | "));
    spec.lines().any(|line| line.starts_with(&row))
}

#[test]
fn tables_hold_every_code() {
    let spec = specification();
    for code in StreamCode::ALL {
        let number = format!("{:#05x}", code.number());
        assert!(
            has_row(&spec, &[&number, code.name()]),
            "WF-100 lacks {number} {code}"
        );
    }
    for code in CloseCode::ALL {
        let number = code.number().to_string();
        assert!(
            has_row(&spec, &[&number, code.name()]),
            "WF-101 lacks {number} {code}"
        );
    }
    for code in NoticeCode::ALL {
        let number = code.number().to_string();
        let row = format!("| {number} | {} |", code.name());
        let row = spec.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("WF-92 lacks {number} {code}"));
        let resend = if code.stops_resend() {
            "| stop |"
        } else {
            "| go on |"
        };
        assert!(row.ends_with(resend), "WF-92: {row}");
        if let Some(agp) = code.agp_code() {
            let mapped = spec.contains(&format!("{code} = {agp}"))
                || spec.contains(&format!("{code} =\n{agp}"));
            assert!(mapped, "WF-94 lacks {code}");
        }
    }
}

/// Every `WF-n` in `text`.
fn rules(text: &str) -> Vec<u32> {
    text.split("WF-")
        .skip(1)
        .filter_map(|rest| {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..digits].parse().ok()
        })
        .collect()
}

#[test]
fn rules_stand_once_in_order_and_citations_exist() {
    let spec = specification();
    let headed: Vec<u32> = spec
        .lines()
        .filter_map(|line| line.strip_prefix("**"))
        .flat_map(|line| rules(line).into_iter().take(1))
        .collect();
    assert!(headed.is_sorted_by(|a, b| a < b), "{headed:?}");
    let mut cited: Vec<(String, u32)> = rules(&spec)
        .into_iter()
        .map(|rule| ("SPEC.md".to_owned(), rule))
        .collect();
    for folder in ["src", "src/label", "tests", "vectors"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.display().to_string();
                cited.extend(rules(&text).into_iter().map(|rule| (name.clone(), rule)));
            }
        }
    }
    let missing: Vec<_> = cited
        .iter()
        .filter(|(_, rule)| !headed.contains(rule))
        .collect();
    assert!(missing.is_empty(), "cited and not in SPEC.md: {missing:?}");
}
