"""The model behind the live monitor: two threads that read for all streams together.

One reads what is new of every stream, for provisional scores that come at once; the other reads
the windows that have closed, for the final ones, and may take its time. What waits at the same
moment is read in one pass. Where more comes than can be read, provisional scores are given up
first, openly (:class:`cot_probe.alerts.NotScored`); nothing is passed over in silence.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cot_probe.encoder import Encoder, SentenceParts, collate, padded_length
from cot_probe.incremental import Reader, Reading, can_read
from cot_probe.live_reading import Plan, Pooled
from cot_probe.live_trace import LiveTrace, Parts
from cot_probe.windows import Span, Window, renumbered

if TYPE_CHECKING:
    from cot_probe.tagger import Tagger

_LOG: Final = logging.getLogger(__name__)
_ROUND_TOKENS: Final = 768
"""New tokens read in one provisional pass: more would make the next sentence wait."""
_FINAL_TOKENS: Final = 1024
"""Tokens (with padding) of closed windows in one pass."""
_FINAL_STEP: Final = 64
"""Their lengths go in coarse steps: a service lives long, and kernels are kept for each shape that occurs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerStats:
    """Counts since the scorer was made, and what waits now.

    Attributes:
        sentences_provisional, sentences_final: scores given.
        tokens_provisional, tokens_final: tokens encoded for them, context included.
        windows: windows closed and read.
        not_scored: sentences given up on, either stage.
        queued_tokens: tokens of closed windows that wait.
        streams_open: streams that are being written.
        failures: passes that ended in an error.
    """

    sentences_provisional: int = 0
    sentences_final: int = 0
    tokens_provisional: int = 0
    tokens_final: int = 0
    windows: int = 0
    not_scored: int = 0
    queued_tokens: int = 0
    streams_open: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closed:
    """A closed window (or none) of a trace, and sentences that have no token to read."""

    trace: LiveTrace
    window: Window | None
    bare: tuple[int, ...]


class Scorer:
    """One model, shared by many monitors; safe to use from several threads.

    Args:
        tagger: its checkpoint and operating point are used; its precision too.
        max_lag_s: a sentence that has waited longer for its provisional score does not get one.
        max_queued_tokens: closed windows that wait; beyond that, they are given up.
        max_caches: streams whose keys and values are kept at a time (about 9 MB each in float32
            for the shipped checkpoint); one that is out reads its neighbours again when it goes on.
        threads: threads of each of the two passes inside the model.
    """

    def __init__(
        self,
        tagger: "Tagger",
        *,
        max_lag_s: float = 2.0,
        max_queued_tokens: int = 200_000,
        max_caches: int = 64,
        threads: int = 1,
    ) -> None:
        self.tagger = tagger
        self._encoder: Encoder = tagger.checkpoint.encoder
        layout = tagger.checkpoint.config.layout
        self._reader = (
            Reader(self._encoder, max_tokens=layout.max_tokens, bf16=tagger.bf16) if can_read(self._encoder) else None
        )
        self._max_lag, self._max_queued, self._max_caches = max_lag_s, max_queued_tokens, max_caches
        self._threads = threads
        self._caches: OrderedDict[LiveTrace, None] = OrderedDict()
        self._ready: OrderedDict[LiveTrace, None] = OrderedDict()
        self._closed: deque[_Closed] = deque()
        self._wake_reader, self._wake_closer = threading.Condition(), threading.Condition()
        self._stopping = self._reader_done = False
        self._counts: dict[str, int] = dict.fromkeys(ScorerStats.__dataclass_fields__, 0)
        self._workers = [
            threading.Thread(target=self._run, args=(step,), name=name, daemon=True)
            for name, step in (("cot-probe-live", self._read_round), ("cot-probe-final", self._close_round))
        ]
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stats(self) -> ScorerStats:
        """Counts so far."""
        return ScorerStats(**self._counts)

    @property
    def stopped(self) -> bool:
        """Whether it has been closed and does no more work."""
        return self._stopping and not any(worker.is_alive() for worker in self._workers)

    def close(self, *, timeout: float | None = None) -> None:
        """Finish what was accepted, then stop. Streams still open get no scores any more."""
        self._stopping = True
        for condition in (self._wake_reader, self._wake_closer):
            with condition:
                condition.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for worker in self._workers:
            worker.join(None if end is None else max(0.0, end - time.monotonic()))

    # What monitors call.

    def opened(self, trace: LiveTrace) -> None:
        """A stream begins."""
        if self._stopping:
            raise RuntimeError("this scorer is closed: make a new one")
        self._counts["streams_open"] += 1
        self.wake(trace)

    def ended(self, trace: LiveTrace) -> None:
        """A stream is over: forget it."""
        self._counts["streams_open"] -= 1
        with self._wake_reader:
            self._ready.pop(trace, None)
            self._caches.pop(trace, None)
            trace.cache = None

    def wake(self, trace: LiveTrace) -> None:
        """There is something to read of this stream."""
        with self._wake_reader:
            self._ready[trace] = None
            self._wake_reader.notify()

    def joined(self, known: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Trace logits ``(n_labels,)`` of the sentences' parts (label logits, kinds, scores, values)."""
        labels, _, scores, values = (torch.from_numpy(part) for part in known)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._encoder.trace_head.joined(scores, values, labels).numpy()
        return logits

    # The two threads.

    def _run(self, step: Callable[[], bool]) -> None:
        torch.set_num_threads(self._threads)
        while step():
            pass

    def _read_round(self) -> bool:
        """One pass over what is new of all streams; False when it is time to stop."""
        with self._wake_reader:
            while not self._ready and not self._stopping:
                self._wake_reader.wait()
            if not self._ready:
                self._reader_done = True
                with self._wake_closer:
                    self._wake_closer.notify_all()
                return False
            traces = list(self._ready)
            self._ready.clear()
        plans: list[tuple[LiveTrace, Plan]] = []
        budget = _ROUND_TOKENS
        for at, trace in enumerate(traces):
            if budget <= 0:
                self._put_back(traces[at:])
                break
            try:
                plan = self._planned(trace, budget)
            except Exception as error:
                self._failed([trace], error)
                continue
            if plan is not None:
                plans.append((trace, plan))
                budget -= plan.size
        if plans:
            try:
                self._provisional(plans)
            except Exception as error:  # the other streams must go on, and this one must not stay silent
                self._failed([trace for trace, _ in plans], error)
        return True

    def _put_back(self, traces: Sequence[LiveTrace]) -> None:
        """Those that had no turn come first the next time."""
        with self._wake_reader:
            later = list(self._ready)
            self._ready.clear()
            for trace in (*traces, *later):
                self._ready[trace] = None

    def _planned(self, trace: LiveTrace, budget: int) -> Plan | None:
        with trace.lock:
            if trace.failed:
                return None
            windows, bare = trace.take_in()
            late = f"waited over {self._max_lag:g} s: more text came than could be read"
            self._counts["not_scored"] += trace.skip(time.monotonic() - self._max_lag, late)
            plan = trace.plan(budget) or (trace.plan_head() if self._reader is not None else None)
            if windows or bare:
                self._queue(trace, windows, bare)
            trace.notify()
        if plan is not None and trace.more:
            self.wake(trace)
        return plan

    def _queue(self, trace: LiveTrace, windows: Sequence[Window], bare: Sequence[int]) -> None:
        """Hand closed windows over; called with the trace's lock held."""
        with self._wake_closer:
            if bare:
                self._closed.append(_Closed(trace=trace, window=None, bare=tuple(bare)))
            for window in windows:
                size = len(window.ids)
                if self._counts["queued_tokens"] + size > self._max_queued:
                    reason = f"more than {self._max_queued:,} tokens wait"
                    self._counts["not_scored"] += trace.lose_window(window, reason)
                    continue
                self._counts["queued_tokens"] += size
                self._closed.append(_Closed(trace=trace, window=window, bare=()))
            self._wake_closer.notify()

    def _provisional(self, plans: Sequence[tuple[LiveTrace, Plan]]) -> None:
        sums = self._read(plans)
        pooled: list[tuple[LiveTrace, Pooled]] = []
        for (trace, plan), some in zip(plans, sums, strict=True):
            with trace.lock:
                pooled += [(trace, one) for one in trace.reading.read(plan, some)]
            self._counts["tokens_provisional"] += plan.size
        parts = self._parts([one for _, one in pooled])
        for trace, _ in plans:
            rows = [at for at, (owner, _) in enumerate(pooled) if owner is trace]
            with trace.lock:
                trace.provisional([pooled[at][1].number for at in rows], _rows(parts, rows))
                trace.notify()
        self._counts["sentences_provisional"] += len(pooled)
        self._drop_caches()

    def _read(self, plans: Sequence[tuple[LiveTrace, Plan]]) -> list[list[NDArray[np.float32]]]:
        """The summed vectors of each plan's units."""
        if self._reader is None:
            return self._read_windows(plans)
        readings = [self._reading(trace, plan, self._reader) for trace, plan in plans]
        out: list[list[NDArray[np.float32]]] = []
        for (_, plan), hidden in zip(plans, self._reader.read(readings), strict=True):
            at = plan.opening_size
            sums = []
            for unit in plan.units:
                sums.append(hidden[at : at + len(unit.ids)].sum(dim=0).cpu().numpy())
                at += len(unit.ids)
            out.append(sums)
        return out

    def _reading(self, trace: LiveTrace, plan: Plan, reader: Reader) -> Reading:
        if trace.cache is None:
            trace.cache = reader.new_cache()
        with self._wake_reader:
            self._caches[trace] = None
            self._caches.move_to_end(trace)
        types = trace.reading.types(plan.start + plan.size)[plan.start :]
        blocks = (*plan.opening, *(unit.ids for unit in plan.units))
        return Reading(cache=trace.cache, start=plan.start, blocks=blocks, types=types)

    def _drop_caches(self) -> None:
        """Take the caches of the streams that were silent for longest, where there are too many.

        After a pass, not in it: its streams must find what they have just read.
        """
        while True:
            with self._wake_reader:
                if len(self._caches) <= self._max_caches:
                    return
                oldest, _ = self._caches.popitem(last=False)
            with oldest.lock:
                oldest.forget_cache()

    def _read_windows(self, plans: Sequence[tuple[LiveTrace, Plan]]) -> list[list[NDArray[np.float32]]]:
        """Without a cache: every unit in a window of its own, behind its left neighbours."""
        windows: list[Window] = []
        left = self.tagger.checkpoint.config.layout.left_tokens
        for trace, plan in plans:
            prior = plan.prior
            for unit in plan.units:
                windows.append(_window_of(trace, prior, unit.ids, self.tagger.special.separator))
                prior = (*prior, *unit.ids)[-left:]
        vectors = iter(self._sums(windows))
        return [[next(vectors)[0] for _ in plan.units] for _, plan in plans]

    def _close_round(self) -> bool:
        """One pass over closed windows; False when it is time to stop."""
        with self._wake_closer:
            while not self._closed:
                if self._stopping and self._reader_done:
                    return False
                self._wake_closer.wait()
            jobs = [self._closed.popleft()]
            size = _size(jobs[0])
            while self._closed and size + _size(self._closed[0]) <= _FINAL_TOKENS:
                jobs.append(self._closed.popleft())
                size += _size(jobs[-1])
        try:
            self._final(jobs)
        except Exception as error:  # as in the other thread
            self._failed([job.trace for job in jobs], error)
        self._counts["queued_tokens"] -= size
        return True

    def _final(self, jobs: Sequence[_Closed]) -> None:
        sums = iter(self._sums([job.window for job in jobs if job.window is not None]))
        width = self._encoder.width
        pooled: list[tuple[LiveTrace, Pooled]] = []
        for job in jobs:
            pooled += [
                (job.trace, Pooled(number=number, total=np.zeros(width, dtype=np.float32), count=0))
                for number in job.bare
            ]
            if job.window is not None:
                with job.trace.lock:
                    pooled += [(job.trace, one) for one in job.trace.reading.read_window(job.window, next(sums))]
                self._counts["tokens_final"] += len(job.window.ids)
                self._counts["windows"] += 1
        parts = self._parts([one for _, one in pooled])
        for trace in dict.fromkeys(trace for trace, _ in pooled):
            rows = [at for at, (owner, _) in enumerate(pooled) if owner is trace]
            with trace.lock:
                trace.final([pooled[at][1].number for at in rows], _rows(parts, rows))
                trace.notify()
        self._counts["sentences_final"] += len(pooled)

    def _sums(self, windows: Sequence[Window]) -> list[dict[int, NDArray[np.float32]]]:
        """For each window, the summed vectors of its sentences by number."""
        if not windows:
            return []
        own = [sorted({span.sentence for span in window.spans}) for window in windows]
        first, own_numbers = 0, []
        for window, numbers in zip(windows, own, strict=True):
            place = {number: at for at, number in enumerate(numbers, first)}
            own_numbers.append(renumbered(window, place))
            first += len(numbers)
        longest = max(len(window.ids) for window in windows)
        most = padded_length(self.tagger.checkpoint.config.layout.max_tokens)
        coarse = min(most, -(-longest // _FINAL_STEP) * _FINAL_STEP)
        batch = collate(own_numbers, [0] * len(windows), padding=self.tagger.special.padding, least_tokens=coarse)
        device = next(self._encoder.parameters()).device
        with torch.inference_mode():
            sums = torch.zeros(first, self._encoder.width, device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.tagger.bf16):
                self._encoder.pool(batch.to(device), sums, torch.zeros(first, device=device), self.tagger.states)
            rows = iter(sums.cpu().numpy())
        return [{number: next(rows) for number in numbers} for numbers in own]

    def _parts(self, pooled: Sequence[Pooled]) -> Parts:
        """What the heads say of sentences."""
        if not pooled:
            empty = np.zeros((0, 0), dtype=np.float32)
            return Parts(labels=empty, kinds=empty, scores=empty, values=empty)
        device = next(self._encoder.parameters()).device
        counts = torch.tensor([float(one.count) for one in pooled], device=device)
        totals = torch.from_numpy(np.stack([one.total for one in pooled])).to(device)
        with torch.inference_mode():
            parts: SentenceParts = self._encoder.sentence_parts(totals / counts.clamp(min=1).unsqueeze(1), counts)
        return Parts(**{name: getattr(parts, name).cpu().numpy() for name in Parts.__dataclass_fields__})

    def _failed(self, traces: Sequence[LiveTrace], error: Exception) -> None:
        """A pass failed: its streams are told so, and get no scores any more."""
        _LOG.error("scoring failed: %s: %s", type(error).__name__, error, exc_info=error)
        self._counts["failures"] += 1
        for trace in dict.fromkeys(traces):
            with trace.lock:
                trace.fail(f"scoring failed: {type(error).__name__}: {error}")
                trace.notify()


def _rows(parts: Parts, rows: Sequence[int]) -> Parts:
    return Parts(**{name: getattr(parts, name)[list(rows)] for name in Parts.__dataclass_fields__})


def _size(job: _Closed) -> int:
    return len(job.window.ids) if job.window is not None else 0


def _window_of(trace: LiveTrace, prior: tuple[int, ...], ids: tuple[int, ...], separator: int) -> Window:
    """A short window: the head, neighbours to the left, and what is to be scored."""
    before = (*trace.reading.head, *prior)
    whole = (*before, *ids, separator)
    span = Span(sentence=0, first=len(before), last=len(before) + len(ids))
    return Window(ids=whole, types=trace.reading.types(len(whole)), spans=(span,))
