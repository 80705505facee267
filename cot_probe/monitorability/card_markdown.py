"""The tables of a model card beside its figures, as Markdown."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cot_probe.monitorability.breakdowns import (
    ALL_TYPES,
    FALSE_POSITIVE_GOAL,
    MIN_CLASS,
    MIN_SCENARIOS,
    FalsePositives,
    GroupRow,
)
from cot_probe.monitorability.card_goals import REAL_GOALS, STANCE, WRITTEN_GOALS, GoalRow
from cot_probe.monitorability.card_tables import CardTables
from cot_probe.monitorability.metrics import wilson
from cot_probe.taxonomy import PUBLIC_TAGS

DASH: Final = "–"
GROUP_SENTENCES: Final = {
    "length": "By length in words between white space: Chinese and Japanese traces count as shorter than they are.",
    "language class": "By language, English or other.",
    "language": "Each language, counts only.",
    "phenomenon": "By phenomenon, counts.",
    "source": "By source, counts.",
}


def goals_part(tables: CardTables, *, real: bool) -> str:
    """Figures beside their goals, with what must be read beside them."""
    known = [row for row in tables.goals if not np.isnan(row.margin)]
    reached = sum(met(row.margin) for row in known)
    below = (REAL_GOALS if real else WRITTEN_GOALS).kappa_below
    lines = [
        "### Goals",
        "",
        f"{reached} of the {len(known)} figures that can be computed meet their goal; it is the figure that is held "
        "against the goal, not its interval. A dash: cannot be computed, for want of positives. Kappa is that of the "
        "sentence tags at the default thresholds with the adjudicated labels; it may lie "
        f"{below:.2f} below that of the two readers with each other. Stance is right where the likelier of "
        "the two is a true one.",
        "",
        goals_markdown(tables.goals),
        "",
    ]
    return "\n".join(lines)


def stance_share(tables: CardTables) -> str:
    """How often the stance is right where eval-awareness was rightly found."""
    (row,) = (row for row in tables.goals if row.figure == STANCE)
    found = row.estimate.positives
    if not found:
        return "stance: no true positive"
    return f"stance right (the likelier of the two is a true one): {round(row.estimate.value * found)} of {found}"


def hard_negatives_part(tables: CardTables) -> str:
    """False positives by type of hard negatives, with what must be read beside them."""
    lines = [
        "### False positives on hard negatives",
        "",
        "Traces of each type without any public tag that are tagged all the same at the default operating point (goal: "
        f"at most {100 * FALSE_POSITIVE_GOAL:g} %; distances from it in percentage points). Wilson 95 % "
        "intervals, which take traces as independent: those of one scenario are not, so the truth is less certain still. "
        "Below 34 traces a single false positive misses the goal.",
        "",
        hard_negatives_markdown(tables.hard_negatives),
        "",
    ]
    return "\n".join(lines)


def breakdowns_part(tables: CardTables) -> str:
    """Counts and figures by kind of trace, with what must be read beside them."""
    lines = [
        "### By kind of trace",
        "",
        "Positives found and negatives falsely tagged at the default operating point; AUROC and average precision "
        f"where a group has at least {MIN_CLASS} positives and {MIN_CLASS} negatives, from at "
        f"least {MIN_SCENARIOS} scenarios. Beside counts, in brackets, the Wilson 95 % interval of the share in per cent, "
        "as if traces were independent. Intervals from a handful of scenarios are too narrow.",
        "",
    ]
    for key, rows in tables.breakdowns.items():
        lines += [GROUP_SENTENCES[key], ""]
        if key in ("length", "language class"):
            lines += [figures_markdown(key, rows), ""]
            continue
        lines += [counts_markdown(key, rows), ""]
        large = [row for row in rows if row.auroc is not None]
        if large:
            lines += ["Figures of the groups that are large enough.", "", figures_markdown(key, large), ""]
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def met(margin: float) -> bool:
    """Whether a goal is met (exactly is enough)."""
    return margin >= -1e-9


def verdict(margin: float, *, unit: float = 1.0, digits: int = 3) -> str:
    """Met or missed, and by how much (in ``unit``); a dash where it cannot be told."""
    if np.isnan(margin):
        return DASH
    least = 10.0**-digits
    amount = abs(margin) / unit
    by = f"{amount:.{digits}f}" if amount >= least / 2 else f"less than {least:g}"
    return f"met by {by}" if met(margin) else f"missed by {by}"


def goals_markdown(rows: Sequence[GoalRow]) -> str:
    """The goals table."""
    cells = []
    for row in rows:
        goal = DASH if np.isnan(row.goal) else f"{'≤' if row.at_most else '≥'} {row.goal:.3f}"
        if row.readers is not None:
            goal += f" (readers {row.readers})"
        count = f"{row.estimate.n} ({row.estimate.positives})"
        cells.append([row.figure, row.label, count, str(row.estimate), goal, verdict(row.margin)])
    return markdown(["figure", "label", "n (positive)", "figure and interval", "goal", "met?"], cells)


def hard_negatives_markdown(rows: Sequence[FalsePositives]) -> str:
    """A row for each type that has traces, a cell for each public tag; types without are named below."""
    types = list(dict.fromkeys(row.type for row in rows))
    empty = [name for name in types if name != ALL_TYPES and not any(r.negatives for r in rows if r.type == name)]
    cells = [[name, *(_share_cell(row) for row in rows if row.type == name)] for name in types if name not in empty]
    text = markdown(["hard negatives", *(f"{tag}: tagged / traces without it" for tag in PUBLIC_TAGS)], cells)
    return f"{text}\n\nNo trace of: {', '.join(empty)}." if empty else text


def _share_cell(row: FalsePositives) -> str:
    if not row.negatives:
        return DASH
    return f"{share_cell(row.tagged, row.negatives)}, {verdict(row.margin, unit=0.01, digits=1)}"


def share_cell(count: int, n: int) -> str:
    """A count out of n (at least one), its share and the share's Wilson 95 % interval."""
    low, high = wilson(count, n)
    return f"{count} / {n}: {100 * count / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def figures_markdown(title: str, rows: Sequence[GroupRow]) -> str:
    """A row for each group and tag."""
    columns = ["traces (scenarios)", "tag", "AUROC", "average precision", "found / positive", "false / negative"]
    cells = [
        [row.group, f"{row.traces} ({row.scenarios})", row.tag, *_figure_cells(row), *_count_cells(row)] for row in rows
    ]
    return markdown([title, *columns], cells)


def counts_markdown(title: str, rows: Sequence[GroupRow]) -> str:
    """A row for each group, a cell of counts for each public tag."""
    columns = [f"{tag}: found / positive, false / negative" for tag in PUBLIC_TAGS]
    groups = dict.fromkeys((row.group, row.traces, row.scenarios) for row in rows)
    cells = [
        [name, f"{traces} ({scenarios})", *(", ".join(_count_cells(row)) for row in rows if row.group == name)]
        for name, traces, scenarios in groups
    ]
    return markdown([title, "traces (scenarios)", *columns], cells)


def _figure_cells(row: GroupRow) -> list[str]:
    return [DASH if value is None else str(value) for value in (row.auroc, row.average_precision)]


def _count_cells(row: GroupRow) -> list[str]:
    return [_count_cell(row.found, row.positive), _count_cell(row.false, row.negative)]


def _count_cell(count: int, n: int) -> str:
    """A count out of n, with the interval of its share in per cent where there is one."""
    if not n:
        return "0 / 0"
    low, high = wilson(count, n)
    return f"{count} / {n} [{100 * low:.0f}, {100 * high:.0f}]"
