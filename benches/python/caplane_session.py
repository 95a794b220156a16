"""An attached instance of an agent over aioquic, written from wire-format/SPEC.md alone.

Knows the control stream, carriers, receipts and resending. Refuses to know
what messages say.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicFrameType, QuicProtocolVersion
from google.protobuf.message import DecodeError

import caplane_wire as wire
from caplane_control import ControlFrame
from caplane_trust import NotTrusted, Trust

SOFTWARE = "caplane-python-peer/1"
CONTROL_STREAM = 0  # WF-9
BAD_CERTIFICATE = 0x100 + 42  # RFC 9001 section 4.8, RFC 8446 section 6.2
DEDUPLICATION_WINDOW = 1024  # WF-83
RESEND_LEAST, RESEND_MOST = 0.2, 10.0  # WF-82


class SessionEnded(Exception):
    """The connection is closed. `code` is that of WF-101, or a TLS alert's."""

    def __init__(self, code: int, reason: str):
        super().__init__(f"ended with {code:#x}: {reason}")
        self.code = code


class Refused(Exception):
    """A notice or a stream error says that a message will not arrive."""

    def __init__(self, code: str, notice: wire.Notice | None = None):
        super().__init__(code)
        self.code, self.notice = code, notice


@dataclass
class Credentials:
    """Who attaches, and whom it believes. Without `chain` no certificate is shown."""

    trust: Trust
    chain: Path | None
    key: Path | None


@dataclass(frozen=True)
class Destination:
    label: int
    tenant: int = 0
    domain: int = 0


def _future() -> asyncio.Future:
    return asyncio.get_running_loop().create_future()


@dataclass
class Exchange:
    """A message that waits for its receipt and, if it is a request, its reply."""

    message: wire.Message
    carrier: str
    flow: Flow | None = None
    receipt: asyncio.Future = field(default_factory=_future)
    reply: asyncio.Future = field(default_factory=_future)
    sent: int = 0
    resending: asyncio.Task | None = None

    def fail(self, error: Exception) -> None:
        for future in (self.receipt, self.reply):
            if not future.done():
                future.set_exception(error)
                future.exception()  # Whoever waits for it hears it all the same.


@dataclass
class Delivery:
    """A data message for the application, first copy."""

    message: wire.Message
    carrier: str


class Flow:
    """A conversation: where it goes, and whom it is pinned to (WF-28, WF-87)."""

    def __init__(self, destination: Destination, traffic_class: int):
        self.id = secrets.randbits(64)
        self.original = self.destination = destination
        self.traffic_class = traffic_class
        self.next = 0

    @property
    def pinned(self) -> bool:
        return self.destination != self.original

    def pin(self, answer: wire.Header, own_domain: int) -> None:
        if not self.pinned:
            domain = 0 if answer.source_domain == own_domain else answer.source_domain
            self.destination = Destination(answer.source_label, 0, domain)


class Window:
    """Which sequences of a flow were delivered (WF-83)."""

    def __init__(self, first: int):
        self._highest, self._delivered = first, 1

    def is_new(self, sequence: int) -> bool:
        ahead = (sequence - self._highest) % 2**32
        if 0 < ahead < 2**31:
            shifted = self._delivered << ahead if ahead < DEDUPLICATION_WINDOW else 0
            self._delivered = (shifted | 1) % 2**DEDUPLICATION_WINDOW
            self._highest = sequence
            return True
        behind = (self._highest - sequence) % 2**32
        if behind >= DEDUPLICATION_WINDOW or self._delivered >> behind & 1:
            return False
        self._delivered |= 1 << behind
        return True


class Session(QuicConnectionProtocol):
    """One connection to a router; `attach` makes it."""

    def __init__(self, quic: QuicConnection, trust: Trust, expected: str | None):
        super().__init__(quic)
        self._trust, self._expected = trust, expected
        self._router_name: asyncio.Future[wire.Name] = _future()
        self._welcomed = _future()
        self.ended: asyncio.Future[SessionEnded] = _future()
        self.router: wire.Name | None = None
        self.alpn: str | None = None
        self.welcome = None
        # What came before Welcome (WF-113): it is read after it, when the own label is known.
        self._early: list[events.QuicEvent] = []
        self.bye = None
        self.draining = asyncio.Event()
        self._deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        self.counters: dict[str, int] = {}
        self._round_trip = 0.0
        self._control = wire.ControlReader()
        self._queries: dict[int, asyncio.Future] = {}
        self._lanes: dict[int, int] = {}
        self._stops: dict[int, asyncio.Future[int]] = {}
        self._incoming: dict[int, _Incoming] = {}
        self._exchanges: dict[tuple[int, int], Exchange] = {}
        self._windows: dict[tuple[int, int, int], Window] = {}
        self._keepalive: asyncio.Task | None = None

    # Attaching and leaving

    @classmethod
    async def attach(
        cls, router: str, credentials: Credentials, instance: str, expected: str | None = None
    ) -> Session:
        """Connects, checks the router's certificate and says Hello."""
        host, _, port = router.rpartition(":")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, *_, address = found[0]
        quic = QuicConnection(configuration=_configuration(credentials))
        local = ("::" if family == socket.AF_INET6 else "0.0.0.0", 0)
        transport, session = await loop.create_datagram_endpoint(
            lambda: cls(quic, credentials.trust, expected), local_addr=local, family=family
        )
        session.ended.add_done_callback(lambda _: transport.close())
        try:
            session.connect(address)
            await session._say_hello(instance)
        except BaseException:
            session.close()
            raise
        return session

    async def _say_hello(self, instance: str) -> None:
        self.router = await self._or_end(self._router_name)
        begun = time.monotonic()
        self._send_control(
            ControlFrame(hello={"instance_name": instance, "role": "ROLE_INSTANCE", "software": SOFTWARE})
        )
        await self._or_end(self._welcomed)
        self._round_trip = time.monotonic() - begun
        self._keepalive = asyncio.create_task(self._keep_alive())

    async def leave(self, reason: str) -> SessionEnded:
        """Bye, and the connection closes (WF-118). A router may close as soon as it reads Bye, so what was
        sent before is acknowledged first."""
        await self._acknowledged()
        self._send_control(ControlFrame(bye={"reason": reason}))
        await self._acknowledged()
        self.close(wire.NORMAL, reason)
        return await self.ended

    async def _acknowledged(self) -> None:
        """Returns when everything sent on streams was acknowledged, or the connection ended."""
        with contextlib.suppress(ConnectionError):
            while not self.ended.done() and self._unacknowledged():
                await self.ping()

    def _unacknowledged(self) -> bool:
        # aioquic has no public question for this: what is still buffered was not acknowledged.
        return any(stream.sender._buffer for stream in self._quic._streams.values())

    async def _keep_alive(self) -> None:
        idle = (self.welcome.limits.idle_timeout_ms or 30_000) / 1000  # WF-116
        while not self.ended.done():
            await asyncio.wait([self.ended], timeout=min(idle, 30.0) / 3)
            with contextlib.suppress(ConnectionError):
                await self.ping()

    async def _or_end(self, future: asyncio.Future):
        """The future's result, unless the connection ends first."""
        await asyncio.wait([future, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise self.ended.result()

    # Asking

    async def resolve(self, **target: str):
        """Candidates for a `path`, `agent_id` or `text`, best first (WF-114)."""
        query = secrets.randbits(63)
        self._queries[query] = _future()
        self._send_control(ControlFrame(resolve={"query_id": query} | target))
        answer = await self._or_end(self._queries[query])
        if answer.error:
            raise LookupError(answer.error)
        return list(answer.candidates)

    def request(
        self, flow: Flow, payload: bytes, carrier: str = "lane", deadline_us: int | None = None
    ) -> Exchange:
        """Sends the next message of a flow, a receipt wanted, and goes on until one comes."""
        sequence, flow.next = flow.next, (flow.next + 1) % 2**32
        waiting = (e.message.header.sequence for e in self._exchanges.values() if e.flow is flow)
        if any((sequence - other) % 2**32 >= DEDUPLICATION_WINDOW for other in waiting):
            raise BlockingIOError("sequences of this flow 1,024 back still wait for receipt or reply (WF-82)")
        flags = wire.AFFINITY | wire.RECEIPT_WANTED
        message = wire.Message.build(
            payload,
            b"" if deadline_us is None else wire.encode_deadline(deadline_us),
            kind=wire.DATA,
            traffic_class=flow.traffic_class,
            flags=flags if deadline_us is None else flags | wire.DEADLINE_PRESENT,
            label=flow.destination.label,
            requested_label=flow.destination.label,
            tenant=flow.destination.tenant,
            destination_domain=flow.destination.domain,
            source_label=self.welcome.label,
            source_domain=self.welcome.domain,
            flow=flow.id,
            sequence=sequence,
        )
        return self._begin(Exchange(message, carrier, flow))

    def repeat(self, exchange: Exchange) -> Exchange:
        """Sends a copy of a message whose exchange is over, and waits for its receipt only."""
        return self._begin(Exchange(exchange.message, exchange.carrier))

    async def receive(self) -> Delivery:
        """The next message for the application."""
        return await self._or_end(asyncio.ensure_future(self._deliveries.get()))

    def reply(self, delivery: Delivery, payload: bytes, carrier: str) -> Exchange:
        """Answers a request; the exchange ends with the asker's receipt."""
        original = delivery.message.header
        message = wire.reply_to(original, self.welcome.label, self.welcome.domain, payload, receipt_wanted=True)
        return self._begin(Exchange(message, carrier))

    def _begin(self, exchange: Exchange) -> Exchange:
        header = exchange.message.header
        self._exchanges[header.flow, header.sequence] = exchange
        exchange.receipt.add_done_callback(lambda _: self._forget_if_done(exchange))
        exchange.reply.add_done_callback(lambda _: self._forget_if_done(exchange))
        exchange.resending = asyncio.create_task(self._resend(exchange))
        return exchange

    def _forget_if_done(self, exchange: Exchange) -> None:
        if exchange.receipt.done() and (exchange.reply.done() or exchange.flow is None):
            header = exchange.message.header
            self._exchanges.pop((header.flow, header.sequence), None)

    async def _resend(self, exchange: Exchange) -> None:
        """Sends until there is a receipt, a notice that says stop, or the deadline passed (WF-82)."""
        wait, deadline = max(RESEND_LEAST, 2 * self._round_trip), wire.deadline_of(exchange.message)
        while not exchange.receipt.done() and not self.ended.done():
            if deadline is not None and _now_us() > deadline:
                exchange.fail(Refused("DEADLINE"))
                return
            self.send(exchange.message, exchange.carrier)
            exchange.sent += 1
            await asyncio.wait([exchange.receipt, self.ended], timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            wait = min(2 * wait, RESEND_MOST)

    # Carriers

    def send(self, message: wire.Message, carrier: str = "lane") -> None:
        cls = message.header.traffic_class
        if carrier == "datagram":
            self._quic.send_datagram_frame(message.encode())
        elif carrier == "bulk":
            stream = self._open(wire.BULK, cls)
            self._quic.send_stream_data(stream, message.encode(), end_stream=True)
        else:
            if message.header.total_len > (self.welcome.limits.lane_message_bytes or wire.LANE_MESSAGE_MAX):
                raise ValueError("too long for a lane (WF-60)")
            if cls not in self._lanes:
                self._lanes[cls] = self._open(wire.LANE, cls)
            self._quic.send_stream_data(self._lanes[cls], message.encode())
        self._transmit_soon()

    def _open(self, stream_type: int, cls: int) -> int:
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._quic.send_stream_data(stream, wire.encode_preface(stream_type, cls))
        return stream

    async def stopped(self, data: bytes) -> int:
        """Opens a stream with `data`, whatever that is, and returns the code of the router's STOP_SENDING."""
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._stops[stream] = _future()
        self._quic.send_stream_data(stream, data)
        self.transmit()
        try:
            return await self._or_end(self._stops[stream])
        finally:
            del self._stops[stream]

    def _send_control(self, frame) -> None:
        self._quic.send_stream_data(CONTROL_STREAM, wire.encode_control(frame.SerializeToString()))
        self.transmit()

    # What comes in

    def quic_event_received(self, event: events.QuicEvent) -> None:
        carriers = (events.StreamDataReceived, events.StreamReset, events.DatagramFrameReceived)
        if (
            self.welcome is None
            and isinstance(event, carriers)
            and getattr(event, "stream_id", None) != CONTROL_STREAM
        ):
            self._early.append(event)
        elif isinstance(event, events.HandshakeCompleted):
            self._check_router(event.alpn_protocol)
        elif isinstance(event, events.StreamDataReceived):
            if event.stream_id == CONTROL_STREAM:
                self._control_received(event.data, event.end_stream)
            elif event.stream_id % 4 == 3:
                self._stream_received(event)
            else:
                self._protocol_error("a bidirectional stream beside the control stream")
        elif isinstance(event, events.DatagramFrameReceived):
            try:
                self._message_received(wire.Message.decode(event.data), "datagram")
            except wire.WireError as error:
                self._count(f"datagram {error.reason}")
        elif isinstance(event, events.StopSendingReceived):
            # aioquic has reset the stream; another lane is opened when one is needed.
            self._lanes = {cls: stream for cls, stream in self._lanes.items() if stream != event.stream_id}
            if event.stream_id in self._stops:
                self._stops[event.stream_id].set_result(event.error_code)
            else:
                self._count(f"stopped with {event.error_code:#x}")
        elif isinstance(event, events.StreamReset):
            self._incoming.pop(event.stream_id, None)
            self._count(f"reset with {event.error_code:#x}")
            if event.stream_id == CONTROL_STREAM:
                self.close(wire.NORMAL, "the control stream was reset")
        elif isinstance(event, events.ConnectionTerminated):
            self._end(SessionEnded(event.error_code, event.reason_phrase))

    def _check_router(self, alpn: str | None) -> None:
        # The handshake is over and nothing was sent in the session yet. WF-5 instead of host names.
        tls = self._quic.tls
        self.alpn = alpn
        try:
            if alpn != wire.ALPN:
                raise NotTrusted(f"ALPN {alpn}")
            name = self._trust.validate(tls._peer_certificate, tls._peer_certificate_chain, self._expected)
        except NotTrusted as error:
            self._router_name.set_exception(error)
            self._quic.close(BAD_CERTIFICATE, QuicFrameType.CRYPTO, "certificate not accepted")
            return
        self._router_name.set_result(name)

    def _control_received(self, data: bytes, fin: bool) -> None:
        try:
            for frame in self._control.feed(data):
                self._frame_received(ControlFrame.FromString(frame))
        except (wire.WireError, DecodeError) as error:
            self._protocol_error(f"control stream: {error}")
        if fin and not self.ended.done():
            self.close(wire.NORMAL, "the control stream ended")

    def _frame_received(self, frame) -> None:
        kind = frame.WhichOneof("frame")
        if kind == "welcome" and not self._welcomed.done():
            self.welcome = frame.welcome
            self._welcomed.set_result(None)
            early, self._early = self._early, []
            for event in early:
                self.quic_event_received(event)
        elif kind == "resolved":
            query = self._queries.pop(frame.resolved.query_id, None)
            if query is not None and not query.done():
                query.set_result(frame.resolved)
        elif kind == "drain":
            self.draining.set()
        elif kind == "bye":
            self.bye = frame.bye
        elif kind is not None:
            self._protocol_error(f"{kind} from a router")

    def _stream_received(self, event: events.StreamDataReceived) -> None:
        incoming = self._incoming.get(event.stream_id)
        if incoming is None:
            incoming = self._incoming[event.stream_id] = _Incoming(self.welcome.limits)
        if incoming.broken:
            return
        try:
            for message in incoming.feed(event.data):
                self._message_received(message, incoming.carrier)
            if event.end_stream:
                del self._incoming[event.stream_id]
                incoming.finish()
        except wire.WireError as error:
            self._count(f"stream {error.reason}")
            incoming.broken = True
            if not event.end_stream:
                self._quic.stop_stream(event.stream_id, error.stream_code)

    def _message_received(self, message: wire.Message, carrier: str) -> None:
        header = message.header
        exchange = self._exchanges.get((header.flow, header.sequence))
        if header.kind == wire.NOTICE:
            self._notice_received(exchange, message)
        elif header.kind == wire.RECEIPT:
            if exchange is not None and not exchange.receipt.done():
                self._pin(exchange, header)
                exchange.receipt.set_result(header)
        else:
            self._data_received(exchange, Delivery(message, carrier))

    def _data_received(self, exchange: Exchange | None, delivery: Delivery) -> None:
        header = delivery.message.header
        try:
            wire.parse_extensions(delivery.message.extensions)
            deadline = wire.deadline_of(delivery.message)
        except wire.WireError as error:
            self._count(f"message {error.reason}")
            return
        if deadline is not None and deadline < _now_us():
            self._count("deadline passed")
            return
        if not self._is_new(header):
            self._count("copy")
        elif header.kind == wire.DATA:
            if exchange is None or exchange.flow is None:
                self._deliveries.put_nowait(delivery)
            elif not exchange.reply.done():
                self._pin(exchange, header)
                exchange.reply.set_result(delivery)
        # A group's messages and what wants none are not answered (WF-81).
        if header.flags & wire.RECEIPT_WANTED and wire.label_type(header.requested_label) != "group":
            self.send(wire.receipt_for(header, self.welcome.label, self.welcome.domain))

    def _is_new(self, header: wire.Header) -> bool:
        key = (header.source_domain, header.source_label, header.flow)
        if key not in self._windows:
            self._windows[key] = Window(header.sequence)
            return True
        return self._windows[key].is_new(header.sequence)

    def _pin(self, exchange: Exchange, answer: wire.Header) -> None:
        if exchange.flow is not None:
            exchange.flow.pin(answer, self.welcome.domain)

    def _notice_received(self, exchange: Exchange | None, message: wire.Message) -> None:
        try:
            notice = wire.Notice.decode(message.payload)
        except wire.WireError as error:
            self._count(f"notice {error.reason}")
            return
        self._count(f"notice {notice.code} of {wire.label_text(notice.router)}")
        if exchange is None or exchange.receipt.done():
            return
        flow = exchange.flow
        if notice.code in wire.UNPINS and flow is not None and flow.pinned:
            flow.destination = flow.original
            self._redirect(flow)
        elif notice.code in wire.STOPS_RESEND:
            exchange.fail(Refused(notice.code, notice))

    def _redirect(self, flow: Flow) -> None:
        """Sends what waits for a receipt to the flow's first destination again (WF-87)."""
        target = flow.destination
        for exchange in self._exchanges.values():
            if exchange.flow is flow and not exchange.receipt.done():
                header = replace(
                    exchange.message.header,
                    label=target.label,
                    requested_label=target.label,
                    tenant=target.tenant,
                    destination_domain=target.domain,
                )
                exchange.message = replace(exchange.message, header=header)
                self.send(exchange.message, exchange.carrier)

    # Ends

    def _protocol_error(self, what: str) -> None:
        self._count("protocol error")
        self.close(wire.PROTOCOL, what)

    def _end(self, ended: SessionEnded) -> None:
        if self.ended.done():
            return
        self.ended.set_result(ended)
        if self._keepalive is not None:
            self._keepalive.cancel()
        for exchange in list(self._exchanges.values()):
            exchange.fail(ended)

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1


class _Incoming:
    """A unidirectional stream that the router opened."""

    def __init__(self, limits):
        self._limits = limits
        self._head = bytearray()
        self._reader: wire.MessageReader | None = None
        self.carrier = ""
        self.broken = False

    def feed(self, data: bytes):
        if self._reader is None:
            self._head += data
            if len(self._head) < wire.PREFACE_LEN:
                return
            stream, cls = wire.parse_preface(self._head)
            self.carrier = "lane" if stream == wire.LANE else "bulk"
            lane = self._limits.lane_message_bytes or wire.LANE_MESSAGE_MAX
            bulk = self._limits.bulk_message_bytes or wire.BULK_MESSAGE_MAX
            self._reader = wire.MessageReader(stream, cls, lane if stream == wire.LANE else bulk)
            data = bytes(self._head[wire.PREFACE_LEN:])
        yield from self._reader.feed(data)

    def finish(self) -> None:
        if self._reader is None:
            raise wire.WireError("magic")
        self._reader.finish()


def _configuration(credentials: Credentials) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[wire.ALPN],
        supported_versions=[QuicProtocolVersion.VERSION_1],  # WF-1
        verify_mode=ssl.CERT_NONE,  # Host names mean nothing: `Session._check_router` applies WF-5 (WF-6).
        idle_timeout=30.0,
        max_datagram_frame_size=65_535,
        max_stream_data=1024 * 1024,
        max_data=64 * 1024 * 1024,
    )
    if credentials.chain is not None:
        configuration.load_cert_chain(credentials.chain, credentials.key)
    return configuration


def _now_us() -> int:
    return time.time_ns() // 1000
