#!/usr/bin/env python3
"""A Caplane peer on aioquic. Prints one JSON object a step; exits 1 when one does not hold.

    caplane_peer.py vectors
    caplane_peer.py serve --router HOST:PORT --chain FILE --key FILE --roots DOMAIN=FILE --count 4
    caplane_peer.py ask   --router HOST:PORT --chain FILE --key FILE --roots DOMAIN=FILE --text NEED --unserved PATH
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import caplane_wire as wire
import golden
from caplane_session import Credentials, Destination, Exchange, Flow, Refused, Session, SessionEnded
from caplane_trust import NotTrusted, Trust

VECTORS = Path(__file__).resolve().parents[2] / "wire-format" / "vectors"
PATIENCE = 30.0
LANE_CLASS = wire.traffic_class(4, "drop")
BULK_CLASS = wire.traffic_class(1, "block")
TLS_ALERTS = range(0x100, 0x200)  # CRYPTO_ERROR of RFC 9001 section 4.8


class StepFailed(Exception):
    pass


def holds(condition: bool, what: str) -> None:
    if not condition:
        raise StepFailed(what)


def tell(step: str, **seen) -> None:
    print(json.dumps({"step": step, "ok": True} | seen), flush=True)


async def within(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE)


# vectors


def vectors(args: argparse.Namespace) -> None:
    failures = []
    for name, cases, differences in golden.check(args.folder):
        print(json.dumps({"step": f"vectors {name}", "ok": not differences, "cases": cases, "failures": differences}))
        failures += differences
    holds(not failures, f"{len(failures)} differences")


# serve


async def serve(args: argparse.Namespace) -> None:
    """Answers requests with their payload turned round, until --count were answered and the replies receipted."""
    session = await within(Session.attach(args.router, credentials(args), args.instance))
    tell("attached", **attachment(session))
    pending: set[asyncio.Task] = set()
    for _ in range(args.count):
        delivery = await session.receive()
        header = delivery.message.header
        reply = session.reply(delivery, delivery.message.payload[::-1], delivery.carrier)
        tell(
            "served",
            carrier=delivery.carrier,
            asker=wire.label_text(header.source_label),
            requested=wire.label_text(header.requested_label),
            switched_on=wire.label_text(header.label),
            hop_limit=header.hop_limit,
            sequence=header.sequence,
            payload_len=header.payload_len,
            deadline=wire.deadline_of(delivery.message),
        )
        pending.add(asyncio.ensure_future(reply.receipt))
    for receipt in pending:
        await within(receipt)
    tell("replies receipted", count=len(pending))
    await leave(session)


# ask


async def ask(args: argparse.Namespace) -> None:
    await refuse_strange_routers(args)
    await be_refused(args)
    session = await within(Session.attach(args.router, credentials(args), args.instance, args.expect))
    tell("attached", **attachment(session))
    holds(wire.label_type(session.welcome.label) == "agent", "an instance has an agent's label")
    holds(session.welcome.label & 63 != 0, "an instance has a number")

    candidates = await within(session.resolve(text=args.text))
    holds(bool(candidates), f"nothing matches {args.text!r}")
    best = candidates[0]
    wire.check_destination(best.label)
    tell("resolved", text=args.text, label=wire.label_text(best.label), name=best.name, matched_by=best.matched_by)

    flow = Flow(Destination(best.label, best.tenant), LANE_CLASS)
    await converse(session, flow)
    await notice(session, args.unserved)
    await broken_streams(session, flow)
    await exchange(session, "lane", flow, b"after broken streams")
    for path, expected in (also.rsplit("=", 1) for also in args.also):
        await ask_once(session, path, expected.encode())
    await leave(session)


async def refuse_strange_routers(args: argparse.Namespace) -> None:
    """WF-5: a root of another trust domain does not do, however good it is; nor does another name."""
    domain, _, file = args.roots[0].partition("=")
    elsewhere = Trust()
    elsewhere.add_file(f"not.{domain}", Path(file))
    cases = [
        ("roots of another trust domain", Credentials(elsewhere, args.chain, args.key), None),
        ("another name than expected", credentials(args), f"spiffe://{domain}/router/somebody-else"),
    ]
    for what, who, expected in cases:
        try:
            await within(Session.attach(args.router, who, args.instance, expected))
        except NotTrusted as error:
            tell("router refused", because=what, says=str(error))
        else:
            raise StepFailed(f"a router was taken with {what}")


async def be_refused(args: argparse.Namespace) -> None:
    """WF-3: a client without a certificate ends with a TLS alert. WF-101: an unknown one with UNKNOWN_IDENTITY."""
    try:
        await within(Session.attach(args.router, Credentials(trust(args), None, None), args.instance))
    except SessionEnded as ended:
        holds(ended.code in TLS_ALERTS, f"no TLS alert, but {ended}")
        tell("client without certificate refused", code=ended.code, alert=ended.code - 0x100)
    else:
        raise StepFailed("a router took a client without certificate")
    if args.stranger_chain is None:
        return
    stranger = Credentials(trust(args), args.stranger_chain, args.stranger_key)
    try:
        await within(Session.attach(args.router, stranger, args.instance))
    except SessionEnded as ended:
        holds(ended.code == 2, f"not UNKNOWN_IDENTITY, but {ended}")
        tell("stranger refused", code=ended.code, reason=str(ended))
    else:
        raise StepFailed("a router took an identity that nobody registered")


async def converse(session: Session, flow: Flow) -> None:
    """Requests to a server that turns payloads round, on every carrier: four, a copy not counted."""
    first = await exchange(session, "lane", flow, b"hello from Python")
    holds(flow.pinned, "the flow is pinned after a receipt (WF-87)")
    # A copy has its receipt sent again and is not handed on (WF-83): a server that counts it leaves one too early.
    copy = await within(session.repeat(first).receipt)
    tell("copy receipted again", sequence=copy.sequence)
    deadline = time.time_ns() // 1000 + int(PATIENCE * 1e6)
    await exchange(session, "lane", flow, b"again, with a deadline", deadline_us=deadline)
    await exchange(session, "datagram", flow, b"in a datagram")
    bulk = Flow(flow.original, BULK_CLASS)
    await exchange(session, "bulk", bulk, bytes(range(256)) * 400)


async def exchange(session: Session, carrier: str, flow: Flow, payload: bytes, **options) -> Exchange:
    asked = wire.label_text(flow.destination.label)
    sent = session.request(flow, payload, carrier, **options)
    receipt = await within(sent.receipt)
    holds(receipt.total_len == wire.HEADER_LEN, "a receipt is 48 bytes")
    holds(receipt.requested_label == session.welcome.label, "the receipt asks for this instance")
    server = wire.label_text(receipt.source_label)
    tell("receipt", carrier=carrier, asked=asked, server=server, sequence=receipt.sequence, sent=sent.sent)
    reply = await within(sent.reply)
    holds(reply.message.payload == payload[::-1], "the reply is the payload turned round")
    holds(reply.message.header.source_label == receipt.source_label, "receipt and reply come from one instance")
    tell("reply", carrier=reply.carrier, server=server, payload_len=len(reply.message.payload))
    return sent


async def notice(session: Session, path: str) -> None:
    candidates = await within(session.resolve(path=path))
    holds(bool(candidates) and candidates[0].members == 0, f"{path} is a class that nobody serves")
    flow = Flow(Destination(candidates[0].label, candidates[0].tenant), LANE_CLASS)
    sent = session.request(flow, b"anybody there?")
    try:
        await within(sent.receipt)
    except Refused as refused:
        holds(refused.code == "NO_ROUTE", f"not NO_ROUTE but {refused.code}")
        offending = refused.notice.offending
        holds(offending.flow == flow.id and offending.sequence == 0, "the notice is about this message")
        holds(offending.encode() == sent.message.header.encode(), "the ingress router quotes the header as sent")
        asked = wire.label_text(offending.requested_label)
        tell("notice", code=refused.code, router=wire.label_text(refused.notice.router), about=asked)
    else:
        raise StepFailed(f"{path} is served")


async def broken_streams(session: Session, flow: Flow) -> None:
    """WF-63: each ends its stream with the code of the rule; the connection stays, as what follows shows."""
    preface = wire.encode_preface(wire.LANE, LANE_CLASS)
    label = flow.destination.label
    good = wire.Header(
        kind=wire.DATA,
        traffic_class=LANE_CLASS,
        flags=wire.AFFINITY,
        label=label,
        requested_label=label,
        source_label=session.welcome.label,
        source_domain=session.welcome.domain,
        flow=Flow(flow.destination, LANE_CLASS).id,
        sequence=0,
    )
    cases = {
        "wrong preface": (b"CPL2" + preface[4:], wire.MALFORMED),
        "version 2": (preface + b"\x20" + good.encode()[1:], wire.MALFORMED),
        "kind 4": (preface + b"\x14" + good.encode()[1:], wire.MALFORMED),
        "another class": (preface + replace(good, traffic_class=BULK_CLASS).encode(), wire.MALFORMED),
        "65,537 bytes": (preface + replace(good, payload_len=65_537 - wire.HEADER_LEN).encode(), wire.TOO_LARGE),
    }
    for what, (data, expected) in cases.items():
        code = await within(session.stopped(data))
        holds(code == expected, f"{what}: stopped with {code:#x}, not {expected:#x}")
        tell("broken stream stopped", what=what, code=code)


async def ask_once(session: Session, path: str, expected: bytes) -> None:
    candidates = await within(session.resolve(path=path))
    holds(bool(candidates), f"nothing is at {path}")
    sent = session.request(Flow(Destination(candidates[0].label, candidates[0].tenant), LANE_CLASS), b"ping")
    receipt = await within(sent.receipt)
    reply = await within(sent.reply)
    holds(reply.message.payload == expected, f"{path} answered {reply.message.payload!r}")
    tell("also", path=path, server=wire.label_text(receipt.source_label), reply=expected.decode())


async def leave(session: Session) -> None:
    broken = {what: count for what, count in session.counters.items() if not what.startswith(("copy", "notice"))}
    ended = await within(session.leave("done"))
    holds(ended.code == wire.NORMAL, str(ended))
    holds(not broken, f"what came in broke rules: {broken}")
    tell("left", code=ended.code, counters=session.counters)


# The command


def attachment(session: Session) -> dict:
    welcome = session.welcome
    return {
        "alpn": session.alpn,
        "router": session.router.text,
        "router_label": wire.label_text(welcome.router),
        "label": wire.label_text(welcome.label),
        "domain": welcome.domain,
        "tenant": welcome.tenant,
        "priority_max": welcome.limits.priority_max,
    }


def trust(args: argparse.Namespace) -> Trust:
    roots = Trust()
    for pair in args.roots:
        domain, _, file = pair.partition("=")
        roots.add_file(domain, Path(file))
    return roots


def credentials(args: argparse.Namespace) -> Credentials:
    return Credentials(trust(args), args.chain, args.key)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    attached = argparse.ArgumentParser(add_help=False)
    attached.add_argument("--router", required=True, metavar="HOST:PORT")
    attached.add_argument("--chain", required=True, type=Path, help="own certificate chain (PEM)")
    attached.add_argument("--key", required=True, type=Path, help="its private key (PEM)")
    attached.add_argument(
        "--roots", required=True, action="append", metavar="DOMAIN=FILE", help="root certificates of a trust domain"
    )
    attached.add_argument("--instance", default="python", help="instance name")

    command = commands.add_parser("vectors", help="check the golden vectors and the SPEC's examples")
    command.add_argument("--folder", type=Path, default=VECTORS)
    command.set_defaults(run=vectors)

    command = commands.add_parser("serve", parents=[attached], help="answer requests with their payload turned round")
    command.add_argument("--count", type=int, required=True, help="requests to answer before leaving")
    command.set_defaults(run=serve)

    command = commands.add_parser("ask", parents=[attached], help="go through every step of an asker")
    command.add_argument("--expect", help="the router's name")
    command.add_argument("--text", required=True, help="need whose class `serve` serves")
    command.add_argument("--unserved", required=True, metavar="PATH", help="class that nobody serves")
    command.add_argument("--also", action="append", default=[], metavar="PATH=REPLY", help="one more server to ask")
    command.add_argument("--stranger-chain", type=Path, help="certificate of an identity that is not registered")
    command.add_argument("--stranger-key", type=Path)
    command.set_defaults(run=ask)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        outcome = args.run(args)
        if asyncio.iscoroutine(outcome):
            asyncio.run(outcome)
    except (StepFailed, NotTrusted, Refused, SessionEnded, LookupError, OSError, TimeoutError, wire.WireError) as error:
        print(json.dumps({"step": args.command, "ok": False, "error": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
