"""What training does to a row before it is shown: stretches, context dropout, cut-offs, dilution, masking.

Each change is drawn from the generator given, so that an epoch is a function of seed and
epoch number alone. Rows with and without labels are stretched and diluted alike: otherwise
length would say what a trace carries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

_SHORTEST: Final = 15
"""Sentences that a stretch has at least, where the row has so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Probabilities of each change.

    Attributes:
        drop_context: the instructions are left out.
        cut: the trace ends early, as a live monitor sees it; its trace labels are then unknown.
        dilute: a row gets runs of sentences of an unlabelled trace before and after.
        real_filler: share of the dilutions that take them from a real trace. Nearly all real
            training traces carry nothing; without this, sounding real means carrying nothing.
        mask: each token becomes the mask token.
        stretch: a row is shown as a random stretch of so many sentences at most (a number, not a
            probability), drawn anew each time, log-uniformly from 15 on: long rows cost much and teach
            little. Every labelled sentence stays in. 0 shows whole rows.
    """

    drop_context: float = 0.3
    cut: float = 0.15
    dilute: float = 0.35
    real_filler: float = 0.6
    mask: float = 0.05
    stretch: int = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row ready for windows; ``trace`` is None where a cut leaves the trace labels unknown.

    ``known`` says of each sentence whether somebody labelled it; where not, its zeros say nothing.
    """

    sentences: list[list[int]]
    context: list[int]
    labels: list[list[int]]
    kinds: list[int]
    known: list[bool]
    trace: list[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fillers:
    """Rows without any label, real and written, for dilution."""

    real: Sequence[Mapping[str, Any]]
    written: Sequence[Mapping[str, Any]]

    @classmethod
    def among(cls, rows: Sequence[Mapping[str, Any]]) -> "Fillers":
        """The rows that carry nothing."""
        empty = [row for row in rows if not any(row["trace"]) and not np.any(row["labels"])]
        return cls(real=[row for row in empty if row["real"]], written=[row for row in empty if not row["real"]])

    def draw(self, real_share: float, rng: np.random.Generator) -> Mapping[str, Any]:
        """One of them; a kind that is empty leaves the draw to the other."""
        wants_real = rng.random() < real_share
        some = (self.real if wants_real else self.written) or self.real or self.written
        return some[int(rng.integers(len(some)))]


def plain(row: Mapping[str, Any]) -> Example:
    """A row as it is."""
    return Example(
        sentences=row["sentences"],
        context=row["context"],
        labels=row["labels"],
        kinds=row["kinds"],
        known=_known(row),
        trace=row["trace"],
    )


def _known(row: Mapping[str, Any]) -> list[bool]:
    """For each sentence; features from before trace-only labels have no such column, all theirs are known."""
    return [bool(row.get("sentences_known", True))] * len(row["sentences"])


def augmented(
    row: Mapping[str, Any],
    fillers: Fillers,
    how: Augmentation,
    rng: np.random.Generator,
    *,
    mask_id: int,
) -> Example:
    """Draw the changes for one row."""
    example = _stretch(plain(row), _drawn_length(how.stretch, rng), rng) if how.stretch else plain(row)
    if rng.random() < how.drop_context:
        example = _replace(example, context=[])
    if rng.random() < how.cut and len(example.sentences) > 3:
        example = _cut(example, int(rng.integers(2, len(example.sentences))))
    elif rng.random() < how.dilute and (fillers.real or fillers.written):
        example = _diluted(example, fillers.draw(how.real_filler, rng), rng)
    if how.mask:
        masked = [[mask_id if rng.random() < how.mask else token for token in ids] for ids in example.sentences]
        example = _replace(example, sentences=masked)
    return example


def _drawn_length(longest: int, rng: np.random.Generator) -> int:
    """Log-uniform, so that short stretches are as common as long ones."""
    shortest = min(_SHORTEST, longest)
    return int(np.exp(rng.uniform(np.log(shortest), np.log(longest + 1))))


def _replace(example: Example, **changes: Any) -> Example:
    fields = {name: getattr(example, name) for name in Example.__dataclass_fields__}
    return Example(**(fields | changes))


def _stretch(example: Example, longest: int, rng: np.random.Generator) -> Example:
    """At most ``longest`` sentences in a row; more where the labelled ones reach further.

    What a trace carries still holds, for the sentences that carry it stay. Where the trace is labelled
    and no sentence is, the row stays whole.
    """
    count = len(example.sentences)
    labelled = [at for at, labels in enumerate(example.labels) if any(labels)]
    if count <= longest or (not labelled and example.trace is not None and any(example.trace)):
        return example
    first, last = (labelled[0], labelled[-1] + 1) if labelled else (count, 0)
    if last - first >= longest:
        some = slice(first, last)
    else:
        begin = int(rng.integers(max(0, last - longest), min(first, count - longest) + 1))
        some = slice(begin, begin + longest)
    return _part(example, some)


def _cut(example: Example, keep: int) -> Example:
    """Keep the first ``keep`` sentences; what the trace carries is then unknown.

    Also where the whole carries nothing: were it known for these alone, being short would count as carrying nothing.
    """
    return _replace(_part(example, slice(0, keep)), trace=None)


def _part(example: Example, some: slice) -> Example:
    """Some sentences of an example and what was said of them; the trace's labels as they are."""
    return _replace(
        example,
        sentences=example.sentences[some],
        labels=example.labels[some],
        kinds=example.kinds[some],
        known=example.known[some],
    )


def _diluted(example: Example, filler: Mapping[str, Any], rng: np.random.Generator) -> Example:
    """Put a run of unlabelled sentences before and another after, up to 40 in all."""
    total = len(filler["sentences"])
    split_at = int(rng.integers(0, total + 1))
    ahead, behind = rng.integers(2, 21, size=2)
    before = slice(max(0, split_at - int(ahead)), split_at)
    after = slice(split_at, min(total, split_at + int(behind)))
    blank = [0] * len(example.labels[0]) if example.labels else []
    head, tail = filler["sentences"][before], filler["sentences"][after]
    known = _known(filler)
    return Example(
        sentences=head + example.sentences + tail,
        context=example.context,
        labels=[blank] * len(head) + example.labels + [blank] * len(tail),
        kinds=[-1] * len(head) + example.kinds + [-1] * len(tail),
        known=known[before] + example.known + known[after],
        trace=example.trace,
    )
