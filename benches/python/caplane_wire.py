"""Bytes of the Caplane wire format, written from wire-format/SPEC.md alone.

Knows names, labels, headers, extensions, streams and notices. Refuses to know
QUIC, certificates and time. `WF-n` is a rule of the SPEC.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from dataclasses import dataclass

ALPN = "caplane/1"  # WF-2
HEADER_LEN = 48  # WF-20
LANE_MESSAGE_MAX = 65_536  # WF-60
BULK_MESSAGE_MAX = 16 * 1024 * 1024  # WF-66
CONTROL_FRAME_MAX = 131_072  # WF-110
NOTICE_LEN = 56  # WF-90

DATA, NOTICE, RECEIPT, PROBE = range(4)
KINDS = ("data", "notice", "receipt", "probe")
ACTIONS = ("drop", "block")

AFFINITY, RECEIPT_WANTED, TRACE_WANTED, DEADLINE_PRESENT, REROUTED = 0x80, 0x40, 0x20, 0x10, 0x08
FLAGS = {
    "affinity": AFFINITY,
    "receipt": RECEIPT_WANTED,
    "trace": TRACE_WANTED,
    "deadline": DEADLINE_PRESENT,
    "rerouted": REROUTED,
}

EXTENSION_DEADLINE, EXTENSION_TRACE = 0x01, 0x02
# A trace context is carried untouched, so any length of it is taken (WF-54).
EXTENSION_LENGTHS = {EXTENSION_DEADLINE: {8}, EXTENSION_TRACE: range(0x1_0000)}

NOTICE_CODES = {
    1: "NO_ROUTE",
    2: "POLICY_DENIED",
    3: "STALE_TABLE",
    4: "HOP_LIMIT",
    5: "OVERLOADED",
    6: "RATE_LIMITED",
    7: "TOO_LARGE",
    8: "UNREACHABLE",
    9: "MALFORMED",
    10: "DEADLINE",
}
STOPS_RESEND = {"NO_ROUTE", "POLICY_DENIED", "TOO_LARGE", "MALFORMED", "DEADLINE"}  # WF-92
UNPINS = {"NO_ROUTE", "UNREACHABLE"}  # WF-87

# Application error codes of streams (WF-100) and connections (WF-101).
CUT_SHORT, REFUSED, TOO_LARGE, MALFORMED = 0x100, 0x101, 0x102, 0x103
NORMAL, PROTOCOL = 0, 6


class WireError(ValueError):
    """Bytes or text that break a rule. `reason` is the word the golden vectors use."""

    def __init__(self, reason: str, position: int | None = None):
        super().__init__(reason if position is None else f"{reason} at {position}")
        self.reason = reason
        self.position = position

    @property
    def stream_code(self) -> int:
        """What STOP_SENDING says about it (WF-63, WF-65)."""
        return {"too_large": TOO_LARGE, "too_short": CUT_SHORT, "cut_short": CUT_SHORT}.get(self.reason, MALFORMED)


# Names (WF-4)


@dataclass(frozen=True)
class Name:
    text: str
    trust_domain: str
    path: str


def parse_name(text: str) -> Name:
    """A peer's name. Positions of errors count bytes of UTF-8."""
    raw = text.encode()
    if raw.startswith(b"spiffe://"):
        return _parse_spiffe(text, raw)
    if raw.startswith(b"acps://"):
        return _parse_acps(text, raw)
    raise WireError("text", 0)


def _parse_spiffe(text: str, raw: bytes) -> Name:
    if len(raw) > 2048:
        raise WireError("text", 2048)
    start = len("spiffe://")
    end = re.compile(rb"[a-z0-9._-]*").match(raw, start).end()
    if end == start:
        raise WireError("text", start)
    if end - start > 255:
        raise WireError("text", start + 255)
    at = end
    while at == end or at < len(raw):
        if raw[at : at + 1] != b"/":
            raise WireError("text", at)
        segment = re.compile(rb"[A-Za-z0-9._-]*").match(raw, at + 1)
        if segment.group() in (b"", b".", b".."):
            raise WireError("text", at + 1)
        at = segment.end()
    return Name(text, raw[start:end].decode(), raw[end:].decode())


def _parse_acps(text: str, raw: bytes) -> Name:
    start = len("acps://")
    at, levels = start, []
    while True:
        level = re.compile(rb"[0-9A-Z]*").match(raw, at)
        if not level.group():
            raise WireError("text", at)
        levels.append(level.group().decode())
        at = level.end()
        if at == len(raw):
            break
        if raw[at : at + 1] != b".":
            raise WireError("text", at)
        at += 1
    if len(raw) - start > 53:
        raise WireError("text", start + 53)
    if len(levels) != 10:
        raise WireError("text", len(raw))
    return Name(text, ".".join(levels[:4]), "")


# Labels (WF-10 to WF-14)

LABEL_TYPES = ("class", "agent", "group", "router")


def label_type(bits: int) -> str:
    return LABEL_TYPES[bits >> 30]


def class_levels(bits: int) -> tuple[int, int, int]:
    return bits >> 20 & 0x3FF, bits >> 10 & 0x3FF, bits & 0x3FF


def check_destination(bits: int) -> None:
    """Refuses what nobody may ask for (WF-12, WF-25)."""
    if bits == 0:
        raise WireError("none")
    if label_type(bits) == "router":
        raise WireError("router")
    if label_type(bits) == "class" and re.search("0[1-9]", "".join("01"[level > 0] for level in class_levels(bits))):
        raise WireError("gap")


def label_parent(bits: int) -> int | None:
    """The class above a class; nothing else has one."""
    if label_type(bits) != "class":
        return None
    one, two, three = class_levels(bits)
    if three:
        return one << 20 | two << 10
    return one << 20 if two else None


def label_text(bits: int) -> str:
    kind, number = label_type(bits), bits & 0x3FFF_FFFF
    if kind == "class":
        levels = [str(level) for level in class_levels(bits)]
        while len(levels) > 1 and levels[-1] == "0":
            levels.pop()
        return "class:" + ".".join(levels)
    if kind == "agent":
        return f"agent:{number >> 6}" + (f".{number & 63}" if number & 63 else "")
    return f"{kind}:{number}"


def parse_label(text: str) -> int:
    raw = text.encode()
    kind = next((kind for kind in LABEL_TYPES if raw.startswith(kind.encode() + b":")), None)
    if kind is None:
        raise WireError("text", 0)
    # Lowest and highest value of each number that may stand there.
    ranges = {"class": [(1, 1023)] * 3, "agent": [(0, 0xFF_FFFF), (1, 63)]}.get(kind, [(0, 0x3FFF_FFFF)])
    at, numbers = len(kind) + 1, []
    for lowest, highest in ranges:
        digits = re.compile(rb"(0|[1-9][0-9]*)(?![0-9])").match(raw, at)
        if not digits or not lowest <= int(digits.group()) <= highest:
            raise WireError("text", at)
        numbers.append(int(digits.group()))
        at = digits.end()
        if raw[at : at + 1] != b"." or len(numbers) == len(ranges):
            break
        at += 1
    if at != len(raw):
        raise WireError("text", at)
    numbers += [0] * (len(ranges) - len(numbers))
    if kind == "class":
        return numbers[0] << 20 | numbers[1] << 10 | numbers[2]
    if kind == "agent":
        return 1 << 30 | numbers[0] << 6 | numbers[1]
    return LABEL_TYPES.index(kind) << 30 | numbers[0]


# Messages (WF-20 to WF-45)

_HEADER = struct.Struct(">BBBBIIIIIQIIIHH")
CLASS_MASK, FLAGS_MASK = 0xF0, 0xF8


def traffic_class(priority: int, action: str) -> int:
    return priority << 5 | ACTIONS.index(action) << 4


@dataclass(frozen=True)
class Header:
    kind: int
    traffic_class: int
    flags: int
    label: int
    requested_label: int
    source_label: int
    source_domain: int
    flow: int
    sequence: int
    payload_len: int = 0
    extension_len: int = 0
    destination_domain: int = 0
    tenant: int = 0
    hop_limit: int = 64

    @property
    def total_len(self) -> int:
        return HEADER_LEN + self.extension_len + self.payload_len

    @property
    def priority(self) -> int:
        return self.traffic_class >> 5

    @property
    def action(self) -> str:
        return ACTIONS[self.traffic_class >> 4 & 1]

    def encode(self) -> bytes:
        return _HEADER.pack(
            1 << 4 | self.kind,
            self.traffic_class & CLASS_MASK,
            self.hop_limit,
            self.flags & FLAGS_MASK,
            self.label,
            self.destination_domain,
            self.tenant,
            self.source_label,
            self.source_domain,
            self.flow,
            self.sequence,
            self.payload_len,
            self.requested_label,
            self.extension_len,
            0,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        if len(data) < HEADER_LEN:
            raise WireError("too_short")
        fields = _HEADER.unpack_from(data)
        if fields[0] >> 4 != 1:
            raise WireError("version")
        if fields[0] & 0xF >= len(KINDS):
            raise WireError("kind")
        return cls(
            kind=fields[0] & 0xF,
            traffic_class=fields[1] & CLASS_MASK,
            hop_limit=fields[2],
            flags=fields[3] & FLAGS_MASK,
            label=fields[4],
            destination_domain=fields[5],
            tenant=fields[6],
            source_label=fields[7],
            source_domain=fields[8],
            flow=fields[9],
            sequence=fields[10],
            payload_len=fields[11],
            requested_label=fields[12],
            extension_len=fields[13],
        )


@dataclass(frozen=True)
class Message:
    header: Header
    extensions: bytes = b""
    payload: bytes = b""

    @classmethod
    def build(cls, payload: bytes = b"", extensions: bytes = b"", **fields) -> Message:
        """A message whose lengths are those of its parts."""
        return cls(Header(payload_len=len(payload), extension_len=len(extensions), **fields), extensions, payload)

    def encode(self) -> bytes:
        return self.header.encode() + self.extensions + self.payload

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Exactly one message, as in a datagram (WF-70)."""
        header = Header.decode(data)
        if len(data) < header.total_len:
            raise WireError("cut_short")
        if len(data) > header.total_len:
            raise WireError("past_end")
        split = HEADER_LEN + header.extension_len
        return cls(header, bytes(data[HEADER_LEN:split]), bytes(data[split:]))


def encode_deadline(unix_us: int) -> bytes:
    return struct.pack(">BHQ", EXTENSION_DEADLINE, 8, unix_us)


def parse_extensions(data: bytes) -> dict[int, bytes]:
    """Known extensions by type (WF-50, WF-51)."""
    found, at = {}, 0
    while at < len(data):
        if at + 3 > len(data):
            raise WireError("truncated", at)
        kind, length = struct.unpack_from(">BH", data, at)
        value = data[at + 3 : at + 3 + length]
        if len(value) < length:
            raise WireError("truncated", at)
        if kind in EXTENSION_LENGTHS:
            if length not in EXTENSION_LENGTHS[kind]:
                raise WireError("length", at)
            if kind in found:
                raise WireError("repeated", at)
            found[kind] = value
        elif kind & 0x80:
            raise WireError("unknown", at)
        at += 3 + length
    return found


def deadline_of(message: Message) -> int | None:
    """Microseconds since 1970 after which the message is worth nothing (WF-44)."""
    if not message.header.flags & DEADLINE_PRESENT:
        return None
    value = parse_extensions(message.extensions).get(EXTENSION_DEADLINE)
    if value is None:
        raise WireError("deadline")
    return int.from_bytes(value, "big")


# Answers (WF-81, WF-86)


def receipt_for(original: Header, own: int, own_domain: int) -> Message:
    return _answer(original, own, own_domain, RECEIPT, 0, b"")


def reply_to(original: Header, own: int, own_domain: int, payload: bytes, receipt_wanted: bool) -> Message:
    flags = AFFINITY | (RECEIPT_WANTED if receipt_wanted else 0)
    return _answer(original, own, own_domain, DATA, flags, payload)


def _answer(original: Header, own: int, own_domain: int, kind: int, flags: int, payload: bytes) -> Message:
    return Message.build(
        payload,
        kind=kind,
        traffic_class=original.traffic_class,
        flags=flags,
        label=original.source_label,
        requested_label=original.source_label,
        destination_domain=original.source_domain,
        source_label=own,
        source_domain=own_domain,
        flow=original.flow,
        sequence=original.sequence,
    )


# Notices (WF-90)


@dataclass(frozen=True)
class Notice:
    code: str
    router: int
    offending: Header
    offending_bytes: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Notice:
        if len(payload) < NOTICE_LEN:
            raise WireError("too_short")
        if payload[0] not in NOTICE_CODES:
            raise WireError("code")
        quoted = payload[8:NOTICE_LEN]
        try:
            offending = Header.decode(quoted)
        except WireError as error:
            raise WireError("offending") from error
        return cls(NOTICE_CODES[payload[0]], int.from_bytes(payload[4:8], "big"), offending, quoted)


# Streams (WF-61 to WF-66)

MAGIC = b"CPL1"
LANE, BULK = 1, 2
PREFACE_LEN = 8


def encode_preface(stream: int, cls: int) -> bytes:
    return MAGIC + bytes((stream, cls & CLASS_MASK, 0, 0))


def parse_preface(data: bytes) -> tuple[int, int]:
    """Stream type and traffic class."""
    if data[:4] != MAGIC:
        raise WireError("magic")
    if data[4] not in (LANE, BULK):
        raise WireError("kind")
    return data[4], data[5] & CLASS_MASK


class MessageReader:
    """Cuts what follows a preface into messages; on a bulk stream there is exactly one."""

    def __init__(self, stream: int, cls: int, limit: int):
        self.stream, self.cls, self.limit = stream, cls, limit
        self.rest = bytearray()
        self._header: Header | None = None
        self._read = 0

    def feed(self, data: bytes):
        """Yields the messages that are complete now. After an error nothing more can be read."""
        self.rest += data
        while True:
            if self.stream == BULK and self._read:
                if self.rest:
                    raise WireError("past_end")
                return
            if self._header is None:
                if len(self.rest) < HEADER_LEN:
                    return
                self._header = self._checked(Header.decode(self.rest))
            length = self._header.total_len
            if len(self.rest) < length:
                return
            message = Message.decode(bytes(self.rest[:length]))
            del self.rest[:length]
            self._header = None
            self._read += 1
            yield message

    def finish(self) -> None:
        """FIN stands here."""
        if self._header is not None:
            raise WireError("cut_short")
        if self.rest or self.stream == BULK and not self._read:
            raise WireError("too_short")

    def _checked(self, header: Header) -> Header:
        if header.traffic_class != self.cls:
            raise WireError("class")
        if header.total_len > self.limit:
            raise WireError("too_large")
        return header


# Control stream (WF-110)


def encode_control(frame: bytes) -> bytes:
    length, prefix = len(frame), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(prefix) + bytes((length,)) + frame


class ControlReader:
    """Cuts the control stream into frames, still encoded."""

    def __init__(self):
        self.rest = bytearray()

    def feed(self, data: bytes):
        self.rest += data
        while (prefix := self._prefix()) is not None:
            start, length = prefix
            if len(self.rest) < start + length:
                return
            frame = bytes(self.rest[start : start + length])
            del self.rest[: start + length]
            yield frame

    def _prefix(self) -> tuple[int, int] | None:
        length = 0
        for at, byte in enumerate(self.rest[:3]):
            length |= (byte & 0x7F) << 7 * at
            if not byte & 0x80:
                if length > CONTROL_FRAME_MAX:
                    raise WireError("too_large")
                return at + 1, length
        if len(self.rest) >= 3:
            raise WireError("prefix")
        return None


def header_fields(header: Header) -> dict:
    """A header as the golden vectors write it."""
    fields = dataclasses.asdict(header)
    del fields["traffic_class"]
    for name in ("label", "requested_label", "source_label"):
        fields[name] = f"{fields[name]:08x}"
    return fields | {
        "kind": KINDS[header.kind],
        "priority": header.priority,
        "action": header.action,
        "flags": [name for name, bit in FLAGS.items() if header.flags & bit],
        "flow": f"{header.flow:016x}",
    }
