"""What ``cot-probe bench`` leaves behind: files in a folder, and as much as a terminal is wide."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Console

from cot_probe.results_commands import plain_text

if TYPE_CHECKING:
    from cot_probe.monitorability.bench_records import BenchResult
    from cot_probe.monitorability.study import Study

_NOTE_CHARS: Final = 400
_WIDTH: Final = 140
"""Columns where the output is no terminal."""
_NAME_WIDTH, _FIGURE_WIDTH, _MOST_PAIRS = 50, 24, 15
"""Columns of a terminal for names and counts, and for a figure; rows of comparisons shown."""
_FIRST: Final = ("auroc", "tpr_at_fpr_0.01", "g_mean_squared", "tpr_at_fpr_0.05", "average_precision")


def write_bench(study: "Study", result: "BenchResult", folder: Path) -> None:
    """Everything that is kept: results.json, the figures and the cases as Parquet, tables, plots and the report."""
    from pyarrow import parquet

    from cot_probe.monitorability.bench_records import to_table, write_json
    from cot_probe.monitorability.bench_report import write_report
    from cot_probe.monitorability.plot_sheet import PlotError
    from cot_probe.monitorability.study import cases_table

    folder.mkdir(parents=True, exist_ok=True)
    write_json(result, folder / "results.json")
    parquet.write_table(to_table(result), folder / "results.parquet")
    parquet.write_table(cases_table(study), folder / "cases.parquet")
    try:
        write_report(result, folder)
    except PlotError as error:
        typer.echo(f"cot-probe: only numbers written, no report: {error}", err=True)


def print_bench(result: "BenchResult") -> None:
    """As much of the tables as a terminal is wide, and all notes; the report has the rest."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    from cot_probe.monitorability.bench_tables import (
        comparison_table,
        contrast_table,
        main_metrics,
        monitor_table,
        rate_table,
    )
    from cot_probe.monitorability.table_forms import rich_table

    room = max(1, (console.width - _NAME_WIDTH) // _FIGURE_WIDTH)
    known = main_metrics(result)
    metrics = [*(name for name in _FIRST if name in known), *(name for name in known if name not in _FIRST)]
    console.print(rich_table(dataclasses.replace(monitor_table(result, metrics[:room]), notes=())))
    console.print()
    pairs = result.comparisons
    if len(pairs) > _MOST_PAIRS:
        pairs = tuple(pair for pair in pairs if pair.metric == pairs[0].metric)[:_MOST_PAIRS]
    compared = comparison_table(dataclasses.replace(result, comparisons=pairs))
    if compared is not None:
        console.print(rich_table(compared))
        console.print()
    if len(pairs) < len(result.comparisons):
        console.print(f"[dim]… and {len(result.comparisons) - len(pairs)} more comparisons: in the report, --json[/]")
    said = [rate_table(one) for one in (result.awareness, result.deliberation, result.disobedience) if one is not None]
    if result.awareness is not None:
        said.insert(1, contrast_table(result.awareness))
    for table in said:
        console.print(rich_table(table))
        console.print()
    for note in result.notes:
        console.print(f"[yellow]{plain_text(note, limit=_NOTE_CHARS)}[/]")
