"""A suite run as tables: for a terminal, and as Markdown to keep."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from cot_probe.monitorability.card_markdown import breakdowns_part, goals_part, hard_negatives_part, stance_share
from cot_probe.monitorability.label_figures import LEVELS, METRIC_NAMES
from cot_probe.monitorability.metrics import Estimate
from cot_probe.monitorability.suite import REAL, WRITTEN
from cot_probe.monitorability.suite_results import SuiteResult
from cot_probe.monitorability.table_forms import Cell, Table, for_markdown, markdown

TITLES: Final = {WRITTEN: "written traces of the test split", REAL: "real traces"}


def figure_tables(result: SuiteResult, metrics: Sequence[str] = METRIC_NAMES) -> Iterable[Table]:
    """A table for traces and one for sentences of each part, a row a label and monitor."""
    for part, (n_traces, n_sentences, groups) in result.sizes.items():
        for level, n in (("trace", n_traces), ("sentence", n_sentences)):
            rows = tuple(_rows(result, part, level, metrics))
            if rows:
                yield Table(
                    caption=f"{TITLES[part]}: {n} {level}s of {groups} scenarios",
                    header=("label", "monitor", "positive", *metrics),
                    rows=rows,
                    names=2,
                )


def _rows(result: SuiteResult, part: str, level: str, metrics: Sequence[str]) -> Iterable[tuple[Cell, ...]]:
    for label in LEVELS[level]:
        for monitor in result.monitors:
            figures = monitor.parts[part].figures.get((level, label)) if part in monitor.parts else None
            if figures:
                positives = next(iter(figures.values())).positives
                cells = (_cell(figures.get(metric)) for metric in metrics)
                yield (Cell(text=label), Cell(text=monitor.name), Cell(text=str(positives)), *cells)


def _cell(estimate: Estimate | None) -> Cell:
    if estimate is None or math.isnan(estimate.value):
        return Cell(text="–")
    return Cell(text=f"{estimate.value:.3f}", interval=f"[{estimate.low:.3f}, {estimate.high:.3f}]")


def pair_table(result: SuiteResult) -> Table | None:
    """The first monitor against each other one; None where there is only one."""
    if not result.pairs:
        return None
    return Table(
        caption=f"Average precision over traces: {result.pairs[0].first} minus another monitor, paired by scenario",
        header=("part", "label", "minus", "difference"),
        rows=tuple(
            (Cell(text=pair.part), Cell(text=pair.tag), Cell(text=pair.second), _cell(pair.difference))
            for pair in result.pairs
        ),
        names=3,
    )


def about_lines(result: SuiteResult) -> list[str]:
    """What must be read beside the figures: the suite, each monitor's training and what it did not score."""
    lines = [
        f"suite {result.suite}, SHA-256 {result.suite_sha256}; 95 % intervals by {result.draws} bootstrap draws over "
        "scenarios"
    ]
    for monitor in result.monitors:
        submission, training = monitor.entrant.submission, monitor.entrant.training
        lines.append(f"{monitor.name} ({submission.version}) reads {submission.reads}; training: {training.statement}")
        lines.append(f"{monitor.name}: seen the suite in training? {training.verdict}: {training.told_by}")
        if not monitor.parts:
            lines.append(f"{monitor.name}: no answer on any trace")
        for name, part in monitor.parts.items():
            for level, counts in part.unscored.items():
                said = ", ".join(f"{count} {status}" for status, count in counts.items())
                lines.append(f"{monitor.name}, {name} {level}s without a score: {said}; counted as {result.unscored}")
            if part.no_tables:
                lines.append(f"{monitor.name}, {name}: no goals, hard negatives and kinds of trace: {part.no_tables}")
        lines += [f"{monitor.name}: {fault}" for fault in monitor.entrant.faults]
    return [*lines, *result.notes]


def result_markdown(result: SuiteResult, more: Sequence[str] = ()) -> str:
    """Everything of a run, to keep; names in it come from other people's files and stay text."""
    pairs = pair_table(result)
    tables = [*figure_tables(result), *([pairs] if pairs is not None else [])]
    said = tuple((Cell(text=line),) for line in (*about_lines(result), *more))
    tables.append(Table(caption="To be read with it", header=("note",), rows=said))
    return "\n".join([f"# Suite {result.suite}", "", *map(markdown, tables), *_card_parts(result)])


def _card_parts(result: SuiteResult) -> Iterable[str]:
    """Goals, hard negatives and kinds of trace of each monitor that has them, as its card would show them."""
    for monitor in result.monitors:
        for name, part in monitor.parts.items():
            if part.tables is not None:
                yield f"## {for_markdown(monitor.name)}: {TITLES[name]}\n"
                yield goals_part(part.tables, real=name == REAL)
                yield f"{stance_share(part.tables)}\n"
                yield hard_negatives_part(part.tables)
                yield breakdowns_part(part.tables)
