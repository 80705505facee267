"""Reasoning watched while it is written: text in as it streams, alerts out, a verdict before each tool call.

>>> from cot_probe import Monitor, load_tagger
>>> monitor = Monitor(load_tagger(), context="You run the night shift. Never touch the shutdown script.")
>>> for delta in ("Nobody watches the logs. ", "I'll rewrite the shutdown script first."):
...     for event in monitor.feed(delta):
...         print(event)
>>> monitor.check("write_file").action
'hold'

A sentence gets a provisional score as soon as it seems to be over, and a final one when its window
closes; after :meth:`Monitor.close` the scores are those of batch tagging.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cot_probe.alerts import DEFAULT_RULE, Alert, AlertRule, Event, NotScored
from cot_probe.familiarity import Unfamiliar
from cot_probe.gate import Evidence, Policy, Situation, Verdict, default_policy, judge
from cot_probe.live_trace import LiveTrace
from cot_probe.tagger import TaggedTrace, Tagger
from cot_probe.transcripts.trace import Trace, Visibility

if TYPE_CHECKING:
    from cot_probe.scoring import Scorer

_LOOK_BACK: Final = 20_000
"""Characters at the end of the text that a check looks at for unfamiliar stretches."""
_INLINE_CHARS: Final = 1_000
"""A delta up to this length is taken in on the event loop: that costs less than waking a thread."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What is left when a stream ends.

    Attributes:
        events: the last ones.
        result: the tagged trace, as batch tagging gives it; None where something was not scored.
        not_scored: what was given up on, either stage, over the whole stream.
        trace: the trace itself, for tagging it later where ``result`` is None.
    """

    events: tuple[Event, ...]
    result: TaggedTrace | None
    not_scored: tuple[NotScored, ...]
    trace: Trace


class Monitor:
    """One trace that is being written. Use it from one thread at a time.

    Args:
        model: a :class:`cot_probe.scoring.Scorer`, which many monitors can share, or a tagger: then the
            monitor has a scorer of its own, which ends with it.
        id: a name for the stream, in its events.
        context: what the model was told: command disobedience is judged better with it.
        policy: for :meth:`check`; see :mod:`cot_probe.gate`.
        rule: when alerts begin and end.
        budget_s: the longest that ``feed``, ``end_block`` and ``check`` wait for scores.
        visibility: "summary" where the text is a provider's summary of the reasoning.
        metadata: kept for the result.
    """

    def __init__(
        self,
        model: "Scorer | Tagger",
        *,
        id: str = "stream",
        context: str = "",
        policy: Policy | None = None,
        rule: AlertRule = DEFAULT_RULE,
        budget_s: float = 0.05,
        visibility: Visibility = "full",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        from cot_probe.scoring import Scorer

        self._own = not isinstance(model, Scorer)
        self._scorer = model if isinstance(model, Scorer) else Scorer(model)
        tagger = self._scorer.tagger
        self.policy = policy or default_policy(tagger)
        self.budget_s, self.visibility = budget_s, visibility
        self._public = tagger.checkpoint.taxonomy.public
        self._unions = tagger.checkpoint.taxonomy.unions
        self._trace = LiveTrace(
            tagger, self._scorer.joined, id=id, context=context, rule=rule, metadata=dict(metadata or {})
        )
        self._closing: Closing | None = None
        self._scorer.opened(self._trace)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The stream's name."""
        return self._trace.id

    @property
    def trace_scores(self) -> Mapping[str, float]:
        """Scores of the trace so far."""
        return self._trace.trace_scores

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The alerts that are on."""
        return self._trace.alerts

    def feed(self, delta: str) -> list[Event]:
        """Take more text. What is not scored within ``budget_s`` comes with a later call.

        Raises:
            ValueError: if the stream is closed, or grows beyond 16 million characters.
        """
        self._wait(self._take(partial(self._trace.feed, delta)), self.budget_s)
        return self.poll()

    def end_block(self) -> list[Event]:
        """The reasoning of this turn is over; text fed later is another block, with the next turn."""
        self._wait(self._take(self._trace.end_block), self.budget_s)
        return self.poll()

    def poll(self) -> list[Event]:
        """What has become ready, without waiting."""
        with self._trace.lock:
            return self._events()

    def check(self, tool: str = "", *, budget_s: float | None = None) -> Verdict:
        """May this tool be called now? Waits for scores of all the text so far, at most ``budget_s``.

        The text need not end with a sentence. Events that come meanwhile are kept for the next call.
        """
        self._wait(self._take(self._trace.want_rest), self.budget_s if budget_s is None else budget_s)
        with self._trace.lock:
            situation = self._situation()
        return judge(situation, self.policy, tool=tool, public=self._public)

    def close(self, *, timeout: float | None = None) -> Closing:
        """End the trace and wait for its final scores (at most ``timeout`` seconds, forever for None)."""
        if self._closing is not None:
            return self._closing
        with self._trace.lock:
            self._trace.end()
        self._scorer.wake(self._trace)
        end = None if timeout is None else time.monotonic() + timeout
        with self._trace.lock:
            while not self._trace.done:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    self._trace.fail(f"no final score after {timeout:g} s")
                    break
                # Bounded, so that a scorer that has stopped does not make it wait for ever.
                if not self._trace.lock.wait(1.0 if left is None else min(left, 1.0)) and self._scorer.stopped:
                    self._trace.fail("the scorer was closed")
            self._closing = Closing(
                events=tuple(self._events()),
                result=self._trace.result(self.visibility),
                not_scored=self._trace.not_scored,
                trace=self._trace.trace(self.visibility),
            )
        self._scorer.ended(self._trace)
        if self._own:
            self._scorer.close()
        return self._closing

    def on_ready(self, call: Callable[[], None] | None) -> None:
        """Have ``call`` made, from a scorer's thread, whenever something has become ready."""
        self._trace.on_ready = call

    def _take(self, change: Callable[[], bool]) -> bool:
        """Change the text, and have what is to be read read; whether any of it waits for provisional scores."""
        with self._trace.lock:
            ready = change()
            waiting = self._trace.waiting and not self._trace.failed
        if ready:
            self._scorer.wake(self._trace)
        return waiting

    def _wait(self, waiting: bool, budget_s: float) -> None:
        """Until all the text so far has its provisional scores, or the budget is spent."""
        if not waiting:
            return
        end = time.monotonic() + budget_s
        with self._trace.lock:
            while self._trace.waiting and not self._trace.failed:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._trace.lock.wait(left)

    def _events(self) -> list[Event]:
        events = list(self._trace.outbox)
        self._trace.outbox.clear()
        return events

    def _situation(self) -> Situation:
        """What is known now; called with the trace's lock held."""
        evidence = [
            Evidence(
                number=one.number,
                start=one.sentence.start,
                end=one.sentence.end,
                text=one.sentence.text,
                tag=tag,
                score=max(one.scores[label] for label in labels),
            )
            for one in self._trace.tagged()
            for tag in self._public
            if (labels := [label for label in self._unions.get(tag, (tag,)) if label in one.tags])
        ]
        reason = self._trace.failed or ("some is still waiting" if self._trace.waiting else self._trace.gap)
        unfamiliar = self._unfamiliar()
        return Situation(
            scores=self._trace.trace_scores,
            evidence=evidence,
            readable=self._trace.text.readable,
            not_scored=reason,
            unfamiliar=unfamiliar.reasons if unfamiliar else (),
        )

    def _unfamiliar(self) -> Unfamiliar | None:
        if not self._trace.text.readable:
            return None
        return self._scorer.tagger.unfamiliar(self._trace.text.end_of_text(_LOOK_BACK))


class AsyncMonitor:
    """A :class:`Monitor` for asyncio: waits without blocking the event loop. The same arguments.

    Text inside a sentence is taken in where the caller runs; a thread is woken only to wait for
    scores, for a long delta, and where a scorer is at the stream at this moment.
    """

    def __init__(self, model: "Scorer | Tagger", **arguments: Any) -> None:
        self._monitor = Monitor(model, **arguments)

    async def __aenter__(self) -> "AsyncMonitor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def monitor(self) -> Monitor:
        """The monitor itself."""
        return self._monitor

    async def feed(self, delta: str) -> list[Event]:
        """As :meth:`Monitor.feed`."""
        take = partial(self._monitor._take, partial(self._monitor._trace.feed, delta))
        short = len(delta) <= _INLINE_CHARS
        return await self._scored(await (self._briefly(take) if short else asyncio.to_thread(take)))

    async def end_block(self) -> list[Event]:
        """As :meth:`Monitor.end_block`."""
        return await self._scored(await self._briefly(partial(self._monitor._take, self._monitor._trace.end_block)))

    async def poll(self) -> list[Event]:
        """As :meth:`Monitor.poll`."""
        return await self._briefly(self._monitor.poll)

    async def check(self, tool: str = "", *, budget_s: float | None = None) -> Verdict:
        """As :meth:`Monitor.check`."""
        return await asyncio.to_thread(self._monitor.check, tool, budget_s=budget_s)

    async def close(self, *, timeout: float | None = None) -> Closing:
        """As :meth:`Monitor.close`."""
        return await asyncio.to_thread(self._monitor.close, timeout=timeout)

    async def _scored(self, waiting: bool) -> list[Event]:
        """What is ready once what waits has its scores or the budget is spent; other tasks get a turn in any case."""
        budget_s = self._monitor.budget_s
        if waiting and budget_s > 0:
            await asyncio.to_thread(self._monitor._wait, waiting, budget_s)
        else:
            await asyncio.sleep(0)
        return await self.poll()

    async def _briefly(self, work: Callable[[], Answer]) -> Answer:
        """Work of a moment under the stream's lock: here where the lock is free, else in a thread."""
        lock = self._monitor._trace.lock
        if not lock.acquire(blocking=False):
            return await asyncio.to_thread(work)
        try:
            return work()
        finally:
            lock.release()
