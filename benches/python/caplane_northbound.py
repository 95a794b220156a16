#!/usr/bin/env python3
"""The northbound API from Python, with code that grpcio-tools makes from the .proto files.

As a module it is a small client: `Northbound` connects, writes, reads and watches, and its errors say as data what was
refused and what would be accepted. As a command it tries that against a running controller, prints one JSON object a
step and exits 1 when one does not hold:

    caplane_northbound.py --controller HOST:PORT --chain FILE --key FILE --roots FILE [--trust-domain NAME]

Knows the API's messages and how errors come. Refuses to know routers and messages between agents.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "controlplane" / "proto" / "proto"
SERVER_NAME = "caplane-controller"
PATIENCE = 30.0
TYPE_URL = "type.googleapis.com/caplane.v1."


def _generated():
    """The modules made from the .proto files, for as long as this program runs."""
    folder = tempfile.mkdtemp(prefix="caplane-proto-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", f"-I{PROTO}", *outputs, *files]) != 0:
        raise RuntimeError(f"the .proto files in {PROTO} do not compile")
    sys.path.insert(0, folder)
    return (
        importlib.import_module("caplane.v1.northbound_pb2"),
        importlib.import_module("caplane.v1.northbound_pb2_grpc"),
    )


pb, pb_grpc = _generated()


class Refused(Exception):
    """The controller said no. `faults` are `ErrorDetail`s: first what the status is about, then the batch's others."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(f"{error.code().name}: {error.details()}")
        self.code = error.code()
        self.faults: list = []
        self.faulty = 0
        self.retry_after_ms: int | None = None
        packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        for detail in pb.RichStatus.FromString(packed).details:
            name = detail.type_url.removeprefix(TYPE_URL)
            if name == "ErrorDetail":
                self.faults.append(pb.ErrorDetail.FromString(detail.value))
            elif name == "WriteFailure":
                failure = pb.WriteFailure.FromString(detail.value)
                self.faulty = failure.faulty
                # The first is the one that the status is about.
                self.faults += [status.detail for status in failure.statuses[1:]]
            elif name == "RetryAfter":
                self.retry_after_ms = pb.RetryAfter.FromString(detail.value).ms
        self.faulty = max(self.faulty, len(self.faults))


class Northbound:
    """A connection to one controller, by mutual TLS."""

    def __init__(self, address: str, chain: bytes, key: bytes, roots: bytes) -> None:
        credentials = grpc.ssl_channel_credentials(roots, key, chain)
        options = [("grpc.ssl_target_name_override", SERVER_NAME)]
        self._channel = grpc.secure_channel(address, credentials, options)
        self._stub = pb_grpc.NorthboundStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def write(self, updates: Iterable, **options):
        """A batch, all or none; `options` are further fields of WriteRequest, such as `expected_generation`."""
        return self._call(self._stub.Write, pb.WriteRequest(updates=updates, **options))

    def read(self, kind: str, key: str = "") -> tuple[list, int]:
        """All entities of a kind, and the generation to compare and set with: that of the first page."""
        entities, page, first = [], "", None
        while True:
            request = pb.ReadRequest(kind=pb.ReadRequest.Kind.Value(kind), key=key, page=page)
            answer = self._call(self._stub.Read, request)
            entities += answer.entities
            first = answer.generation if first is None else first
            page = answer.next_page
            if not page:
                return entities, first

    def watch(self, **request) -> Watch:
        """What changes; fields of WatchRequest say since when, and what of it."""
        return Watch(self._stub.Watch(pb.WatchRequest(**request)))

    @staticmethod
    def _call(call, request):
        try:
            return call(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            raise Refused(error) from None


class Gone(Exception):
    """Changes were missed: read everything again (watch with `initial=True`)."""


class Watch:
    """Changes as they are told. `resume` is what another watch goes on with after this one."""

    def __init__(self, stream) -> None:
        self._stream = stream
        self.resume = ""

    def close(self) -> None:
        self._stream.cancel()

    def __iter__(self) -> Iterator:
        """`WatchChange`s; `None` once, when everything that was asked for has been told."""
        try:
            for message in self._stream:
                kind = message.WhichOneof("message")
                if kind == "gone":
                    raise Gone(message.gone.reason)
                if kind == "synced":
                    self.resume = message.synced.resume
                    yield None
                elif kind == "changes":
                    yield from message.changes.changes
                    # Only now: what was not taken is told again.
                    self.resume = message.changes.resume or self.resume
        except grpc.RpcError as error:
            raise Refused(error) from None


def insert(**entity):
    return pb.Update(type=pb.Update.INSERT, entity=pb.Entity(**entity))


def modify(**entity):
    return pb.Update(type=pb.Update.MODIFY, entity=pb.Entity(**entity))


def delete(**entity):
    return pb.Update(type=pb.Update.DELETE, entity=pb.Entity(**entity))


# The steps


class StepFailed(Exception):
    pass


def holds(condition: bool, what: object) -> None:
    if not condition:
        raise StepFailed(str(what))


def refused(call, code: str) -> Refused:
    try:
        call()
    except Refused as error:
        holds(error.code.name == code, error)
        return error
    raise StepFailed(f"{code} was due, and it was done")


def card(name: str, skill: str) -> bytes:
    skills = [{"id": skill, "name": skill, "description": skill, "tags": []}]
    about = {"name": name, "description": name, "version": "1", "url": "http://localhost:1/", "capabilities": {}}
    modes = {"defaultInputModes": ["text"], "defaultOutputModes": ["text"]}
    return json.dumps(about | modes | {"skills": skills}).encode()


def registers(api: Northbound, domain: str) -> Iterator[tuple[str, dict]]:
    uris = [f"spiffe://{domain}/tenant/python/agent/{name}" for name in ("one", "two")]
    updates = [insert(tenant={"name": "python"})]
    for uri in uris:
        updates.append(insert(agent={"uri": uri, "tenant": "python", "card": card(uri, "currency_conversion")}))
        updates.append(insert(grant={"agent_uri": uri, "class_path": "*"}))
    answer = api.write(updates)
    holds([status.code for status in answer.statuses] == [0] * len(updates), answer.statuses)
    agent = answer.entities[1].agent
    holds(agent.label > 0 and agent.skills[0].class_path and agent.skills[0].granted, agent)
    entities, generation = api.read("AGENT", uris[0])
    holds(entities[0].agent.label == agent.label and generation >= answer.generation, entities)
    yield "registered", {"label": agent.label, "class": agent.skills[0].class_path}

    # Read gives what Write takes: written back, it changes nothing that routers have.
    agent = entities[0].agent
    rehearsal = api.write([modify(agent=agent)], dry_run=True)
    holds(not rehearsal.diff, rehearsal.diff)
    yield "read and written back", {}


def compares_and_sets(api: Northbound) -> Iterator[tuple[str, dict]]:
    _, generation = api.read("TENANT")
    won = api.write([insert(tenant={"name": "first"})], expected_generation=generation)
    holds(won.generation > generation, won)
    yield "compare and set won", {"generation": won.generation}
    late = [insert(tenant={"name": "second"})]
    error = refused(lambda: api.write(late, expected_generation=generation), "ABORTED")
    holds(error.faults[0].field == "expected_generation" and error.faults[0].accepted, error.faults)
    holds(not api.read("TENANT", "second")[0], "it is there all the same")
    yield "compare and set lost", {"accepted": list(error.faults[0].accepted)}
    # Who read again decides anew.
    api.write(late, expected_generation=api.read("TENANT")[1])
    once = {"idempotency_key": "python-1"}
    third = [insert(tenant={"name": "third"})]
    first, again = api.write(third, **once), api.write(third, **once)
    holds(again.repeated_request and again.generation == first.generation, again)
    yield "done once", {}


def reads_typed_errors(api: Northbound) -> Iterator[tuple[str, dict]]:
    error = refused(lambda: api.write([insert(tenant={"name": "no name"})]), "INVALID_ARGUMENT")
    fault = error.faults[0]
    seen = (fault.field, fault.value, fault.update_index)
    holds(seen == ("updates[0].tenant.name", "no name", 0) and fault.accepted, fault)
    yield "typed error", {"field": fault.field, "accepted": list(fault.accepted)}
    several = [
        insert(tenant={"name": "fine"}),
        delete(router={"name": "nobody"}),
        insert(permission={"from": "first", "to": "nowhere"}),
    ]
    error = refused(lambda: api.write(several), "NOT_FOUND")
    holds([fault.update_index for fault in error.faults] == [1, 2] and error.faulty == 2, error.faults)
    holds("third" in error.faults[1].accepted, error.faults[1])
    yield "every fault told", {"fields": [fault.field for fault in error.faults]}


def watches(api: Northbound) -> Iterator[tuple[str, dict]]:
    kinds = [pb.ReadRequest.TENANT]
    watch = api.watch(kinds=kinds, initial=True)
    names = set()
    told = iter(watch)
    for change in told:
        if change is None:
            break
        names.add(change.entity.tenant.name)
    holds({"shared", "python", "first"} <= names, names)
    api.write([insert(tenant={"name": "seen"})])
    holds(next(told).entity.tenant.name == "seen", "another change")
    # It was told; the place after it comes with the next message.
    api.write([insert(tenant={"name": "seen-too"})])
    holds(next(told).entity.tenant.name == "seen-too", "another change")
    place = watch.resume
    watch.close()
    yield "watched", {"tenants": len(names)}

    # While nobody watches; what was told before `place` is not told again.
    api.write([insert(tenant={"name": "missed"}), delete(tenant={"name": "seen"})])
    watch = api.watch(kinds=kinds, resume=place)
    again = []
    for change in watch:
        if change is None:
            break
        again.append((change.entity.tenant.name, change.removed))
    watch.close()
    holds(sorted(again) == [("missed", False), ("seen", True), ("seen-too", False)], again)
    yield "resumed", {"told": len(again)}
    stale = iter(api.watch(kinds=kinds, resume="another:1:1"))
    try:
        next(stale)
    except Gone as gone:
        yield "gone", {"reason": str(gone)}
    else:
        raise StepFailed("a token of another store was taken")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--controller", required=True, metavar="HOST:PORT")
    for name in ("--chain", "--key", "--roots"):
        parser.add_argument(name, required=True, type=Path, metavar="FILE")
    parser.add_argument("--trust-domain", default="caplane.local", metavar="NAME")
    args = parser.parse_args()
    api = Northbound(args.controller, args.chain.read_bytes(), args.key.read_bytes(), args.roots.read_bytes())
    steps = (registers(api, args.trust_domain), compares_and_sets(api), reads_typed_errors(api), watches(api))
    try:
        for some in steps:
            for step, seen in some:
                print(json.dumps({"step": step, "ok": True} | seen), flush=True)
    except (StepFailed, Refused, Gone) as error:
        print(json.dumps({"step": "failed", "ok": False, "why": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    finally:
        api.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
