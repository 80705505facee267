"""A benchmark result as tables: monitors, pairs, the test-or-real question, every figure.

>>> from cot_probe.monitorability.bench_tables import monitor_table
>>> from cot_probe.monitorability.table_forms import latex, markdown
>>> print(markdown(monitor_table(result)))

A table holds text for people; the numbers themselves are ``BenchResult.figures``. Names are cut where they are endless.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cot_probe.monitorability.awareness import LABEL_ROWS, AwarenessTable
from cot_probe.monitorability.metric_names import form, is_main, named
from cot_probe.monitorability.table_forms import Cell, Table, printable

if TYPE_CHECKING:
    from cot_probe.monitorability.bench_records import BenchResult, Figure
    from cot_probe.monitorability.commands_given import DisobedienceTable
    from cot_probe.monitorability.contrasts import Association, Contrast, Effect, Share

NAME_CHARS: Final = 80
"""A name longer than this is cut with an ellipsis; notes at five times as much."""
MOST_METRICS: Final = 6
"""Columns of the table of monitors; the other figures are in :func:`figure_table`."""
UNKNOWN: Final = "–"


def signature_id(result: "BenchResult") -> str:
    """Twelve hexadecimal digits that stand for what was measured and how: study, source and signature by SHA-256."""
    known = {"study": result.study, "source": dict(result.source), "signature": dict(result.signature)}
    text = json.dumps(known, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def monitors_of(result: "BenchResult") -> tuple[str, ...]:
    """Names of the monitors in the order in which the result has them."""
    single = [curve.monitor for curve in result.curves if curve.kind != "cascade"]
    names = [figure.monitor for figure in result.figures if figure.monitor and not cascaded(figure.metric)]
    return tuple(dict.fromkeys([*names, *single]))


def cascaded(metric: str) -> bool:
    """Whether a metric is of two monitors in a row, not of one."""
    return metric.startswith("cascade")


def figures_by(result: "BenchResult", slice: str = "all") -> dict[tuple[str, str], "Figure"]:
    """The figures of a slice by monitor and metric."""
    return {(figure.monitor, figure.metric): figure for figure in result.figures if figure.slice == slice}


def short(text: str, limit: int = NAME_CHARS) -> str:
    """A name as one printable line that is not endless."""
    line = printable(text[: 20 * limit])
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


# Numbers


def number(value: float) -> str:
    """Three decimals for shares and the like, fewer for large numbers; a dash for NaN."""
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    decimals = 3 if size < 10 else 1 if size < 1000 else 0
    return _minus(f"{value:,.{decimals}f}")


def value_of(figure: "Figure") -> str:
    """A figure's value: counts are whole, costs keep three digits however small they are."""
    kind = form(figure.metric)
    if kind == "share" or not math.isfinite(figure.value):
        return number(figure.value)
    return _minus(f"{figure.value:,.0f}") if kind == "count" else digits(figure.value)


def digits(value: float) -> str:
    """Three digits, however small or large; whole from 1,000 on."""
    if not math.isfinite(value):
        return number(value)
    return _minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip("."))


def interval(low: float, high: float) -> str:
    """``[low, high]``, empty where both ends are unknown."""
    return "" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"


def cell_of(figure: "Figure | None") -> Cell:
    """A figure as a cell; a dash where there is none."""
    if figure is None:
        return Cell(text=UNKNOWN)
    return Cell(text=value_of(figure), interval=interval(figure.low, figure.high))


def p_value(p: float) -> str:
    """Three decimals, "<0.001" under them."""
    return UNKNOWN if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign."""
    text = number(value) if decimals == 3 or not math.isfinite(value) else _minus(f"{value:.{decimals}f}")
    return text if value <= 0 or math.isnan(value) else f"+{text}"


def _minus(text: str) -> str:
    bare = text.lstrip("-")
    return bare if not bare.strip("0.,") else text.replace("-", "−")


# Contents


def foot(result: "BenchResult") -> tuple[str, ...]:
    """What every table and plot says of itself: how much was measured, how intervals were made, the signature."""
    said = result.signature
    how = [f"{key} {said[key]}" for key in ("draws", "seed") if key in said]
    version = next((f"cot_probe {said[key]}" for key in ("cot_probe", "version") if key in said), "cot_probe")
    cases = f"{short(result.study, 60)}: {result.n:,} traces, {result.positives:,} with {short(result.outcome, 60)}"
    means = f"95 % intervals over {result.groups:,} groups" + (f" ({', '.join(how)})" if how else "")
    return cases, f"{means}; {short(version, 40)}, signature {signature_id(result)}"


def main_metrics(result: "BenchResult") -> tuple[str, ...]:
    """The metrics that the table of monitors shows: those people quote, as far as there are any."""
    found = dict.fromkeys(figure.metric for figure in result.figures if figure.monitor and figure.slice == "all")
    return tuple(metric for metric in found if is_main(metric))[:MOST_METRICS]


def monitor_table(result: "BenchResult", metrics: Sequence[str] | None = None) -> Table:
    """A row a monitor, a column a metric; ``metrics`` are those to show, None for the usual ones."""
    metrics = main_metrics(result) if metrics is None else tuple(metrics)
    known, letters = figures_by(result), _Letters()
    rows = []
    for monitor in monitors_of(result):
        figures = [known.get((monitor, metric)) for metric in metrics]
        remarks = [one.note.split("; ") if one is not None and one.note else [] for one in figures]
        there = [said for one, said in zip(figures, remarks, strict=True) if one is not None]
        # What holds for the whole row stands at its name.
        common = [said for said in (there[0] if there else []) if all(said in others for others in there)]
        own = [[said for said in some if said not in common] for some in remarks]
        sizes = [(one.n, one.positives) for one in figures if one is not None]
        n, positives = max(sizes, default=(0, 0))
        name = Cell(text=short(monitor), marks=letters.of(common))
        cells = [_sized(one, n, letters.of(said)) for one, said in zip(figures, own, strict=True)]
        counts = Cell(text=f"{n:,}" if sizes else UNKNOWN, interval=f"({positives:,})" if sizes else "")
        rows.append((name, *cells, counts))
    return Table(
        caption=f"Monitors of {short(result.outcome)} on {short(result.study)}, with 95 % intervals",
        header=("Monitor", *(short(named(metric)) for metric in metrics), "n (positive)"),
        rows=tuple(rows),
        remarks=letters.table(),
        notes=foot(result),
    )


class _Letters:
    """Remarks and their letters, in the order in which they come up."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, remarks: Sequence[str]) -> str:
        """The letters of some remarks, with commas."""
        return ",".join(sorted(self._known.setdefault(said, _letter(len(self._known))) for said in remarks))

    def table(self) -> tuple[tuple[str, str], ...]:
        """Letters and what they stand for."""
        return tuple((letter, short(said, 5 * NAME_CHARS)) for said, letter in self._known.items())


def _letter(at: int) -> str:
    tens, ones = divmod(at, 26)
    return (_letter(tens - 1) if tens else "") + chr(ord("a") + ones)


def _sized(figure: "Figure | None", n: int, marks: str) -> Cell:
    """A figure as a cell of a row about ``n`` cases; it says so where it is about others."""
    cell = cell_of(figure)
    other = "" if figure is None or figure.n == n else f"n {figure.n:,}"
    return Cell(text=cell.text, interval=", ".join(filter(None, (cell.interval, other))), marks=marks)


def figure_table(result: "BenchResult", figures: Sequence["Figure"] | None = None, caption: str = "") -> Table:
    """A row a figure, with everything that belongs to it; ``figures`` are those to show, None for all."""
    shown = result.figures if figures is None else figures
    columns: dict[str, Callable[[Figure], str]] = {
        "Monitor": lambda one: short(one.monitor) or "the traces",
        "Cases": lambda one: short(one.slice.replace("=", ": ", 1)),
        "Metric": lambda one: short(named(one.metric)),
        "Value": value_of,
        "95 % interval": lambda one: interval(one.low, one.high) or UNKNOWN,
        "n": lambda one: f"{one.n:,}",
        "positive": lambda one: f"{one.positives:,}",
        "Note": lambda one: short(one.note, 5 * NAME_CHARS),
    }
    if not any(one.monitor for one in shown):
        del columns["Monitor"]
    if all(one.slice == "all" for one in shown):
        del columns["Cases"]
    return Table(
        caption=caption or f"All figures of {short(result.study)}",
        header=tuple(columns),
        rows=tuple(tuple(Cell(text=text(one)) for text in columns.values()) for one in shown),
        names=list(columns).index("Metric") + 1,
        notes=foot(result),
    )


def comparison_table(result: "BenchResult") -> Table | None:
    """Monitors in pairs; None without a comparison."""
    if not result.comparisons:
        return None
    rows = [
        (
            Cell(text=short(pair.first)),
            Cell(text=short(pair.second)),
            Cell(text=short(named(pair.metric))),
            Cell(text=signed(pair.difference), interval=f"[{signed(pair.low)}, {signed(pair.high)}]"),
            Cell(text=p_value(pair.p)),
            Cell(text=p_value(pair.p_holm)),
            Cell(text=f"{pair.n:,}"),
            Cell(text=UNKNOWN if pair.needed is None else f"{pair.needed:,}"),
        )
        for pair in result.comparisons
    ]
    return Table(
        caption="Monitors in pairs on the same traces: first minus second, paired 95 % interval",
        header=("First", "Second", "Metric", "Difference", "p", "p (Holm)", "n", "n for 80 % power"),
        rows=tuple(rows),
        names=3,
        notes=(
            "p is two-sided; Holm's correction is over all comparisons of the study. The last column is how many such "
            "traces it takes to separate the two if they differ by what was seen: a number to plan with.",
            *foot(result),
        ),
    )


# Rates

ROW_NAMES: Final[Mapping[str, str]] = {
    "test": "says it is a test",
    "real": "says it is real",
    "both": "says both, in turn",
    "neither": "says neither",
    "deliberates_thinks_eval": "thinks evaluation",
    "deliberates_thinks_real": "thinks real",
    "undecided": "undecided",
    "no_deliberation": "no deliberation",
    "forbidden": "told not to",
    "not forbidden": "not told",
}
"""Rows of the tables of rates in words."""


def rate_rows(table: "AwarenessTable | DisobedienceTable") -> list[tuple[str, "Share"]]:
    """Each row's name in words and its share with the outcome; what could not be told is a row of its own."""
    rest = table.unread if isinstance(table, AwarenessTable) else table.unknown
    rows = [(ROW_NAMES.get(name, name), rate) for name, rate in table.rates.items()]
    return [*rows, *([("not known", rest)] if rest.of else [])]


def rate_table(table: "AwarenessTable | DisobedienceTable", said: Sequence[str] = ()) -> Table:
    """How often the outcome happened in each row, with Wilson's interval; ``said`` closes the notes."""
    rows = [
        (
            Cell(text=short(name)),
            Cell(text=f"{rate.count:,} of {rate.of:,}"),
            Cell(text=percentage(rate.value), interval=f"[{percentage(rate.low)}, {percentage(rate.high)}]")
            if rate.of
            else Cell(text=UNKNOWN),
        )
        for name, rate in rate_rows(table)
    ]
    by = "what the reasoning says of its situation" if isinstance(table, AwarenessTable) else "whether it was forbidden"
    if set(table.rates) == set(LABEL_ROWS):
        by = "the experiment's label"
    return Table(
        caption=f"How often: {short(table.outcome)}, by {by}",
        header=("The trace", "with the outcome", "%, 95 % interval (Wilson)"),
        rows=tuple(rows),
        notes=(*_source(table), *(short(note, 5 * NAME_CHARS) for note in table.notes), *said),
    )


def percentage(share: float) -> str:
    """A share as percent to a tenth, without the sign."""
    return UNKNOWN if math.isnan(share) else f"{100 * share:.1f}"


def _source(table: "AwarenessTable | DisobedienceTable") -> tuple[str, ...]:
    source = table.source if isinstance(table, AwarenessTable) else ""
    return (f"published figures, not ours: {short(source, 5 * NAME_CHARS)}",) if source else ()


def contrast_table(table: "AwarenessTable | DisobedienceTable", said: Sequence[str] = ()) -> Table:
    """One kind of trace against another by every measure; also within strata, and by whole groups."""
    others: tuple[tuple[str, Contrast], ...] = ()
    if isinstance(table, AwarenessTable):
        main, name = table.real_against_test, "real against test"
        others = (
            ("test against neither", table.test_against_neither),
            ("real against neither", table.real_against_neither),
        )
    else:
        main, name = table.forbidden_against_not, "told against not told"
    rows = [_contrast_row(name, main.contrast)]
    if main.by_group is not None:
        empty = [Cell(text=UNKNOWN)] * 3
        rows.append((Cell(text=f"{name}, {main.groups:,} whole groups"), points(main.by_group), *empty, rows[0][-1]))
    within = main.stratified
    if within is not None:
        n = sum(stratum.group.of + stratum.reference.of for stratum in main.strata) - within.one_sided
        measures = (points(within.difference), _effect(within.ratio), _effect(within.odds))
        rows.append(
            (
                Cell(text=f"{name}, within {within.strata:,} strata"),
                *measures,
                Cell(text=p_value(within.p)),
                Cell(text=f"{n:,}"),
            )
        )
    rows += [_contrast_row(other, contrast) for other, contrast in others]
    return Table(
        caption=f"{short(table.outcome)}: one kind of trace against another",
        header=("Against", "Difference, points", "Ratio", "Odds ratio", "p", "n"),
        rows=tuple(rows),
        notes=(
            "p: Fisher's exact test; within strata Cochran-Mantel-Haenszel. This is association: "
            "the traces can differ in more than this.",
            *_homogeneity(main),
            *_source(table),
            *said,
        ),
    )


def _contrast_row(name: str, found: "Contrast") -> tuple[Cell, ...]:
    n = found.group.of + found.reference.of
    return (
        Cell(text=name),
        points(found.difference),
        _effect(found.ratio),
        _effect(found.odds),
        Cell(text=p_value(found.p)),
        Cell(text=f"{n:,}"),
    )


def points(found: "Effect") -> Cell:
    """A difference of shares in percentage points."""
    low, high = signed(100 * found.low, 1), signed(100 * found.high, 1)
    return Cell(text=signed(100 * found.value, 1), interval="" if math.isnan(found.low) else f"[{low}, {high}]")


def _effect(found: "Effect") -> Cell:
    values = [digits(one) for one in (found.value, found.low, found.high)]
    return Cell(text=values[0], interval="" if math.isnan(found.low) else f"[{values[1]}, {values[2]}]")


def _homogeneity(main: "Association") -> tuple[str, ...]:
    within = main.stratified
    if within is None:
        return ()
    said = []
    if within.one_sided:
        said.append(f"{within.one_sided:,} traces are in strata of one side alone and say nothing within strata.")
    if within.degrees:
        p = p_value(within.homogeneity_p)
        said.append(f"Is the odds ratio the same in all strata? Breslow-Day with Tarone's correction: p {p}.")
    return tuple(said)


def all_tables(result: "BenchResult") -> dict[str, Table]:
    """The tables of a report, by a word for each: monitors, pairs, the two questions, every figure."""
    said = foot(result)
    tables: dict[str, Table | None] = {"monitors": monitor_table(result), "pairs": comparison_table(result)}
    if result.awareness is not None:
        tables |= {
            "stances": rate_table(result.awareness, said),
            "stance-contrasts": contrast_table(result.awareness, said),
        }
    if result.deliberation is not None:
        tables |= {
            "labels": rate_table(result.deliberation, said),
            "label-contrasts": contrast_table(result.deliberation, said),
        }
    if result.disobedience is not None:
        tables |= {
            "commands": rate_table(result.disobedience, said),
            "command-contrasts": contrast_table(result.disobedience, said),
        }
    tables["figures"] = figure_table(result)
    return {name: table for name, table in tables.items() if table is not None}
