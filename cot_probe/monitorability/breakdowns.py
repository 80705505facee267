"""False positives on hard negatives, and counts and figures by kind of trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cot_probe.annotations import AnnotatedTrace
from cot_probe.annotations.counts import LENGTHS, named_hard_negatives
from cot_probe.annotations.phenomena import HARD_NEGATIVES, of_hard_negative
from cot_probe.monitorability import metrics
from cot_probe.monitorability.card_levels import Measured, estimated, labelled, restricted, said
from cot_probe.monitorability.metrics import Estimate
from cot_probe.taxonomy import PUBLIC_TAGS

MIN_CLASS: Final = 5
"""A group with fewer positives or negatives gets counts only."""
MIN_SCENARIOS: Final = 2
"""So does one with fewer bootstrap groups: resampling a single one gives an interval of no width."""
FALSE_POSITIVE_GOAL: Final = 0.03
ALL_TYPES: Final = "all types, each trace once"
UNKNOWN_LANGUAGE: Final = "und"
NAN: Final = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class FalsePositives:
    """How many traces of a type of hard negatives get a tag that they lack, with Wilson's interval."""

    type: str
    tag: str
    tagged: int
    negatives: int
    share: float
    low: float
    high: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A tag within a group of traces: counts at the default operating point, figures where there are enough."""

    group: str
    tag: str
    traces: int
    scenarios: int
    found: int
    positive: int
    false: int
    negative: int
    auroc: Estimate | None
    average_precision: Estimate | None


def hard_negatives(trace: Measured, records: Sequence[AnnotatedTrace]) -> list[FalsePositives]:
    """False positives of each public tag on each type of hard negatives, and on all together."""
    types = {name: of_hard_negative(records, name) for name in HARD_NEGATIVES}
    types[ALL_TYPES] = named_hard_negatives(records)
    rows = []
    for name, members in types.items():
        ids = {record.id for record in members}
        inside = np.array([record.id in ids for record in records], dtype=np.bool_)
        for tag in PUBLIC_TAGS:
            free = inside & ~labelled(trace, tag)
            rows.append(false_positives(name, tag, int((said(trace, tag) & free).sum()), int(free.sum())))
    return rows


def false_positives(name: str, tag: str, tagged: int, negatives: int) -> FalsePositives:
    """A share with its interval, held against the goal."""
    share = tagged / negatives if negatives else NAN
    low, high = metrics.wilson(tagged, negatives)
    return FalsePositives(
        type=name,
        tag=tag,
        tagged=tagged,
        negatives=negatives,
        share=share,
        low=low,
        high=high,
        margin=FALSE_POSITIVE_GOAL - share,
    )


def length_names() -> list[str]:
    """Names of the classes of length, shortest first."""
    names = [f"{low} to {high} words" if high else f"over {low - 1} words" for low, high in LENGTHS]
    return [f"under {LENGTHS[1][0]} words", *names[1:]]


def length_class(record: AnnotatedTrace) -> str:
    """The class of length of a trace, in words separated by white space."""
    words = len(record.text.split())
    return length_names()[sum(words >= low for low, _ in LENGTHS[1:])]


def language_class(record: AnnotatedTrace) -> str:
    """English or not, as far as the record says."""
    if record.language == UNKNOWN_LANGUAGE:
        return "not recorded"
    return "English" if record.language == "en" else "other"


def breakdown(
    trace: Measured, names: Sequence[str], *, order: Sequence[str] = (), figures: bool = True
) -> list[GroupRow]:
    """Counts and figures of the public tags by group.

    Args:
        trace: the trace level.
        names: ``(n,)``, the group of each trace.
        order: groups in the order of the table; those left out follow by name.
        figures: whether to estimate AUROC and average precision too.
    """
    known = [name for name in order if name in set(names)]
    groups = known + sorted(set(names) - set(known))
    return [
        group_row(name, tag, restricted(trace, np.array([other == name for other in names])), figures=figures)
        for name in groups
        for tag in PUBLIC_TAGS
    ]


def group_row(group: str, tag: str, trace: Measured, *, figures: bool) -> GroupRow:
    """One tag over the traces of one group."""
    tagged, true = said(trace, tag), labelled(trace, tag)
    scenarios = len(set(trace.groups))
    enough = min(true.sum(), (~true).sum()) >= MIN_CLASS and scenarios >= MIN_SCENARIOS
    return GroupRow(
        group=group,
        tag=tag,
        traces=len(true),
        scenarios=scenarios,
        found=int((tagged & true).sum()),
        positive=int(true.sum()),
        false=int((tagged & ~true).sum()),
        negative=int((~true).sum()),
        auroc=estimated(trace, tag, metrics.auroc) if figures and enough else None,
        average_precision=estimated(trace, tag, metrics.average_precision) if figures and enough else None,
    )


def breakdowns(
    trace: Measured, records: Sequence[AnnotatedTrace], title: str, names: Sequence[str]
) -> dict[str, list[GroupRow]]:
    """Breakdowns by length and language, and by what the caller names (``title``, a name for each trace)."""
    return {
        "length": breakdown(trace, [length_class(record) for record in records], order=length_names()),
        "language class": breakdown(trace, [language_class(record) for record in records], order=("English",)),
        "language": breakdown(trace, [record.language for record in records], figures=False),
        title: breakdown(trace, names),
    }
