"""What is to be read of a stream, and how far it has been read.

Sentences become units, read from left to right for provisional scores, and windows, read whole
for the final ones. A window that closes begins a new one; its neighbours are read again.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cot_probe.windows import SpecialTokens, Window, WindowLayout, WindowStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A sentence, or a piece of an over-long one, to be read for a provisional score.

    ``restart`` is set where a window closed before it: so many tokens before it are its neighbours.
    ``size`` is the number of tokens of the whole sentence, ``since`` when its last character came.
    """

    number: int
    ids: tuple[int, ...]
    size: int
    since: float
    restart: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to read next, from position ``start`` on: the blocks ``opening``, then ``units``.

    The first ``sure`` units belong to sentences that are over, the others to text that may still go
    on. Where a ``fresh`` window begins, its opening is the head if that is not in the cache, and the
    neighbours. ``prior`` are the tokens before the first unit, for bodies without a cache.
    """

    units: tuple[Unit, ...]
    sure: int
    start: int
    fresh: bool
    opening: tuple[tuple[int, ...], ...]
    prior: tuple[int, ...]

    @property
    def opening_size(self) -> int:
        """Tokens before the first unit."""
        return sum(len(block) for block in self.opening)

    @property
    def size(self) -> int:
        """Tokens to read."""
        return self.opening_size + sum(len(unit.ids) for unit in self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """The summed token vectors ``(d,)`` of a whole sentence, and how many tokens they are of."""

    number: int
    total: NDArray[np.float32]
    count: int


class LiveReading:
    """Units, windows and the place in the cache of one stream."""

    def __init__(self, context: Sequence[int], *, layout: WindowLayout, special: SpecialTokens) -> None:
        self._layout = layout
        self._windows = WindowStream(context, layout=layout, special=special)
        self.sizes: list[int] = []
        """Tokens of each sentence that is over."""
        self.ends: list[int] = []
        """Tokens of the trace up to the end of each."""
        self._units: deque[Unit] = deque()
        self._ahead: list[Unit] = []
        self._rest: tuple[tuple[int, ...], ...] = ()
        self._rest_read = 0
        self._recent: deque[int] = deque(maxlen=layout.max_tokens)
        self._in_view = 0
        self._committed = 0
        self._cached = self._head_cached = False
        self._pieces: dict[int, Pooled] = {}
        self._window_pieces: dict[int, Pooled] = {}

    @property
    def head(self) -> tuple[int, ...]:
        """What every window opens with."""
        return self._windows.head

    def types(self, size: int) -> tuple[int, ...]:
        """Token types of so many tokens from the beginning of a window."""
        return self._windows.types(size)

    @property
    def waiting(self) -> bool:
        """Whether sentences that are over wait for their provisional scores."""
        return bool(self._units)

    @property
    def oldest(self) -> float:
        """When the first of them ended; infinity where there is none."""
        return self._units[0].since if self._units else float("inf")

    def add(self, ids: Sequence[int], since: float) -> list[Window]:
        """The next sentence that is over; returns the windows that it closed."""
        number = len(self.sizes)
        self.sizes.append(len(ids))
        self.ends.append((self.ends[-1] if self.ends else 0) + len(ids))
        closed = self._windows.feed(ids)
        restart = max(0, len(self._windows.open_tokens) - len(ids)) if closed else None
        self._units += self.units_of(number, ids, since, restart)
        return closed

    def close(self) -> list[Window]:
        """The trace is over: nothing is provisional any more; returns the windows that are left."""
        self._units.clear()
        self.drop_ahead()
        return self._windows.close()

    def units_of(self, number: int, ids: Sequence[int], since: float, restart: int | None = None) -> list[Unit]:
        """A sentence in pieces that fit into a window; none where it has no token."""
        longest = self._layout.unit_tokens
        return [
            Unit(
                number=number,
                ids=tuple(ids[at : at + longest]),
                size=len(ids),
                since=since,
                restart=restart if at == 0 else None,
            )
            for at in range(0, len(ids), longest)
        ]

    def commit_ahead(self) -> None:
        """Sentences that have ended where the text read ahead ended: their reading stands."""
        while self._ahead and self._units:
            ahead, unit = self._ahead[0], self._units[0]
            if unit.restart is not None or ahead.ids != unit.ids or ahead.number != unit.number:
                return
            del self._ahead[0]
            self._rest, self._rest_read = self._rest[1:], self._rest_read - 1
            self._units.popleft()
            self._settle(unit)

    def plan(self, budget: int, rest: Sequence[Unit]) -> Plan | None:
        """What to read next, up to about ``budget`` tokens, open text (``rest``) last; None for nothing.

        Open text that has been read before, as it stands, is not read again. Where a fresh cache must
        be begun in the middle, the plan ends before it: ask again while :attr:`waiting` or not :meth:`has_read`.
        """
        planning = self._planning()
        while self._units and planning.size < budget:
            if not self._placed(planning, self._units[0], self._recent):
                break
            unit = self._units.popleft()
            self._recent.extend(unit.ids)
        sure = len(planning.units)
        if rest and not self._units:
            self._plan_rest(planning, rest)
        return planning.plan(sure) if planning.units else None

    def plan_head(self) -> Plan | None:
        """The head alone, so that the first sentence need not wait for it; None where it has been read."""
        if self._head_cached:
            return None
        planning = self._planning()
        planning.open(())
        return planning.plan(0)

    def _planning(self) -> "_Planning":
        return _Planning(
            committed=self._committed if self._cached else None,
            head=self.head,
            head_cached=self._head_cached,
            prior=tuple(self._recent)[-self._layout.left_tokens :],
        )

    def _plan_rest(self, planning: "_Planning", rest: Sequence[Unit]) -> None:
        ids = tuple(unit.ids for unit in rest)
        same = 0 if planning.units else _common(ids, self._rest)
        self._rest, self._rest_read = ids, min(self._rest_read, same)
        del self._ahead[self._rest_read :]
        before = [*self._recent, *(token for some in ids[: self._rest_read] for token in some)]
        if len(self._ahead) < self._rest_read:
            planning.at = None  # open text too long for one cache: what follows is read in one of its own
        elif self._ahead:
            planning.go_on(sum(len(unit.ids) for unit in self._ahead))
        for unit in rest[self._rest_read :]:
            if not self._placed(planning, unit, before):
                return
            before += unit.ids
            self._rest_read += 1

    def has_read(self, rest: Sequence[Unit]) -> bool:
        """Whether all of this open text has been planned."""
        return self._rest_read == len(rest) and self._rest == tuple(unit.ids for unit in rest)

    def _placed(self, planning: "_Planning", unit: Unit, before: Sequence[int]) -> bool:
        """Add a unit to the plan; False where it takes a fresh cache and the plan has begun."""
        room = self._layout.max_tokens - 1
        at = planning.at
        if unit.restart is None and at is not None and at + len(unit.ids) <= room:
            planning.put(unit)
            return True
        if planning.units:
            return False
        # A closed window names the neighbours; a cache taken away is filled again; a full one begins anew.
        wanted = unit.restart if unit.restart is not None else self._in_view if at is None else self._layout.left_tokens
        count = max(0, min(wanted, room - len(self.head) - len(unit.ids), len(before)))
        planning.open(tuple(before)[-count:] if count else ())
        planning.put(unit)
        return True

    def read(self, plan: Plan, sums: Sequence[NDArray[np.float32]]) -> list[Pooled]:
        """Take the summed vectors ``(d,)`` of a plan's units; returns the sentences that are now whole."""
        beyond = plan.fresh and plan.sure == 0 and self._rest_read > len(plan.units)
        self._cached, self._head_cached = not beyond, True
        if plan.fresh:
            self._committed = plan.start + plan.opening_size
        if plan.fresh and not beyond:
            self._in_view = self._committed - len(self.head)
        whole: list[Pooled] = []
        for at, (unit, total) in enumerate(zip(plan.units, sums, strict=True)):
            if at < plan.sure:
                self._committed += len(unit.ids)
                self._in_view += len(unit.ids)
            elif not beyond:
                self._ahead.append(unit)
            whole += _gathered(self._pieces, Pooled(number=unit.number, total=total, count=len(unit.ids)), unit.size)
        return whole

    def _settle(self, unit: Unit) -> None:
        self._committed += len(unit.ids)
        self._in_view += len(unit.ids)
        self._recent.extend(unit.ids)

    def read_window(self, window: Window, sums: Mapping[int, NDArray[np.float32]]) -> list[Pooled]:
        """Take the summed vectors ``(d,)`` of a closed window's sentences; returns those now whole."""
        counts: dict[int, int] = {}
        for span in window.spans:
            counts[span.sentence] = counts.get(span.sentence, 0) + span.last - span.first
        whole: list[Pooled] = []
        for number, count in counts.items():
            piece = Pooled(number=number, total=sums[number], count=count)
            whole += _gathered(self._window_pieces, piece, self.sizes[number])
        return whole

    def drop_ahead(self) -> None:
        """What was read ahead has turned out otherwise, or is not needed."""
        self._ahead, self._rest, self._rest_read = [], (), 0
        self._pieces = {number: piece for number, piece in self._pieces.items() if number < len(self.sizes)}

    def forget_cache(self) -> None:
        """The cache was taken away: the next reading begins with what stood in it."""
        self._cached, self._head_cached, self._committed, self._ahead = False, False, 0, []

    def skip(self, older_than: float) -> list[int]:
        """Give up on the provisional scores of sentences that have waited too long; returns their numbers."""
        late: list[int] = []
        while self._units and self._units[0].since < older_than:
            unit = self._units.popleft()
            self._recent.extend(unit.ids)
            self._in_view = min(self._in_view + len(unit.ids), self._layout.left_tokens)
            late.append(unit.number)
        if late:
            self._cached = False
            self.drop_ahead()
        return sorted(set(late))


class _Planning:
    """A plan in the making; ``at`` is the position behind what is planned, None where no sentence is cached."""

    def __init__(
        self, *, committed: int | None, head: tuple[int, ...], head_cached: bool, prior: tuple[int, ...]
    ) -> None:
        self.at = committed
        self.units: list[Unit] = []
        self.size = 0
        self._start, self._fresh = committed or 0, False
        self._opening: tuple[tuple[int, ...], ...] = ()
        self._head, self._head_cached, self._prior = head, head_cached, prior

    def open(self, neighbours: tuple[int, ...]) -> None:
        """Begin a window: the head is read once for all windows of a stream, and does not see what follows."""
        self._start, self._fresh = len(self._head) if self._head_cached else 0, True
        blocks = (neighbours,) if self._head_cached else (self._head, neighbours)
        self._opening = tuple(block for block in blocks if block)
        self.at = len(self._head) + len(neighbours)
        self.size += self.at - self._start

    def go_on(self, size: int) -> None:
        """Skip what is cached of the open text."""
        if self.at is not None:
            self._start = self.at = self.at + size

    def put(self, unit: Unit) -> None:
        self.units.append(unit)
        self.at = (self.at or 0) + len(unit.ids)
        self.size += len(unit.ids)

    def plan(self, sure: int) -> Plan:
        return Plan(
            units=tuple(self.units),
            sure=sure,
            start=self._start,
            fresh=self._fresh,
            opening=self._opening,
            prior=self._prior,
        )


def _gathered(pieces: dict[int, Pooled], piece: Pooled, size: int) -> list[Pooled]:
    """A sentence's piece together with those before it; a list of one once the sentence is whole."""
    before = pieces.pop(piece.number, None)
    if before is not None:
        piece = Pooled(number=piece.number, total=before.total + piece.total, count=before.count + piece.count)
    if piece.count >= size:
        return [piece]
    pieces[piece.number] = piece
    return []


def _common(ids: Sequence[tuple[int, ...]], others: Sequence[tuple[int, ...]]) -> int:
    """How many units both begin with."""
    return next(
        (at for at, (one, other) in enumerate(zip(ids, others, strict=False)) if one != other),
        min(len(ids), len(others)),
    )
