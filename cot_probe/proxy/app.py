"""The reverse proxy: answers pass to the client as they come, and their reasoning is read on the way.

Bytes of a stream go out before they are read, so that reading cannot delay them. Only in gate mode
do frames of tool calls wait (:mod:`cot_probe.proxy.gating`). Paths that carry no model's answer pass
untouched; WebSockets are refused. Nothing of a request but the fields of the store is kept.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from cot_probe.proxy.encodings import Decoder, EncodingError
from cot_probe.proxy.exchange import Exchange, ProtocolName
from cot_probe.proxy.forward import (
    OWN_PREFIX,
    ClientGone,
    Headers,
    Incoming,
    Outgoing,
    Receive,
    Send,
    answer_headers,
    path_of,
    protocol_of,
    word_comment,
    word_headers,
)
from cot_probe.proxy.frames import DONE, Frame, FrameReader, comment_bytes, json_of, object_of
from cot_probe.proxy.gating import Gate
from cot_probe.proxy.reading import Watch
from cot_probe.proxy.recorder import Recorder
from cot_probe.proxy.store import Ended
from cot_probe.proxy.upstream import ProxyOptions, asked_in, request_of, upstream_client

HEALTH_PATH: Final = "/.cot-probe/health"
"""The one path that the proxy answers itself."""
_LOG: Final = logging.getLogger("cot_probe.proxy")
_STREAM_BYTES: Final = 2**32
"""Longest stream that is read, decoded: its frames and what is kept of it are bounded by themselves."""
_SMALL_BYTES: Final = 64 * 1024
"""A request up to this size is read without the detour over a thread."""
_THREADS: Final = 64
"""Threads in which monitors wait for scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an exchange ended; see the store's column ``ended``."""

    ended: Ended
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Counts:
    """What has passed since the start."""

    requests: int = 0
    open: int = 0
    tapped: int = 0
    withheld: int = 0
    not_read: int = 0
    cut_off: int = 0
    upstream_errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer of the upstream, and the bytes of its body as they come."""

    response: httpx.Response
    pieces: AsyncIterator[bytes]


class Proxy:
    """The ASGI application behind :func:`proxy_app`."""

    def __init__(self, options: ProxyOptions, watch: Watch, recorder: Recorder, client: httpx.AsyncClient) -> None:
        self.counts = Counts()
        self.recorder = recorder
        self._options, self._watch, self._client = options, watch, client
        self._finishing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "cot-probe proxies no WebSockets"})
            return
        exchange_or_none: list[Exchange] = []
        incoming = Incoming(receive, keep_bytes=self._options.max_body_bytes)
        self.counts.requests += 1
        if self.counts.open >= self._options.max_open:
            await self._refuse(scope, Outgoing(send))
            return
        self.counts.open += 1
        pump = asyncio.create_task(self._serve(scope, incoming, Outgoing(send), exchange_or_none))
        gone = asyncio.create_task(incoming.gone())
        outcome = Outcome(ended="shutdown")
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                pump.cancel()
                await asyncio.wait({pump})
            if pump.cancelled():
                outcome = Outcome(ended="client_gone")
            elif pump.exception() is not None:
                outcome = Outcome(ended="failed", reason=type(pump.exception()).__name__)
                pump.result()
            else:
                outcome = pump.result()
        finally:
            pump.cancel()
            gone.cancel()
            # In this order, so that whoever looks sees the answer as open or as being finished.
            for exchange in exchange_or_none:
                self._finish_soon(exchange, outcome)
            self.counts.open -= 1

    @property
    def finishing(self) -> int:
        """Answers that are over and are still being scored or stored."""
        return len(self._finishing)

    async def finished(self) -> None:
        """Wait until all answers that are over have been scored and stored."""
        while self._finishing:
            await asyncio.wait(set(self._finishing))

    async def close(self) -> None:
        """Finish what is over, as far as there is time; what is left then is not stored, and said so."""
        if self._finishing:
            _, late = await asyncio.wait(set(self._finishing), timeout=self._options.finish_s)
            for task in late:
                task.cancel()
            if late:
                _LOG.error("not stored", extra={"fields": {"answers": len(late), "error": "no time left to finish"}})

    # One request.

    async def _refuse(self, scope: Mapping[str, Any], out: Outgoing) -> None:
        protocol = protocol_of(scope["method"], path_of(scope))
        message = f"cot-probe proxy: {self._options.max_open:,} requests are open already, come again"
        await out.error(503, protocol, "too_many_requests_open", message, retry_after_s=1)

    async def _serve(
        self, scope: Mapping[str, Any], incoming: Incoming, out: Outgoing, exchange: list[Exchange]
    ) -> Outcome:
        path = path_of(scope)
        protocol = protocol_of(scope["method"], path)
        request = request_of(scope, path, incoming, self._options, tapped=protocol is not None)
        try:
            response = await self._client.send(request, stream=True)
        except ClientGone:
            return Outcome(ended="client_gone")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return await self._unreachable(error, protocol, out)
        answer = Answered(response=response, pieces=response.aiter_raw())
        try:
            if protocol is None:
                return await self._relay(answer, out)
            read = (protocol, scope, path, incoming, self._options.max_body_bytes)
            small = len(incoming.kept) < _SMALL_BYTES
            asked = asked_in(*read) if small else await asyncio.to_thread(asked_in, *read)
            event_stream = "text/event-stream" in response.headers.get("content-type", "").lower()
            name = secrets.token_hex(8)
            told = self.recorder.verdict
            exchange.append(Exchange(self._watch, asked, id=name, stream=event_stream, told=told))
            exchange[0].status = response.status_code
            self.counts.tapped += 1
            return await self._tapped(answer, out, exchange[0])
        finally:
            await response.aclose()

    async def _unreachable(self, error: Exception, protocol: ProtocolName | None, out: Outgoing) -> Outcome:
        """The upstream gave no answer at all."""
        self.counts.upstream_errors += 1
        late = isinstance(error, httpx.TimeoutException)
        kind = type(error).__name__
        await out.error(
            504 if late else 502,
            protocol,
            "upstream_timeout" if late else "upstream_unreachable",
            f"cot-probe proxy: no answer from the upstream ({kind})",
        )
        _LOG.warning("upstream", extra={"fields": {"error": kind}})
        return Outcome(ended="upstream_gone", reason=kind)

    async def _relay(
        self, answer: Answered, out: Outgoing, *, headers: Headers | None = None, first: bytes = b""
    ) -> Outcome:
        """Pass an answer on untouched."""
        response = answer.response
        await out.start(response.status_code, answer_headers(response.headers.raw) if headers is None else headers)
        await out.body(first)
        try:
            async for piece in answer.pieces:
                await out.body(piece)
        except httpx.HTTPError as error:
            return self._broken(error)
        await out.end()
        return Outcome(ended="complete")

    def _broken(self, error: httpx.HTTPError) -> Outcome:
        """The upstream broke off: so does the answer, without its end, as the client would have seen it."""
        self.counts.upstream_errors += 1
        return Outcome(ended="upstream_gone", reason=type(error).__name__)

    # One answer of a model.

    async def _tapped(self, answer: Answered, out: Outgoing, exchange: Exchange) -> Outcome:
        response = answer.response
        kind = response.headers.get("content-type", "").lower()
        if response.status_code >= 300 or response.status_code == 204:
            relayed = await self._relay(answer, out)
            ended: Ended = "error" if relayed.ended == "complete" else relayed.ended
            return Outcome(ended=ended, reason=f"HTTP {response.status_code}")
        try:
            most = _STREAM_BYTES if exchange.stream else self._options.max_body_bytes
            decoder = Decoder(response.headers.get("content-encoding", ""), max_bytes=most)
        except EncodingError as error:
            return await self._pass_unread(answer, out, exchange, str(error))
        if exchange.stream:
            return await self._stream(answer, out, exchange, decoder)
        if "json" in kind:
            return await self._body(answer, out, exchange, decoder)
        return await self._pass_unread(answer, out, exchange, f"content-type {kind[:100]!r}")

    async def _pass_unread(
        self, answer: Answered, out: Outgoing, exchange: Exchange, reason: str, first: bytes = b""
    ) -> Outcome:
        """An answer that cannot be read: it passes as it is; a gate lets it only where the policy does."""
        exchange.not_read = reason
        self.counts.not_read += 1
        if self._watch.gate and exchange.unscored_action() == "hold":
            message = f"cot-probe proxy: the answer was withheld by policy, because it could not be read: {reason}"
            await out.error(502, exchange.asked.protocol, "answer_not_read", message)
            return Outcome(ended="not_read", reason=reason)
        headers = answer_headers(answer.response.headers.raw)
        if self._options.annotate:
            headers += [(OWN_PREFIX + b"trace", exchange.id.encode()), (OWN_PREFIX + b"scored", b"false")]
        relayed = await self._relay(answer, out, headers=headers, first=first)
        return Outcome(ended="not_read" if relayed.ended == "complete" else relayed.ended, reason=reason)

    async def _stream(self, answer: Answered, out: Outgoing, exchange: Exchange, decoder: Decoder) -> Outcome:
        gate = exchange.gate() if self._watch.gate else None
        status = answer.response.status_code
        headers = answer_headers(answer.response.headers.raw, changed=gate is not None)
        sized = any(name == b"content-length" for name, _ in headers)
        if self._options.annotate:
            headers.append((OWN_PREFIX + b"trace", exchange.id.encode()))
        await out.start(status, headers)
        reader = FrameReader()
        try:
            async for piece in answer.pieces:
                if gate is None:
                    await out.body(piece)
                for frame in self._frames(piece, exchange, reader, decoder):
                    await self._frame(frame, exchange, gate, out)
                if exchange.not_read and gate is not None:
                    return Outcome(ended="not_read", reason=exchange.not_read)
        except httpx.HTTPError as error:
            return self._broken(error)
        rest = reader.close()
        for frame in rest:
            await self._frame(frame, exchange, gate, out)
        exchange.over()
        for piece in await gate.close() if gate is not None else []:
            await out.body(piece)
        plain = gate is not None or decoder.encoding == "identity"
        dangling = any(frame.raw.strip() for frame in rest)
        if self._options.annotate and plain and not sized and not dangling:
            await out.body(comment_bytes(word_comment(await exchange.word())))
        await out.end()
        if exchange.not_read:
            return Outcome(ended="not_read", reason=exchange.not_read)
        return Outcome(ended="complete" if exchange.complete else "unfinished")

    def _frames(self, piece: bytes, exchange: Exchange, reader: FrameReader, decoder: Decoder) -> list[Frame]:
        """The frames that a piece of a stream completes; none once the stream has become unreadable."""
        if exchange.not_read:
            return []
        try:
            return reader.feed(decoder.feed(piece))
        except EncodingError as error:
            exchange.not_read = str(error)
            self.counts.not_read += 1
            return []

    async def _frame(self, frame: Frame, exchange: Exchange, gate: Gate | None, out: Outgoing) -> None:
        """Read one frame; in gate mode, send what may go out."""
        data = json_of(frame)
        if data is not None:
            exchange.read(data)
        elif frame.data is not None and frame.data.strip() == DONE:
            exchange.done()
        elif frame.data or not frame.whole:
            exchange.unread += 1
            if exchange.unscored_action() == "hold":
                return
        for piece in await gate.frame(frame, data) if gate is not None else []:
            await out.body(piece)

    async def _body(self, answer: Answered, out: Outgoing, exchange: Exchange, decoder: Decoder) -> Outcome:
        response = answer.response
        raw, plain = bytearray(), bytearray()
        try:
            async for piece in answer.pieces:
                raw += piece
                plain += decoder.feed(piece)
        except httpx.HTTPError as error:
            return await self._unreachable(error, exchange.asked.protocol, out)
        except EncodingError as error:
            return await self._pass_unread(answer, out, exchange, str(error), bytes(raw))
        data = object_of(plain.decode("utf-8", "replace"))
        if data is None:
            return await self._pass_unread(answer, out, exchange, "the body is no JSON object", bytes(raw))
        exchange.read(data)
        exchange.done()
        exchange.over()
        changed = await exchange.gate().body(data) if self._watch.gate else None
        headers = answer_headers(response.headers.raw, changed=changed is not None)
        body = bytes(raw)
        if changed is not None:
            body = json.dumps(changed).encode("ascii")
            headers.append((b"content-length", str(len(body)).encode()))
        if self._options.annotate:
            headers += word_headers(await exchange.word())
        await out.start(response.status_code, headers)
        await out.end(body)
        return Outcome(ended="complete")

    # When it is over.

    def _finish_soon(self, exchange: Exchange, outcome: Outcome) -> None:
        if outcome.ended in {"client_gone", "shutdown"} and exchange.complete:
            # Whoever has read the last frame may leave.
            outcome = Outcome(ended="complete")
        self.counts.cut_off += outcome.ended in {"client_gone", "upstream_gone", "shutdown"}
        task = asyncio.create_task(self._finish(exchange, outcome))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish(self, exchange: Exchange, outcome: Outcome) -> None:
        """Score the answer to its end, store it, and say so."""
        exchange.over()
        rows = await exchange.close(outcome.ended, outcome.reason)
        await self.recorder.traces(rows)
        self.counts.withheld += exchange.withheld
        for row in rows:
            fields = {
                "trace": row.id,
                "protocol": row.protocol,
                "path": row.path,
                "status": row.status,
                "ended": row.ended,
                "seconds": row.seconds,
                "visibility": row.visibility,
                "scored": row.scored,
                "tags": (row.result or {}).get("tags", []),
                "withheld": exchange.withheld,
            }
            _LOG.info("answer", extra={"fields": fields})


def proxy_app(
    options: ProxyOptions, watch: Watch, recorder: Recorder, *, client: httpx.AsyncClient | None = None
) -> Starlette:
    """The proxy as an ASGI application; ``state.proxy`` is the :class:`Proxy`. It closes what it was given."""
    client = client or upstream_client(options)
    proxy = Proxy(options, watch, recorder, client)
    begun = time.time()

    async def health(_: Request) -> JSONResponse:
        counts = {name: getattr(proxy.counts, name) for name in Counts.__dataclass_fields__}
        now = {"finishing": proxy.finishing, "not_stored": recorder.not_stored}
        return JSONResponse({"status": "ok", "seconds": round(time.time() - begun, 3), **counts, **now})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cot-probe-wait")
        asyncio.get_running_loop().set_default_executor(threads)
        try:
            yield
        finally:
            await proxy.close()
            await client.aclose()
            await asyncio.to_thread(recorder.close)

    app = Starlette(routes=[Route(HEALTH_PATH, health), Mount("/", app=proxy)], lifespan=lifespan)
    app.state.proxy = proxy
    return app
