"""The study and the monitors that ``cot-probe bench`` is asked for."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from cot_probe.monitorability.bench_streams import read_streams
from cot_probe.monitorability.judges import PROMPT, Prices, read_judgements
from cot_probe.monitorability.misalignment_runs import StratumOf, read_runs
from cot_probe.monitorability.monitors import (
    TEXTS,
    checkpoint_scores,
    keyword_monitor,
    scores_monitor,
    text_of,
    tfidf_monitor,
)
from cot_probe.monitorability.results_join import OwnScores, is_results_file, join_results, results_scores
from cot_probe.monitorability.rows import CellError, StudyError, as_count, as_number, read_rows
from cot_probe.monitorability.study import Study, checked, with_monitors, with_stances
from cot_probe.monitorability.study_reading import Columns, read_study, study_of_rows

COSTS: Final = ("seconds", "tokens", "dollars")
"""What a monitor can have cost over all cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The monitors asked for, besides columns of the table."""

    scores: dict[str, Path]
    streams: dict[str, Path]
    judges: dict[str, Path]
    results: Path | None
    tags: tuple[str, ...]
    tag_now: bool
    checkpoint: Path | None
    device: str
    baselines: bool
    training: Path | None
    judge_reads: str
    judge_scale: float
    prices: str | None
    own_prompt: bool
    seed: int


def study_at(
    source: Path, outcomes: Path | None, columns: Columns, name: str | None, outcome_means: str | None
) -> Study:
    """The study in a directory of runs, in results joined with outcomes, or in a table.

    Raises:
        StudyError: if there is none.
    """
    if source.is_dir():
        if outcomes is not None:
            raise StudyError(f"--outcomes {outcomes}: {source} is a directory of runs, which has its own: leave it out")
        stratum = next((one for one in get_args(StratumOf) if one == (columns.stratum or "model")), None)
        if stratum is None:
            raise StudyError(f"--stratum {columns.stratum}: expected one of {', '.join(get_args(StratumOf))}")
        study = read_runs(source, stratum=stratum).study
        return dataclasses.replace(study, name=name or study.name, outcome=outcome_means or study.outcome)
    if outcomes is not None or is_results_file(source):
        return join_results(source, outcomes, columns, name=name, outcome=outcome_means)
    rows = read_rows(source)
    if columns.id is None and "id" in rows.columns:
        columns = dataclasses.replace(columns, id="id")
    return study_of_rows(rows, columns, name=name, outcome=outcome_means)


def with_asked(study: Study, asked: Asked, columns: Columns) -> Study:
    """The study with every monitor that was asked for, and what our tagger says of the test-or-real question.

    Raises:
        StudyError: if one cannot be had, or does not fit the cases.
    """
    own: list[OwnScores] = []
    if asked.results is not None:
        own.append(results_scores(study, asked.results, asked.tags))
    if asked.tag_now:
        own.append(_tagged(study, asked))
    for ours in own:
        study = with_monitors(study, ours.monitors, ours.notes)
        study = with_stances(study, ours.stances, ours.told_by, ours.labels)
    for name, file in asked.scores.items():
        monitor, notes = scores_monitor(study, file, name=name)
        study = with_monitors(study, [monitor], notes)
    for name, file in asked.streams.items():
        monitor, streams, notes = read_streams(study, file, name=name)
        study = with_monitors(study, [monitor], notes)
        study = dataclasses.replace(study, streams={**study.streams, name: streams})
    return _with_baselines(_with_judges(study, asked), asked, columns)


def _tagged(study: Study, asked: Asked) -> OwnScores:
    try:
        from cot_probe.checkpoint import CheckpointError
        from cot_probe.console import quiet_loading
    except ImportError as error:
        raise StudyError(
            f"--tag needs torch and transformers: {error}. Or give --results of `cot-probe tag`."
        ) from None
    quiet_loading()
    try:
        return checkpoint_scores(study, asked.checkpoint, tags=asked.tags, device=asked.device)
    except CheckpointError as error:
        raise StudyError(str(error)) from None


def _with_judges(study: Study, asked: Asked) -> Study:
    prices = _prices(asked.prices)
    for name, file in asked.judges.items():
        monitor, notes = read_judgements(
            study,
            file,
            name=name,
            reads=asked.judge_reads,
            scale=asked.judge_scale,
            prices=prices,
            prompt=PROMPT if asked.own_prompt else None,
        )
        study = with_monitors(study, [monitor], notes)
    return study


def _prices(text: str | None) -> Prices | None:
    if text is None:
        return None
    try:
        tokens_in, tokens_out = (as_number(part, low=0) for part in text.split(","))
    except (CellError, ValueError):
        raise StudyError(f"--prices {text!r}, expected two numbers from 0: IN,OUT") from None
    return Prices(tokens_in=tokens_in, tokens_out=tokens_out)


def _with_baselines(study: Study, asked: Asked, columns: Columns) -> Study:
    """The study with the keyword list and TF-IDF, for whatever text it has."""
    if not asked.baselines:
        return study
    training = None
    if asked.training is not None:
        training = read_study(asked.training, dataclasses.replace(columns, scores=()))
    has = {name: any(getattr(case, name).strip() for case in study.cases) for name in ("reasoning", "action")}
    if has["reasoning"]:
        study = with_monitors(study, [keyword_monitor(study)])
    for reads in TEXTS:
        if all(has[part] for part in reads.split("+")) and any(text_of(case, reads) for case in study.cases):
            monitor, notes = tfidf_monitor(study, reads=reads, training=training, seed=asked.seed)
            study = with_monitors(study, [monitor], notes)
    return study


def adjusted(study: Study, reads: dict[str, str], thresholds: dict[str, str], costs: dict[str, str]) -> Study:
    """The study with what the user says of its monitors; ``costs`` are such as ``seconds:12,dollars:0.4``.

    Raises:
        StudyError: if a name is no monitor's, or a value cannot be.
    """
    names = [monitor.name for monitor in study.monitors]
    unknown = next((name for name in (*reads, *thresholds, *costs) if name not in names), None)
    if unknown is not None:
        raise StudyError(f"--reads, --threshold or --cost: no monitor {unknown!r}: found {', '.join(names) or 'none'}")
    monitors = []
    for monitor in study.monitors:
        if monitor.name in thresholds:
            try:
                value = as_number(thresholds[monitor.name])
            except CellError as error:
                raise StudyError(f"--threshold {monitor.name}={error}, expected a number") from None
            monitor = dataclasses.replace(monitor, threshold=value)
        if monitor.name in costs:
            monitor = dataclasses.replace(monitor, **_costs(monitor.name, costs[monitor.name]))
        monitors.append(dataclasses.replace(monitor, reads=reads.get(monitor.name, monitor.reads)))
    return checked(dataclasses.replace(study, monitors=tuple(monitors)))


def _costs(name: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split(","):
        what, _, amount = part.partition(":")
        try:
            number = as_count(amount) if what.strip() == "tokens" else as_number(amount, low=0)
        except CellError:
            number = -1.0
        if what.strip() not in COSTS or number < 0:
            said = f"--cost {name}={part.strip()}: expected {', '.join(COSTS)}"
            raise StudyError(f"{said}, each with a number from 0, such as seconds:12,dollars:0.4")
        found[what.strip()] = number
    return found
