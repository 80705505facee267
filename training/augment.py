"""What training does to a row before it is shown: context dropout, cut-offs, dilution, masking.

Each change is drawn from the generator given, so that an epoch is a function of seed and
epoch number alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Probabilities of each change.

    Attributes:
        drop_context: the instructions are left out.
        cut: the trace ends early, as a live monitor sees it; its trace labels are then unknown.
        dilute: sentences of an unlabelled trace are put before and after.
        mask: each token becomes the mask token.
        stretch: a row without any label is shown as a random stretch of at most so many
            sentences (a number, not a probability): long empty rows cost much and teach little.
    """

    drop_context: float = 0.3
    cut: float = 0.15
    dilute: float = 0.15
    mask: float = 0.05
    stretch: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row ready for windows; ``trace`` is None where a cut leaves the trace labels unknown."""

    sentences: list[list[int]]
    context: list[int]
    labels: list[list[int]]
    kinds: list[int]
    trace: list[int] | None


def plain(row: Mapping[str, Any]) -> Example:
    """A row as it is."""
    return Example(
        sentences=row["sentences"],
        context=row["context"],
        labels=row["labels"],
        kinds=row["kinds"],
        trace=row["trace"],
    )


def augmented(
    row: Mapping[str, Any],
    fillers: Sequence[Mapping[str, Any]],
    how: Augmentation,
    rng: np.random.Generator,
    *,
    mask_id: int,
) -> Example:
    """Draw the changes for one row; ``fillers`` are rows without any label."""
    example = _stretch(plain(row), how.stretch, rng)
    if rng.random() < how.drop_context:
        example = _replace(example, context=[])
    if rng.random() < how.cut and len(example.sentences) > 3:
        example = _cut(example, int(rng.integers(2, len(example.sentences))))
    elif rng.random() < how.dilute and fillers:
        example = _diluted(example, fillers[int(rng.integers(len(fillers)))], rng)
    if how.mask:
        masked = [[mask_id if rng.random() < how.mask else token for token in ids] for ids in example.sentences]
        example = _replace(example, sentences=masked)
    return example


def _replace(example: Example, **changes: Any) -> Example:
    fields = {name: getattr(example, name) for name in Example.__dataclass_fields__}
    return Example(**(fields | changes))


def _stretch(example: Example, longest: int, rng: np.random.Generator) -> Example:
    count = len(example.sentences)
    labelled = any(map(any, example.labels)) or example.trace is None or any(example.trace)
    if count <= longest or labelled:
        return example
    begin = int(rng.integers(0, count - longest + 1))
    some = slice(begin, begin + longest)
    return _replace(example, sentences=example.sentences[some], labels=example.labels[some], kinds=example.kinds[some])


def _cut(example: Example, keep: int) -> Example:
    """Keep the first ``keep`` sentences. A trace without a label is still one without when cut."""
    clean = example.trace is not None and not any(example.trace)
    return Example(
        sentences=example.sentences[:keep],
        context=example.context,
        labels=example.labels[:keep],
        kinds=example.kinds[:keep],
        trace=example.trace if clean else None,
    )


def _diluted(example: Example, filler: Mapping[str, Any], rng: np.random.Generator) -> Example:
    """Put a run of unlabelled sentences before and another after, up to 40 in all."""
    total = len(filler["sentences"])
    split_at = int(rng.integers(0, total + 1))
    before = slice(max(0, split_at - 20), split_at)
    after = slice(split_at, min(total, split_at + 20))
    blank = [0] * len(example.labels[0]) if example.labels else []
    head, tail = filler["sentences"][before], filler["sentences"][after]
    return Example(
        sentences=head + example.sentences + tail,
        context=example.context,
        labels=[blank] * len(head) + example.labels + [blank] * len(tail),
        kinds=[-1] * len(head) + example.kinds + [-1] * len(tail),
        trace=example.trace,
    )
