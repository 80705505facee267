"""The tables of a model card beside its figures: goals, hard negatives, kinds of trace.

Made here for `training/evaluate.py` and for the published suite, so that the two cannot drift apart. Usable without
torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cot_probe.annotations import AnnotatedTrace
from cot_probe.annotations.phenomena import report_name
from cot_probe.monitorability.breakdowns import FalsePositives, GroupRow, breakdowns, hard_negatives
from cot_probe.monitorability.card_goals import REAL_GOALS, WRITTEN_GOALS, GoalRow, goals_table
from cot_probe.monitorability.card_levels import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTables:
    """The tables of one monitor on one set of traces.

    Attributes:
        goals: Figures beside their goals.
        hard_negatives: False positives by type of hard negatives.
        breakdowns: Counts and figures by group, for each kind of grouping: length, language and, for written traces,
            phenomenon, for real ones source.
    """

    goals: tuple[GoalRow, ...]
    hard_negatives: tuple[FalsePositives, ...]
    breakdowns: Mapping[str, tuple[GroupRow, ...]]


def card_tables(sentence: Measured, trace: Measured, records: Sequence[AnnotatedTrace], *, real: bool) -> CardTables:
    """All tables of one monitor; ``real`` traces have goals of their own, and sources in place of phenomena."""
    names = [record.source if real else report_name(record.phenomenon) for record in records]
    groups = breakdowns(trace, records, "source" if real else "phenomenon", names)
    return CardTables(
        goals=tuple(goals_table(sentence, trace, records, REAL_GOALS if real else WRITTEN_GOALS)),
        hard_negatives=tuple(hard_negatives(trace, records)),
        breakdowns={kind: tuple(rows) for kind, rows in groups.items()},
    )


def tables_json(tables: CardTables) -> dict[str, Any]:
    """Tables as a card's metrics.json has them."""
    return {
        "goals": stored(tables.goals),
        "hard_negatives": stored(tables.hard_negatives),
        "breakdowns": {kind: stored(rows) for kind, rows in tables.breakdowns.items()},
    }


def stored(rows: Sequence[GoalRow | FalsePositives | GroupRow]) -> list[dict[str, Any]]:
    """Rows as plain values for JSON; what cannot be computed is null."""
    return [_plain(dataclasses.asdict(row)) for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
