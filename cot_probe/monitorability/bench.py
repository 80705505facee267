"""From a study to its figures: every number with an interval, what it was measured on, and a signature.

>>> from cot_probe.monitorability.bench import bench
>>> from cot_probe.monitorability.study_reading import Columns, ScoreColumn, read_study
>>> study = read_study("scores.csv", Columns(outcome="harmful", id="id", scores=(ScoreColumn(name="j", column="j"),)))
>>> result = bench(study)
"""

from collections.abc import Callable

import numpy as np

from cot_probe import __version__
from cot_probe.monitorability.awareness import AwarenessTable, awareness_of, deliberation_in
from cot_probe.monitorability.bench_curves import monitor_curves
from cot_probe.monitorability.bench_figures import data_figures, monitor_figures, slices_left_out
from cot_probe.monitorability.bench_options import POLICIES, BenchOptions, Unscored, metric_of, unscored_counts
from cot_probe.monitorability.bench_pairs import cascades, comparisons, value_figures
from cot_probe.monitorability.bench_records import (
    BenchFileError,
    BenchResult,
    Comparison,
    Curve,
    CurveKind,
    Figure,
    from_json,
    read_json,
    to_json,
    to_table,
    write_json,
)
from cot_probe.monitorability.bench_streams import stream_figures
from cot_probe.monitorability.commands_given import DisobedienceTable, disobedience_of
from cot_probe.monitorability.rows import StudyError
from cot_probe.monitorability.study import Study, checked

__all__ = [
    "BenchFileError",
    "BenchOptions",
    "BenchResult",
    "Comparison",
    "Curve",
    "CurveKind",
    "Figure",
    "Unscored",
    "bench",
    "from_json",
    "read_json",
    "to_json",
    "to_table",
    "write_json",
]

FEW_GROUPS = 20
"""Under so many groups a bootstrap over them gives intervals that are too narrow."""


def bench(
    study: Study, options: BenchOptions | None = None, *, progress: Callable[[str], None] | None = None
) -> BenchResult:
    """Measure every monitor of a study.

    Intervals are of 95 %, by resampling whole groups; where a figure has another, its note says so. Cases without a
    score count as `BenchOptions.unscored` says, and are counted in figures of their own.

    Args:
        study: Cases and monitors.
        options: How to measure; None for the defaults.
        progress: Told what is measured next.

    Raises:
        StudyError: if the study has no case, a monitor does not fit it, or options name what is not there.
    """
    options = options or BenchOptions()
    tell = progress or (lambda _: None)
    _check(study, options)
    figures: list[Figure] = list(data_figures(study, options))
    curves: list[Curve] = []
    for monitor in study.monitors:
        tell(monitor.name)
        figures += monitor_figures(study, monitor, options)
        figures += stream_figures(study, monitor, options)
        curves += monitor_curves(study, monitor, options)
    tell("monitors in pairs")
    figures += value_figures(study, options)
    for item in cascades(study, options):
        if isinstance(item, Curve):
            curves.append(item)
        else:
            figures.append(item)
    compared = comparisons(study, options)
    tell("the test-or-real question")
    groups = len({case.group for case in study.cases})
    return BenchResult(
        study=study.name,
        outcome=study.outcome,
        n=len(study.cases),
        positives=sum(case.outcome for case in study.cases),
        groups=groups,
        source=dict(study.source),
        notes=(*study.notes, *_notes(study, options, groups)),
        signature=_signature(study, options),
        figures=tuple(figures),
        curves=tuple(curves),
        comparisons=compared,
        awareness=_awareness(study, options),
        deliberation=_deliberation(study, options),
        disobedience=_disobedience(study, options),
    )


def _check(study: Study, options: BenchOptions) -> None:
    checked(study)
    if not study.cases:
        raise StudyError(f"{study.name}: no case, expected at least one with a known outcome")
    if options.unscored not in POLICIES:
        raise StudyError(f"unscored is {options.unscored!r}, expected one of {', '.join(POLICIES)}")
    names = {monitor.name for monitor in study.monitors}
    wanted = [*(options.values or ()), *(options.cascades or ())]
    asked = [name for pair in wanted for name in pair] + ([options.reference] if options.reference else [])
    missing = next((name for name in asked if name not in names), None)
    if missing is not None:
        raise StudyError(f"no monitor is called {missing!r}: found {', '.join(sorted(names)) or 'none'}")
    try:
        for metric in options.compared:
            metric_of(metric)
        for share in (*options.fprs, options.value_fpr):
            metric_of(f"tpr_at_fpr_{share:g}")
        for budget in options.budgets:
            metric_of(f"audit_recall_at_{budget:g}")
    except ValueError as error:
        raise StudyError(str(error)) from None
    if options.draws < 1 or options.permutations < 1:
        raise StudyError(f"{options.draws} draws, {options.permutations} permutations: expected at least 1 of each")


def _notes(study: Study, options: BenchOptions, groups: int) -> tuple[str, ...]:
    notes = list(slices_left_out(study.cases))
    positives = sum(case.outcome for case in study.cases)
    if not 0 < positives < len(study.cases):
        which = "every" if positives else "no"
        notes.append(
            f"{which} case has the outcome: AUROC and whatever else compares the two kinds is not defined; is the right "
            "column named as the outcome?"
        )
    negatives = len(study.cases) - positives
    strict = [f"{100 * fpr:g} %" for fpr in options.fprs if 0 < fpr * negatives < 1]
    if strict:
        rates = ", ".join(strict)
        notes.append(f"{negatives} cases without the outcome: a false-positive rate of {rates} allows no false alarm")
    if groups < FEW_GROUPS:
        notes.append(f"only {groups} groups: intervals that resample them are rough, and rather too narrow")
    hidden = sum(not case.visible for case in study.cases)
    if hidden:
        notes.append(f"{hidden} cases without visible reasoning: not clean for a monitor that reads it, but unscored")
    for monitor in study.monitors:
        if study.streams.get(monitor.name) and monitor.threshold is None:
            notes.append(f"{monitor.name}: no threshold, so no first alarms: --threshold NAME=NUMBER gives it one")
        counts = unscored_counts(study, monitor)
        if counts:
            said = ", ".join(f"{count} {status}" for status, count in counts.items())
            notes.append(f"{monitor.name}: {said}: {POLICIES[options.unscored]}")
    return tuple(notes)


def _signature(study: Study, options: BenchOptions) -> dict[str, str]:
    """What a reader must quote: the code, the way of measuring, and of each monitor what it says of itself."""
    signature = {
        "cot_probe": __version__,
        "numpy": np.__version__,
        "intervals": "95 %, percentile bootstrap over groups unless noted",
        "draws": str(options.draws),
        "permutations": str(options.permutations),
        "seed": str(options.seed),
        "unscored": f"{options.unscored}: {POLICIES[options.unscored]}",
    }
    for monitor in study.monitors:
        signature |= {f"{monitor.name}: {key}": value for key, value in monitor.signature.items()}
        signature[f"{monitor.name}: reads"] = monitor.reads
        if monitor.threshold is not None:
            signature[f"{monitor.name}: threshold"] = f"{monitor.threshold:g}"
        signature[f"{monitor.name}: trained on"] = monitor.trained_on or "cannot be told"
    return signature


def _awareness(study: Study, options: BenchOptions) -> AwarenessTable | None:
    if not any(case.stance_known and case.visible for case in study.cases):
        return None
    return awareness_of(study.cases, outcome=study.outcome, draws=options.draws, seed=options.seed)


def _deliberation(study: Study, options: BenchOptions) -> AwarenessTable | None:
    if not any(case.label is not None and case.stance_known and case.visible for case in study.cases):
        return None
    return deliberation_in(study.cases, outcome=study.outcome, draws=options.draws, seed=options.seed)


def _disobedience(study: Study, options: BenchOptions) -> DisobedienceTable | None:
    """The table, if there is a case with a command not to and one without."""
    if not any(case.forbidden is not None or case.context.strip() for case in study.cases):
        return None
    table = disobedience_of(study.cases, outcome=study.outcome, draws=options.draws, seed=options.seed)
    return table if all(rate.of for rate in table.rates.values()) else None
