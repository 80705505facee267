"""Reasoning that is being written: streams that are open, and what becomes of them.

A stream is a :class:`cot_probe.monitor.Monitor` with a log of its events. What it computes, it
computes in the scorer's threads; what waits for that waits in threads of the house, never on the
event loop.
"""

import asyncio
import contextlib
import json
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Literal, TypeVar

from cot_probe.alerts import Event
from cot_probe.gate import Policy
from cot_probe.monitor import Closing, Monitor
from cot_probe.scoring import Scorer
from cot_probe.serving.batching import FAULTS, Batcher, Failed
from cot_probe.serving.bodies import refuse_deep
from cot_probe.serving.events import EventLog
from cot_probe.serving.limits import Held, Limits, Refusal, Share
from cot_probe.serving.logs import log
from cot_probe.serving.metrics import Metrics
from cot_probe.serving.schemas import Check, Delta, OpenStream
from cot_probe.serving.threads import Threads, call_soon

Cause = Literal["client", "disconnected", "idle", "shutdown", "fault"]
Door = Literal["http", "websocket"]
Result = TypeVar("Result")


class Stream:
    """One stream; what comes in reaches its monitor in order, one thing at a time.

    Made by :meth:`Streams.open_stream`. ``cause`` is why it was closed, None while it is open;
    ``ended`` the time (monotonic) when it was over.
    """

    def __init__(self, opened: OpenStream, *, id: str, door: Door, house: "Streams", share: Share) -> None:
        self.id = id
        self.name = opened.name
        self.door = door
        self.opened = round(time.time(), 3)
        self.touched = time.monotonic()
        self.ended: float | None = None
        self.cause: Cause | None = None
        self.chars = 0
        self.not_scored = {"provisional": 0, "final": 0}
        self.log = EventLog(events=house.limits.kept_events, chars=house.limits.kept_chars)
        self._room = house.limits.stream_chars - len(opened.context)
        self._scored = -1
        self._trace_scores: Mapping[str, float] = {}
        self._alerts: dict[tuple[str, str], dict[str, Any]] = {}
        self._house = house
        self._share = share
        self._turn = asyncio.Lock()
        self._taken: list[Delta] = []
        self._asked = False
        self._ending: asyncio.Task[dict[str, Any]] | None = None
        self._monitor: Monitor | None = None

    async def begin(self, opened: OpenStream) -> None:
        """Make the monitor: reading the context is work."""
        house = self._house

        def made() -> Monitor:
            return Monitor(
                house.scorer,
                id=self.id,
                context=opened.context,
                policy=house.policy,
                visibility=opened.visibility,
                metadata=opened.metadata,
                budget_s=0.0,
            )

        self._monitor = await house.threads.quickly(made)
        loop = asyncio.get_running_loop()
        self._monitor.on_ready(lambda: call_soon(loop, self._soon))
        self._tell({"event": "opened", "stream": self.id, "name": self.name, "time": self.opened})

    @property
    def state(self) -> Literal["open", "closing", "closed"]:
        """How far it is."""
        if self.ended is not None:
            return "closed"
        return "open" if self.cause is None else "closing"

    def as_dict(self) -> dict[str, Any]:
        """The stream as it stands, as :class:`cot_probe.serving.schemas.StreamState` has it."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "cause": self.cause,
            "opened": self.opened,
            "chars": self.chars,
            "sentences": self._scored + 1,
            "not_scored": dict(self.not_scored),
            "trace_scores": dict(self._trace_scores),
            "alerts": list(self._alerts.values()),
            "last_event": self.log.last,
        }

    def take(self, delta: Delta) -> None:
        """Take in new text; it is read soon, together with what else has come by then.

        Raises:
            Refusal: 413 if the stream would be too long, 429 if memory is full, 409 if it is closed.
        """
        self._accept(delta)
        self._soon()

    async def feed(self, delta: Delta) -> list[dict[str, Any]]:
        """Take in new text; gives the events that are ready, without waiting for those that are not."""
        self._accept(delta)
        async with self._turn:
            return await self._read()

    def _accept(self, delta: Delta) -> None:
        self._open_monitor()
        if self.chars + len(delta.text) > self._room:
            raise Refusal(
                413,
                "stream_full",
                f"the stream holds {self.chars:,} characters, no room for {len(delta.text):,} more: this text was "
                "not taken in; close the stream and open another",
            )
        self._share.take(len(delta.text))
        self.chars += len(delta.text)
        self.touched = time.monotonic()
        self._taken.append(delta)

    async def check(self, check: Check, *, id: str | None = None) -> dict[str, Any]:
        """The verdict on a tool call; ``id`` is repeated in its event.

        Raises:
            Refusal: 409 if the stream is closed.
        """
        self.touched = time.monotonic()
        # Whoever asks may leave; the monitor is then still being asked, and nobody else may use it.
        return await asyncio.shield(self._house.later(self._checked(check, id)))

    async def _checked(self, check: Check, id: str | None) -> dict[str, Any]:
        async with self._turn:
            monitor = self._open_monitor()
            await self._read()
            budget = self._house.limits.check_s if check.budget_s is None else check.budget_s

            def checked() -> tuple[dict[str, Any], list[Event]]:
                return monitor.check(check.tool, budget_s=budget).as_dict(), monitor.poll()

            verdict, events = await self._sound(self._house.threads.patiently(checked))
            self._publish(events)
            self._tell({**verdict, "event": "verdict", "stream": self.id, **({"id": id} if id is not None else {})})
        return verdict

    async def close(self, cause: Cause) -> dict[str, Any]:
        """End the trace: all that was taken in is scored, whether or not whoever closes it waits for that.

        Gives what goes to whoever closes it; a second call gives the same.
        """
        if self._ending is None:
            self.cause = self.cause or cause
            self._ending = self._house.later(self._ended())
        return await asyncio.shield(self._ending)

    async def _ended(self) -> dict[str, Any]:
        async with self._turn:
            return await self._finished()

    async def _finished(self) -> dict[str, Any]:
        events: list[dict[str, Any]] = []
        result: dict[str, Any] | None = None
        not_scored: list[dict[str, Any]] = []
        try:
            if self._monitor is not None:
                self._monitor.on_ready(None)
                events = await self._read()
                limits = self._house.limits
                patience = limits.drain_s if self.cause == "shutdown" else limits.tag_s
                closing = await self._house.threads.patiently(partial(self._monitor.close, timeout=patience))
                events += self._publish(closing.events)
                not_scored = [_plain(one) for one in closing.not_scored]
                result = await self._result(closing)
        except (Refusal, *FAULTS) as fault:
            log("a stream failed at its end", severity=logging.ERROR, fault=fault, stream=self.id)
            self.cause = "fault"
        told = {key: result[key] for key in ("visibility", "tags", "stance", "harm_kind", "scores")} if result else {}
        self.ended = time.monotonic()
        self._tell({"event": "closed", "stream": self.id, "cause": self.cause, **told})
        self.log.close()
        self._share.give_all()
        self._monitor = None
        self._house.left(self)
        return {"result": result, "events": events, "not_scored": not_scored}

    async def _result(self, closing: Closing) -> dict[str, Any] | None:
        """The tagged trace; where something was not scored in passing, it is tagged now."""
        tagged = closing.result
        if tagged is None:
            try:
                (outcome,) = await self._house.batcher.tag([closing.trace])
            except Refusal:
                return None
            tagged = None if isinstance(outcome, Failed) else outcome
        return None if tagged is None else await self._house.threads.quickly(lambda: tagged.as_dict(context=False))

    async def _read(self) -> list[dict[str, Any]]:
        """Hand on what was taken in, and publish what is ready; the turn must be held."""
        self._asked = False
        taken, self._taken = self._taken, []
        monitor = self._monitor
        if monitor is None:
            return []

        def read() -> list[Event]:
            events: list[Event] = []
            text: list[str] = []
            for delta in taken:
                text.append(delta.text)
                if delta.end_block:
                    events += monitor.feed("".join(text))
                    events += monitor.end_block()
                    text = []
            return events + (monitor.feed("".join(text)) if text else monitor.poll())

        return self._publish(await self._sound(self._house.threads.quickly(read)))

    def _soon(self) -> None:
        """Something has come in, or has become ready: read on, unless that is on its way already."""
        if not self._asked:
            self._asked = True
            self._house.later(self._read_on())

    async def _read_on(self) -> None:
        async with self._turn:
            if self.cause is None:
                with contextlib.suppress(Refusal):  # told and logged where it was raised
                    await self._read()

    async def _sound(self, work: Awaitable[Result]) -> Result:
        """What the monitor gives; a fault of it ends the stream, and that only."""
        try:
            return await work
        except FAULTS as fault:
            log("a stream failed", severity=logging.ERROR, fault=fault, stream=self.id)
            self.cause = "fault"
            self._house.later(self._end_after_fault())
            told = f"reading the stream failed ({type(fault).__name__}): it is closed; the service's log says more"
            raise Refusal(500, "fault", told) from None

    async def _end_after_fault(self) -> None:
        await self.close("fault")

    def _open_monitor(self) -> Monitor:
        if self.cause is not None or self._monitor is None:
            raise Refusal(409, "stream_closed", f"stream {self.id} is closed ({self.cause}): open another")
        return self._monitor

    def _publish(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        told = [_plain(event) for event in events]
        for event in told:
            self._tell(event)
        return told

    def _tell(self, event: dict[str, Any]) -> None:
        event.setdefault("time", round(time.time(), 3))
        kind = event["event"]
        if kind == "sentence_scored":
            self._scored = max(self._scored, event["number"])
            self._trace_scores = event["trace_scores"]
        elif kind == "not_scored":
            self.not_scored[event["stage"]] += event["last"] - event["first"] + 1
        elif kind == "alert" and event["state"] == "onset":
            self._alerts[event["tag"], event["level"]] = event
        elif kind == "alert":
            self._alerts.pop((event["tag"], event["level"]), None)
        self.log.append(event)
        self._house.heard(event)


def _plain(event: Event) -> dict[str, Any]:
    """An event as JSON knows it: a threshold that is not there is null."""
    told = event.as_dict()
    if isinstance(told.get("threshold"), float) and not math.isfinite(told["threshold"]):
        told["threshold"] = None
    return told


class Streams:
    """All streams: those open, those closed a moment ago, and the log of what happens in any of them.

    Args:
        scorer: the model that they share.
        batcher: tags traces whose stream was not scored throughout.
        policy: what verdicts go by; None for the default.
        limits: how many, how long, how idle.
        metrics: where they are counted.
        held: the text that they hold is counted there.
        log_text: whether alerts are logged with their sentence.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        batcher: Batcher,
        policy: Policy | None,
        limits: Limits,
        metrics: Metrics,
        held: Held,
        log_text: bool = False,
    ) -> None:
        self.scorer = scorer
        self.batcher = batcher
        self.policy = policy
        self.limits = limits
        self.events = EventLog(events=limits.kept_events, chars=limits.kept_chars)
        self._metrics = metrics
        self._held = held
        self._log_text = log_text
        self._streams: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.threads = Threads(limits.streams)
        self._closing = False

    def start(self) -> None:
        """Begin to look after streams: close the idle, forget the closed."""
        self.later(self._tidy())

    @property
    def open(self) -> int:
        """How many are open, or being closed."""
        return sum(stream.ended is None for stream in self._streams.values())

    async def open_stream(self, opened: OpenStream, *, door: Door) -> Stream:
        """Open a stream.

        Raises:
            Refusal: 409 if its id is taken, 413 if its context is too long, 429 if there are too many
                or memory is full, 503 at the end.
        """
        if self._closing:
            raise Refusal(503, "closing", "the service is shutting down: come again later", retry_after=5.0)
        if opened.id in self._streams:
            raise Refusal(409, "stream_exists", f"stream {opened.id} is there already: take another id")
        if self.open >= self.limits.streams:
            found = f"{self.open} streams are open, no more than {self.limits.streams} at a time"
            raise Refusal(429, "too_many_streams", f"{found}: close some, or come again", retry_after=5.0)
        if len(opened.context) > self.limits.stream_chars:
            most = f"at most {self.limits.stream_chars:,} are taken"
            raise Refusal(413, "stream_full", f"the context has {len(opened.context):,} characters, {most}: shorten it")
        refuse_deep(opened.metadata, "metadata")
        share = Share(self._held)
        share.take(len(opened.context) + len(json.dumps(opened.metadata)))
        stream = Stream(opened, id=opened.id or secrets.token_urlsafe(12), door=door, house=self, share=share)
        self._streams[stream.id] = stream
        try:
            await stream.begin(opened)
        except FAULTS:
            share.give_all()
            del self._streams[stream.id]
            raise
        self._metrics.streams_opened.labels(door).inc()
        log("stream opened", stream=stream.id, door=door)
        return stream

    def get(self, id: str) -> Stream:
        """The stream of this id.

        Raises:
            Refusal: 404 if there is none.
        """
        stream = self._streams.get(id)
        if stream is None:
            raise Refusal(
                404, "no_stream", f"there is no stream {id[:128]}: open it, or give the id it was opened with"
            )
        return stream

    def listed(self) -> list[dict[str, Any]]:
        """All streams as they stand, the youngest last."""
        return [stream.as_dict() for stream in self._streams.values()]

    def heard(self, event: Mapping[str, Any]) -> None:
        """An event of some stream: goes to the log of all, is counted, and alerts are logged."""
        self.events.append(event)
        self._metrics.count_event(event)
        kind = event["event"]
        if kind == "alert":
            keys: tuple[str, ...] = ("stream", "tag", "state", "score", "threshold", "number", "final")
            quoted = {"text": event["text"]} if self._log_text else {}
            told = {key: event[key] for key in keys} | quoted
            log("alert", severity=logging.WARNING, of=event["level"], **told)
        elif kind == "verdict" and event["action"] != "allow":
            keys = ("stream", "action", "tool", "tags", "scored")
            log("verdict", severity=logging.WARNING, **{key: event[key] for key in keys})
        elif kind == "not_scored":
            keys = ("stream", "first", "last", "stage")
            log("not scored", severity=logging.WARNING, **{key: event[key] for key in keys})

    def left(self, stream: Stream) -> None:
        """A stream has ended: it can still be read for a while."""
        self._metrics.streams_closed.labels(stream.cause).inc()
        figures: dict[str, Any] = {"cause": stream.cause, "chars": stream.chars, "not_scored": stream.not_scored}
        log("stream closed", stream=stream.id, **figures)

    def later(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Run beside everything else, and be waited for at the end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and not isinstance(fault := task.exception(), Refusal | None):
            log("a task failed", severity=logging.ERROR, fault=fault)

    async def close(self) -> None:
        """Take no more streams, finish those that are open, let their readers read to the end."""
        self._closing = True
        await asyncio.gather(*(stream.close("shutdown") for stream in list(self._streams.values())))
        self.events.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.threads.close()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.limits.idle_s / 4, self.limits.kept_s / 4))
            now = time.monotonic()
            for stream in list(self._streams.values()):
                if stream.ended is not None and now - stream.ended > self.limits.kept_s:
                    del self._streams[stream.id]
                elif stream.cause is None and now - stream.touched > self.limits.idle_s:
                    self.later(stream.close("idle"))
