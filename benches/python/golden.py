"""The golden vectors and the SPEC's own examples against the Python codec."""

from __future__ import annotations

import json
import re
from pathlib import Path

import caplane_wire as wire
from caplane_control import ControlFrame, spec_text


def check(folder: Path):
    """Yields, for every file, its name, how many cases hold and what does not."""
    for name, checker in CHECKERS.items():
        vectors = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        failures, cases = [], 0
        for case in vectors["valid"]:
            cases += 1
            try:
                seen = checker(case)
            except wire.WireError as error:
                seen = {"refused": str(error)}
            failures += _differences(name, case, seen)
        for case in vectors["invalid"]:
            cases += 1
            failures += _differences(name, case, _refusal(name, case))
        yield name, cases, failures
    known = {f"{name}.json" for name in CHECKERS}
    unknown = sorted({path.name for path in folder.glob("*.json")} - known)
    yield "files", len(known), [f"no check for {name}" for name in unknown]
    yield "examples", *_examples()


def _differences(name: str, case: dict, seen: dict) -> list[str]:
    return [
        f"{name}: {case['name']}: {member} is {value!r}, the vector says {case.get(member)!r}"
        for member, value in seen.items()
        if case.get(member) != value
    ]


def _refusal(name: str, case: dict) -> dict:
    complete: list[int] = []
    try:
        _invalid_reader(name)(case, complete)
    except wire.WireError as error:
        seen = {"reason": error.reason}
        seen |= {member: error.position for member in ("position", "offset") if member in case}
        return seen | ({"messages": complete} if "messages" in case else {})
    return {"reason": "taken as valid"}


def _invalid_reader(name: str):
    if name == "notice":
        return lambda case, _: wire.Notice.decode(_bytes(case))
    if name == "lane":
        return lambda case, complete: [complete.append(m.header.total_len) for m in _lane(case).feed(_bytes(case))]
    return lambda case, _: CHECKERS[name](case)


def _bytes(case: dict) -> bytes:
    return bytes.fromhex(case["hex"]) + bytes(case.get("pad", 0))


def _header(case: dict) -> dict:
    header = wire.Header.decode(_bytes(case))
    return {
        "header": wire.header_fields(header),
        "total_len": header.total_len,
        "canonical": header.encode() == _bytes(case),
    }


def _label(case: dict) -> dict:
    bits = wire.parse_label(case["text"])
    ancestors, above = [], bits
    while (above := wire.label_parent(above)) is not None:
        ancestors.append(wire.label_text(above))
    seen = {"bits": f"{bits:08x}", "kind": wire.label_type(bits), "text": wire.label_text(bits)}
    seen["parent"] = ancestors[0] if ancestors else None
    if seen["kind"] == "class":
        seen |= {"levels": list(wire.class_levels(bits)), "ancestors": ancestors}
    return seen


def _label_bits(case: dict) -> dict:
    bits = int(case["bits"], 16)
    wire.check_destination(bits)
    return {"text": wire.label_text(bits)}


def _extensions(case: dict) -> dict:
    found = wire.parse_extensions(_bytes(case))
    deadline, trace = found.get(wire.EXTENSION_DEADLINE), found.get(wire.EXTENSION_TRACE)
    return {
        "deadline_unix_us": None if deadline is None else str(int.from_bytes(deadline, "big")),
        "trace_context": None if trace is None else trace.hex(),
    }


def _preface(case: dict) -> dict:
    stream, cls = wire.parse_preface(_bytes(case))
    return {
        "stream": {wire.LANE: "lane", wire.BULK: "bulk"}[stream],
        "priority": cls >> 5,
        "action": wire.ACTIONS[cls >> 4 & 1],
    }


def _lane(case: dict) -> wire.MessageReader:
    return wire.MessageReader(wire.LANE, wire.traffic_class(case["priority"], case["action"]), case["limit"])


def _lane_messages(case: dict) -> dict:
    # Byte by byte, then at once: where the cuts fall must not matter.
    slow, fast = _lane(case), _lane(case)
    data = _bytes(case)
    lengths = [m.header.total_len for at in range(len(data)) for m in slow.feed(data[at : at + 1])]
    if lengths != [m.header.total_len for m in fast.feed(data)]:
        return {"messages": "depend on how the bytes arrive"}
    return {"messages": lengths, "rest": len(fast.rest)}


def _datagram(case: dict) -> dict:
    return {"total_len": wire.Message.decode(_bytes(case)).header.total_len}


def _bulk(case: dict) -> dict:
    data = _bytes(case)
    # The vectors do not say a preface; the message's own class is taken for it.
    reader = wire.MessageReader(wire.BULK, data[1] & wire.CLASS_MASK if len(data) > 1 else 0, case["limit"])
    messages = list(reader.feed(data))
    reader.finish()
    return {"total_len": messages[0].header.total_len}


def _notice(case: dict) -> dict:
    message = wire.Message.decode(_bytes(case))
    notice = wire.Notice.decode(message.payload)
    code = next(number for number, name in wire.NOTICE_CODES.items() if name == notice.code)
    return {
        "code": code,
        "code_name": notice.code,
        "router": f"{notice.router:08x}",
        "offending": notice.offending_bytes.hex(),
        "stops_resend": notice.code in wire.STOPS_RESEND,
        "unpins": notice.code in wire.UNPINS,
    }


def _answers(case: dict) -> dict:
    original, own = wire.Message.decode(_bytes(case)).header, int(case["own"], 16)
    payload = bytes(case["reply_payload_len"])
    reply = wire.reply_to(original, own, case["own_domain"], payload, receipt_wanted=False)
    receipt = wire.receipt_for(original, own, case["own_domain"])
    return {"receipt": receipt.encode().hex(), "reply": reply.header.encode().hex()}


def _control_framing(case: dict) -> dict:
    reader = wire.ControlReader()
    frames = [len(frame) for frame in reader.feed(_bytes(case))]
    return {"frames": frames, "rest": len(reader.rest)}


def _name(case: dict) -> dict:
    name = wire.parse_name(case["text"])
    return {"trust_domain": name.trust_domain, "path": name.path}


CHECKERS = {
    "answers": _answers,
    "bulk": _bulk,
    "control_framing": _control_framing,
    "datagram": _datagram,
    "extensions": _extensions,
    "header": _header,
    "label": _label,
    "label_bits": _label_bits,
    "lane": _lane_messages,
    "name": _name,
    "notice": _notice,
    "preface": _preface,
}


def _examples() -> tuple[int, list[str]]:
    """Section 16: every block is built from what its text says, and compared."""
    blocks = {
        name: bytes.fromhex("".join(line.split("#")[0] for line in body.splitlines()).replace(" ", ""))
        for name, body in re.findall(r"```hex ([a-z-]+)\n(.*?)```", spec_text(), re.DOTALL)
    }
    built = dict(_built_examples(blocks))
    failures = [f"examples: {name} differs" for name in built if built[name] != blocks.get(name)]
    failures += [f"examples: nothing builds {name}" for name in blocks if name not in built]
    return len(blocks), failures


def _built_examples(blocks: dict[str, bytes]):
    frames = {
        "hello": ControlFrame(hello={"instance_name": "pod-7f3", "role": "ROLE_INSTANCE", "software": "demo/1"}),
        "welcome": ControlFrame(
            welcome={
                "label": wire.parse_label("agent:4711.3"),
                "domain": 64512,
                "tenant": 42,
                "router": wire.parse_label("router:1"),
                "router_name": "r1",
                "generation": 7,
                "limits": {
                    "lane_message_bytes": 65536,
                    "bulk_message_bytes": 16777216,
                    "priority_max": 6,
                    "idle_timeout_ms": 30000,
                },
            }
        ),
        "resolve": ControlFrame(resolve={"query_id": 1, "text": "convert currency"}),
        "resolved": ControlFrame(
            resolved={
                "query_id": 1,
                "candidates": [
                    {
                        "label": wire.parse_label("class:7.12.3"),
                        "tenant": 42,
                        "name": "finance/currency/convert",
                        "score": 0.5,
                        "matched_by": "text",
                        "members": 2,
                    }
                ],
                "generation": 7,
            }
        ),
        "bye": ControlFrame(bye={"reason": "done"}),
    }
    for name, frame in frames.items():
        yield name, wire.encode_control(frame.SerializeToString(deterministic=True))

    four, wanted = wire.traffic_class(4, "drop"), wire.parse_label("class:7.12.3")
    asker, server = wire.parse_label("agent:4711.3"), wire.parse_label("agent:815.1")
    common = {"source_label": asker, "source_domain": 64512, "flow": 0x0102030405060708}
    data = wire.Message.build(
        b"hello",
        kind=wire.DATA,
        traffic_class=four,
        flags=wire.AFFINITY | wire.RECEIPT_WANTED,
        label=wanted,
        requested_label=wanted,
        tenant=42,
        sequence=0,
        **common,
    )
    yield "lane-preface", wire.encode_preface(wire.LANE, four)
    yield "data", data.encode()
    yield "receipt", wire.receipt_for(data.header, server, 64512).encode()
    yield "reply", wire.reply_to(data.header, server, 64512, b"world!", receipt_wanted=False).encode()
    pinned = wire.Message.build(
        b"ok",
        wire.encode_deadline(1767225600000000) + bytes.fromhex("7f0002cafe"),
        kind=wire.DATA,
        traffic_class=four,
        flags=wire.AFFINITY | wire.RECEIPT_WANTED | wire.DEADLINE_PRESENT,
        label=server,
        requested_label=server,
        sequence=1,
        **common,
    )
    yield "extensions", pinned.encode()
    # A peer never makes notices: this one is read, and its parts are put together again.
    notice = wire.Message.decode(blocks["notice"])
    router = wire.Notice.decode(notice.payload).router
    quoted = bytes((1, 0, 0, 0)) + router.to_bytes(4, "big") + data.header.encode()
    yield "notice", notice.header.encode() + quoted
    any_instance = wire.parse_label("agent:815")
    bulk = wire.Header(
        kind=wire.DATA,
        traffic_class=wire.traffic_class(1, "block"),
        flags=wire.AFFINITY,
        label=any_instance,
        requested_label=any_instance,
        payload_len=100_000,
        sequence=0,
        **(common | {"flow": 0x0102030405060709}),
    )
    yield "bulk", wire.encode_preface(wire.BULK, bulk.traffic_class) + bulk.encode()
