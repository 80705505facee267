"""One trace while it is being written: text goes in; what is to be read comes out; scores go in, events come out.

No thread and no model lives here. :mod:`cot_probe.scoring` drives it: ``take_in`` and ``plan``
say what to read next, ``provisional`` and ``final`` take the results. Everything but ``lock`` is
to be used while holding ``lock``.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cot_probe.alerts import Alert, AlertRule, AlertStates, Event, Level, NotScored, Reached, SentenceScored, Stage
from cot_probe.calibration import decide
from cot_probe.live_reading import LiveReading, Plan, Unit
from cot_probe.live_text import LiveText
from cot_probe.sentences import Sentence
from cot_probe.tagger import TaggedTrace, Tagger
from cot_probe.transcripts.trace import Trace, Visibility
from cot_probe.windows import Window

if TYPE_CHECKING:
    from cot_probe.incremental import Cache

Joined = Callable[[Sequence[NDArray[np.float32]]], NDArray[np.float32]]
"""The columns of :class:`Parts` over some sentences to trace logits ``(n_labels,)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the heads say of some sentences; rows as in :class:`cot_probe.encoder.SentenceParts`."""

    labels: NDArray[np.float32]
    kinds: NDArray[np.float32]
    scores: NDArray[np.float32]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedText:
    """A sentence that carries a tag at this moment."""

    number: int
    sentence: Sentence
    scores: Mapping[str, float]
    tags: tuple[str, ...]


class LiveTrace:
    """The state of one stream; see the module."""

    def __init__(
        self,
        tagger: Tagger,
        joined: Joined,
        *,
        id: str,
        context: str,
        rule: AlertRule,
        metadata: Mapping[str, Any],
    ) -> None:
        self.id, self.context, self.metadata = id, context, metadata
        self.lock = threading.Condition()
        self.outbox: deque[Event] = deque()
        self.on_ready: Callable[[], None] | None = None
        self.cache: Cache | None = None
        self.text = LiveText(id)
        self.reading = LiveReading(
            tagger.context_ids(context), layout=tagger.checkpoint.config.layout, special=tagger.special
        )
        self.sentences: list[Sentence] = []
        self.failed = ""
        self._tagger, self._joined = tagger, joined
        self._alerts = AlertStates(tagger.checkpoint.taxonomy, tagger.point, rule)
        self._on: dict[tuple[str, Level], Alert] = {}
        self._rest_wanted = self._rest_unfinished = self._in_flight = False
        self._rest: dict[int, tuple[Sentence, int]] = {}
        self._windows: list[Window] = []
        self._bare: list[int] = []
        self._rows: _Rows | None = None
        self._tagged: dict[int, tuple[Mapping[str, float], tuple[str, ...]]] = {}
        self._final: set[int] = set()
        self._lost: set[int] = set()
        self._unscored: list[NotScored] = []
        self._since: dict[int, float] = {}
        self._trace_scores: Mapping[str, float] = dict.fromkeys(tagger.checkpoint.taxonomy.tags, 0.0)

    # What monitors do.

    def feed(self, delta: str) -> bool:
        """Take more text; whether there is something to read now."""
        self.text.feed(delta)
        self._rest_wanted, self._rest_unfinished = self.text.may_end, False
        return self.more

    def end_block(self) -> bool:
        """The reasoning of this turn is over; whether there is something to read now."""
        self.text.end_block()
        return self.want_rest()

    def want_rest(self) -> bool:
        """Ask for scores of the text that no sentence end has followed yet."""
        self._rest_wanted = self._rest_unfinished = self.text.has_rest
        return self.more

    def end(self) -> None:
        """The trace is over."""
        self.text.close()
        self._rest_wanted = False

    # What is to be read.

    def take_in(self) -> tuple[list[Window], list[int]]:
        """Tokenise the sentences that have ended; returns closed windows, and sentences without a token."""
        taken = self.text.take()
        for (sentence, since), ids in zip(
            taken, self._tagger.token_ids([sentence.text for sentence, _ in taken]), strict=True
        ):
            number = len(self.sentences)
            self.sentences.append(sentence)
            self._since[number] = since
            if not ids:
                self._bare.append(number)
            self._windows += self.reading.add(ids, since)
        if self.text.closed:
            self._windows += self.reading.close()
            self._drop_rest()
        windows, bare = self._windows, self._bare
        self._windows, self._bare = [], []
        return windows, bare

    def plan(self, budget: int) -> Plan | None:
        """What to read next, up to about ``budget`` tokens; None where there is nothing."""
        self.reading.commit_ahead()
        if self.reading.waiting:
            self._drop_rest()
        rest = self._rest_units() if self._rest_wanted else []
        plan = self.reading.plan(budget, rest)
        self._rest_wanted = self._rest_wanted and bool(rest) and not self.reading.has_read(rest)
        self._in_flight = plan is not None
        return plan

    def plan_head(self) -> Plan | None:
        """What every window opens with, to be read before there is a sentence; None where it has been."""
        plan = None if self.text.closed else self.reading.plan_head()
        self._in_flight = plan is not None
        return plan

    def _rest_units(self) -> list[Unit]:
        rest = self.text.rest(unfinished=self._rest_unfinished)
        units: list[Unit] = []
        self._rest.clear()
        ids_of = self._tagger.token_ids([sentence.text for sentence, _ in rest])
        for number, ((sentence, since), ids) in enumerate(zip(rest, ids_of, strict=True), len(self.sentences)):
            self._rest[number] = (sentence, len(ids))
            self._since[number] = since
            units += self.reading.units_of(number, ids, since)
        return units

    def _drop_rest(self) -> None:
        """The open text has turned out otherwise: what was said of it no longer counts."""
        self.reading.drop_ahead()
        self._rest.clear()
        if self._rows is not None:
            self._rows.drop_from(len(self.sentences))
        self._tagged = {number: tagged for number, tagged in self._tagged.items() if number < len(self.sentences)}

    def forget_cache(self) -> None:
        """The cache was taken away."""
        self.cache = None
        self.reading.forget_cache()

    # Scores.

    def provisional(self, numbers: Sequence[int], parts: Parts) -> None:
        """Take what the heads say of sentences read from the left."""
        self._in_flight = False
        for at, number in enumerate(numbers):
            if number in self._final or (number >= len(self.sentences) and number not in self._rest):
                continue
            self._put(number, parts, at)
            self._trace_scores = self._scored_upto(number + 1)
            self._tell(number, parts, at, final=False)

    def final(self, numbers: Sequence[int], parts: Parts) -> None:
        """Take what the heads say of sentences whose window has closed."""
        for at, number in enumerate(numbers):
            self._put(number, parts, at)
            self._final.add(number)
        if numbers:
            self._trace_scores = self._scored_upto(len(self.sentences) + len(self._rest))
        for at, number in enumerate(numbers):
            self._tell(number, parts, at, final=True)
            del self._since[number]

    def lose_window(self, window: Window, reason: str) -> int:
        """A closed window will not be read; returns how many sentences lose their final scores by that."""
        numbers = sorted({span.sentence for span in window.spans} - self._lost)
        self._lost.update(numbers)
        if numbers:
            self._missed(numbers, "final", reason)
        return len(numbers)

    def skip(self, older_than: float, reason: str) -> int:
        """Give up on provisional scores of sentences that have waited too long; returns how many."""
        numbers = self.reading.skip(older_than)
        if numbers:
            self._drop_rest()
            self._missed(numbers, "provisional", reason)
        return len(numbers)

    def fail(self, reason: str) -> None:
        """Nothing more will be scored."""
        self.failed, self._in_flight = reason, False
        last = len(self.sentences) + self.text.waiting + self.text.has_rest
        missing = [number for number in range(last) if number not in self._final and number not in self._lost]
        self._lost.update(missing)
        if missing:
            self._missed(missing, "final", reason)

    def _missed(self, numbers: Sequence[int], stage: Stage, reason: str) -> None:
        event = NotScored(stream=self.id, first=numbers[0], last=numbers[-1], stage=stage, reason=reason)
        self._unscored.append(event)
        self.outbox.append(event)

    def _put(self, number: int, parts: Parts, at: int) -> None:
        rows = (parts.labels[at], parts.kinds[at], parts.scores[at], parts.values[at])
        if self._rows is None:
            self._rows = _Rows([len(row) for row in rows])
        self._rows.put(number, rows)

    def _scored_upto(self, upto: int) -> Mapping[str, float]:
        """Trace scores over the first ``upto`` sentences, as far as they have scores."""
        assert self._rows is not None
        return self._tagger.checkpoint.calibration.trace_scores(self._joined(self._rows.known(upto)))

    def _tell(self, number: int, parts: Parts, at: int, *, final: bool) -> None:
        """Events of a sentence's scores: itself, and alerts that begin or end with it."""
        sentence = self._sentence(number)
        tagger = self._tagger
        taxonomy = tagger.checkpoint.taxonomy
        row = tagger.checkpoint.calibration.sentence_scores(parts.labels[at : at + 1])[0].tolist()
        scores = dict(zip(taxonomy.labels, row, strict=True))
        tags = decide(scores, tagger.point.sentences, taxonomy.labels)
        self._tagged.pop(number, None)
        if tags:
            self._tagged[number] = (scores, tags)
        told = SentenceScored(
            stream=self.id,
            number=number,
            start=sentence.start,
            end=sentence.end,
            text=sentence.text,
            scores=scores,
            tags=tags,
            harm_kind=taxonomy.kinds[int(parts.kinds[at].argmax())] if taxonomy.kind_label in tags else None,
            final=final,
            trace_scores=self._trace_scores,
            seconds=time.monotonic() - self._since[number],
        )
        self.outbox.append(told)
        for reached in (*self._alerts.sentence(number, scores), *self._alerts.trace(self._trace_scores)):
            alert = self._alert(reached, told)
            self._on[(alert.tag, alert.level)] = alert
            self.outbox.append(alert)

    def _sentence(self, number: int) -> Sentence:
        return self.sentences[number] if number < len(self.sentences) else self._rest[number][0]

    def _alert(self, reached: Reached, told: SentenceScored) -> Alert:
        ends = self.reading.ends
        read = ends[min(told.number, len(ends) - 1)] if ends else 0
        ahead = sum(size for number, (_, size) in self._rest.items() if number <= told.number)
        return Alert(
            stream=self.id,
            tag=reached.tag,
            state=reached.state,
            level=reached.level,
            score=reached.score,
            threshold=reached.threshold,
            number=told.number,
            start=told.start,
            end=told.end,
            text=told.text,
            final=told.final,
            n_tokens=read + (ahead if told.number >= len(ends) else 0),
        )

    def notify(self) -> None:
        """Wake whoever waits for this trace."""
        self.lock.notify_all()
        if self.on_ready is not None:
            self.on_ready()

    # What is known so far.

    @property
    def trace_scores(self) -> Mapping[str, float]:
        """Scores of the trace so far."""
        return self._trace_scores

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The alerts that are on, each as it began."""
        return tuple(self._on[key] for key in self._alerts.active)

    @property
    def more(self) -> bool:
        """Whether there is something to read."""
        return bool(self.text.waiting or self.reading.waiting or self._rest_wanted)

    @property
    def waiting(self) -> bool:
        """Whether text that could have a provisional score has none yet."""
        return self.more or self._in_flight

    @property
    def done(self) -> bool:
        """Whether a closed stream has all its final scores, or never will."""
        if not self.text.closed or self.failed:
            return self.text.closed
        return not self.text.waiting and len(self._final | self._lost) >= len(self.sentences)

    @property
    def not_scored(self) -> tuple[NotScored, ...]:
        """What was given up on."""
        return tuple(self._unscored)

    @property
    def gap(self) -> str:
        """Why some sentence has no score of either stage; empty where all have one."""
        have = self._rows.has if self._rows is not None else np.zeros(0, dtype=bool)
        known = np.zeros(len(self.sentences), dtype=bool)
        known[: min(len(have), len(known))] = have[: len(known)]
        missing = [number for number in np.flatnonzero(~known).tolist() if self.reading.sizes[number]]
        if not missing:
            return ""
        reasons = [event.reason for event in self._unscored if event.first <= missing[0] <= event.last]
        which = (
            f"{len(missing)} sentences from number {missing[0]} on" if len(missing) > 1 else f"sentence {missing[0]}"
        )
        return f"{which} ({reasons[0] if reasons else 'not read yet'})"

    def tagged(self) -> list[TaggedText]:
        """The sentences that carry a tag, open text included, in the order of the text."""
        return [
            TaggedText(number=number, sentence=self._sentence(number), scores=scores, tags=tags)
            for number, (scores, tags) in sorted(self._tagged.items())
            if number < len(self.sentences) or number in self._rest
        ]

    def trace(self, visibility: Visibility) -> Trace:
        """The trace as a record, its blocks as they came."""
        return Trace(id=self.id, blocks=self.text.blocks(visibility), context=self.context, metadata=self.metadata)

    def result(self, visibility: Visibility) -> TaggedTrace | None:
        """The tagged trace of a closed stream; None where a final score is missing."""
        from cot_probe.encoder import TraceLogits

        if not self.done or self.failed or len(self._final) < len(self.sentences):
            return None
        taxonomy = self._tagger.checkpoint.taxonomy
        if self._rows is None:
            logits = TraceLogits(
                sentences=np.zeros((0, len(taxonomy.labels)), dtype=np.float32),
                kinds=np.zeros((0, max(1, len(taxonomy.kinds))), dtype=np.float32),
                trace=np.zeros(len(taxonomy.labels), dtype=np.float32),
            )
        else:
            known = self._rows.known(len(self.sentences))
            logits = TraceLogits(sentences=known[0], kinds=known[1], trace=self._joined(known))
        return self._tagger.assemble(self.trace(visibility), self.sentences, logits, sum(self.reading.sizes))


class _Rows:
    """Growing columns, one row a sentence."""

    def __init__(self, widths: Sequence[int]) -> None:
        self._arrays = [np.zeros((64, width), dtype=np.float32) for width in widths]
        self.has = np.zeros(64, dtype=bool)

    def put(self, number: int, values: Sequence[NDArray[np.float32]]) -> None:
        if number >= len(self.has):
            more = max(len(self.has), number + 1 - len(self.has))
            self._arrays = [np.pad(array, ((0, more), (0, 0))) for array in self._arrays]
            self.has = np.pad(self.has, (0, more))
        for array, value in zip(self._arrays, values, strict=True):
            array[number] = value
        self.has[number] = True

    def drop_from(self, number: int) -> None:
        self.has[number:] = False

    def known(self, upto: int) -> list[NDArray[np.float32]]:
        """The rows that are there, of the first ``upto`` sentences."""
        if self.has[:upto].all():
            return [array[:upto] for array in self._arrays]
        rows = np.flatnonzero(self.has[:upto])
        return [array[rows] for array in self._arrays]
