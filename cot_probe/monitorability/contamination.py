"""Whether a monitor has seen a suite's traces in training, as far as that can be told.

It can be told where a list of the training traces is given: by the SHA-256 of their texts, by id, and by scenario (a
trace of a scenario that the suite tests on is as good as seen, whatever its words). It cannot be told without a list,
nor where a text was changed and its id and scenario taken off.
"""

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cot_probe.annotations import AnnotatedTrace
from cot_probe.monitorability.rows import CellError, Rows, as_text, cell, read_rows
from cot_probe.monitorability.suite import REAL, Suite, SuiteError, text_hash

Verdict = Literal["not seen", "not trained", "cannot be told"]
TRAINED_ON: Final = "trained_on.jsonl"
"""In a checkpoint's folder: the list of its training traces, where it has one."""
FOR_TRAINING: Final = ("train", "dev")
"""Splits that training, calibration and thresholds may look at."""


class SeenError(SuiteError):
    """A monitor that was trained on traces of the suite: it gets no figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTrace:
    """What identifies one training trace; "" where the list does not say."""

    id: str = ""
    scenario: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a reader must know of a monitor's training.

    Attributes:
        statement: In its author's words.
        verdict: Whether the suite's traces were among it.
        told_by: What the verdict rests on.
    """

    statement: str
    verdict: Verdict
    told_by: str


def read_training(path: Path) -> tuple[list[TrainingTrace], str]:
    """A list of training traces, and what it is.

    Each row has one of ``sha256`` (of the text), ``text``, ``scenario`` and ``id``, better several; a file of
    annotations will do.

    Raises:
        SuiteError: if a row has none of these, or cannot be read: a list with gaps tells nothing.
    """
    rows = read_rows(path)
    if rows.rejected:
        raise SuiteError(f"{path}: {len(rows.rejected)} rows cannot be read (first: {rows.rejected[0]}): mend the file")
    traces = [_trace(row, f"{path}, {place}") for place, row in rows.rows]
    if not traces:
        raise SuiteError(f"{path}: no row, expected one for each training trace")
    return traces, _named(rows, len(traces))


def _trace(row: Mapping[str, Any], where: str) -> TrainingTrace:
    try:
        found = {name: as_text(row[name]).strip() for name in ("id", "scenario", "sha256") if name in row}
    except CellError as error:
        raise SuiteError(f"{where}: {error} is neither text nor a number") from None
    text = cell(row, "text")
    if isinstance(text, str):
        found["sha256"] = text_hash(text)
    trace = TrainingTrace(
        id=found.get("id", ""), scenario=found.get("scenario", ""), text=found.get("sha256", "").lower()
    )
    if trace == TrainingTrace():
        raise SuiteError(f"{where}: found {', '.join(row) or 'nothing'}, expected sha256, text, scenario or id")
    return trace


def _named(rows: Rows, count: int) -> str:
    return f"{count} training traces in {Path(rows.name).name} (sha256 {rows.sha256[:12]})"


def training_of(records: Iterable[AnnotatedTrace]) -> list[TrainingTrace]:
    """Annotated traces as training traces."""
    return [TrainingTrace(id=record.id, scenario=record.group, text=text_hash(record.text)) for record in records]


def training_lines(records: Iterable[AnnotatedTrace]) -> str:
    """The list of training traces that `read_training` reads, a JSON line each: split, scenario, SHA-256 of the text.

    Ids are left out: those of real traces are mere numbers.
    """
    rows = [{"split": record.split, "scenario": record.group, "sha256": text_hash(record.text)} for record in records]
    return "".join(json.dumps(row) + "\n" for row in rows)


def annotated_training(folder: Path) -> tuple[list[TrainingTrace], str]:
    """The traces of an annotations folder that are for training and calibration, and what they are.

    Raises:
        SuiteError: if a file cannot be read.
    """
    traces, files = [], [folder / "data" / "train.jsonl", folder / "data" / "dev.jsonl"]
    for path in [*files, folder / "real" / "pool.jsonl", folder / "real" / "rest.jsonl"]:
        if path.is_file():
            rows = read_rows(path)
            traces += [_trace(row, f"{path}, {place}") for place, row in rows.rows if row.get("split") in FOR_TRAINING]
    return traces, f"the {len(traces)} traces that the annotations mark for training and calibration"


def checked_training(suite: Suite, traces: Iterable[TrainingTrace], *, monitor: str, told_by: str) -> str:
    """What the check of a list of training traces rests on, if none of them is of the suite.

    Raises:
        SeenError: if one is.
    """
    seen = list(overlap(suite, traces))
    if seen:
        raise SeenError(
            f"{monitor} has seen suite {suite.name} in training: {len(seen)} of {told_by} are of it (first: {seen[0]}). "
            "It gets no figures: leave these out and train again"
        )
    return told_by


def overlap(suite: Suite, traces: Iterable[TrainingTrace]) -> Iterable[str]:
    """Training traces that are of the suite, each once, and by what that is told."""
    texts = {trace.text: trace.id for trace in suite.traces}
    scenarios = {trace.scenario for trace in suite.traces}
    ids = {trace.id: part for part, some in suite.parts.items() for trace in some}
    for trace in traces:
        part = ids.get(trace.id)
        if trace.text in texts:
            yield f"the text of {texts[trace.text]!r}"
        elif trace.scenario in scenarios:
            yield f"the scenario {reprlib.repr(trace.scenario)}"
        # The ids of real traces are mere numbers, which others use too: with a text of their own they say nothing.
        elif part is not None and (part != REAL or not trace.text):
            yield f"the id {trace.id!r}"


def listed_training(suite: Suite, path: Path | None, *, monitor: str, statement: str) -> Training:
    """The training of somebody's monitor: checked against the list that was given, if one was.

    Raises:
        SeenError: if a trace of the suite is in the list.
        SuiteError: if the list cannot be read.
    """
    if path is None:
        return Training(statement=statement, verdict="cannot be told", told_by="no list of training traces was given")
    traces, told_by = read_training(path)
    told_by = checked_training(suite, traces, monitor=monitor, told_by=told_by)
    return Training(statement=statement, verdict="not seen", told_by=told_by)
