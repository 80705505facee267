"""A study read from a table, and from the results of ``cot-probe tag`` joined with outcomes."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cot_probe.monitorability.awareness import LABEL_STANCES
from cot_probe.monitorability.rows import (
    CellError,
    Faults,
    Rows,
    StudyError,
    as_count,
    as_flag,
    as_number,
    as_text,
    cell,
    read_rows,
)
from cot_probe.monitorability.study import Case, MonitorScores, Status, Study, monitor_of, parsed_score, with_monitors


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreColumn:
    """A column of somebody's scores; the fields are those of `MonitorScores`."""

    name: str
    column: str
    reads: str = "unknown"
    threshold: float | None = None
    seconds: float | None = None
    tokens: int | None = None
    dollars: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which column holds which field of a `Case`; None: none does. A dot leads into nested objects.

    Without ``id`` a case is named by its row; without ``group`` each case is a group of its own.
    """

    outcome: str
    id: str | None = None
    group: str | None = None
    stratum: str | None = None
    arm: str | None = None
    reasoning: str | None = None
    action: str | None = None
    context: str | None = None
    phenomenon: str | None = None
    stance: str | None = None
    verbalised: str | None = None
    forbidden: str | None = None
    legibility: str | None = None
    coverage: str | None = None
    n_tokens: str | None = None
    visible: str | None = None
    scores: tuple[ScoreColumn, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """Field to column, for the fields that have one."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "scores"}
        return {name: column for name, column in fields.items() if column is not None}


_STANCES: Final = {
    **dict.fromkeys(("neither", "none", "no deliberation")),
    "test": "test",
    "evaluation": "test",
    "real": "real",
    "both": "both",
    **LABEL_STANCES,
}
"""Words for a stance; the experiment's labels are kept as such too."""
_ARMS: Final = ("intervention", "control")
_SHARED: Final = "rows left out: other rows with the same id say otherwise"


def read_study(
    source: str | Path | Any, columns: Columns, *, name: str | None = None, outcome: str | None = None
) -> Study:
    """A study of a table: a row a case, with its outcome and any number of monitors' scores.

    Rows without an outcome, without an id, or whose id other rows have too, are left out and counted in
    ``notes``; a score that is no number has a status that says so. Nothing is filled in.

    Args:
        source: CSV, TSV, JSON lines, a JSON list, Parquet or Arrow; or a DataFrame, a pyarrow Table, a list of dicts.
        columns: Which column holds what.
        name: The study's name (default: that of the file).
        outcome: What the outcome means, in words (default: the column's name).

    Raises:
        StudyError: if a named column is not there, or no case is left.
    """
    return study_of_rows(read_rows(source), columns, name=name, outcome=outcome)


def study_of_rows(
    rows: Rows, columns: Columns, *, name: str | None = None, outcome: str | None = None, notes: tuple[str, ...] = ()
) -> Study:
    """The study of rows that were read; see `read_study`."""
    rows.require([*columns.named.values(), *(score.column for score in columns.scores)])
    faults = Faults()
    kept = keyed_rows(rows, columns.id, faults)
    cases, cells = [], []
    for id, (place, row) in kept.items():
        case = _case(id, place, row, columns, faults)
        if case is not None:
            cases.append(case)
            cells.append((place, row))
    notes += (*_rejected(rows), *faults.notes())
    if not cases:
        said = "; ".join(notes) or "no row at all"
        raise StudyError(f"{rows.name}: no case is left: {said}. Check --id and --outcome, or mend the file.")
    if columns.group is None:
        notes += ("no group was named: intervals take the cases as independent",)
    study = Study(
        name=name or (Path(rows.name).name if rows.sha256 else "study"),
        cases=tuple(cases),
        monitors=(),
        source={Path(rows.name).name: rows.sha256} if rows.sha256 else {},
        outcome=outcome or columns.outcome,
        notes=notes,
    )
    monitors = [_column_scores(score, cells, rows) for score in columns.scores]
    return with_monitors(study, [monitor for monitor, _ in monitors], [note for _, some in monitors for note in some])


def keyed_rows(rows: Rows, column: str | None, faults: Faults) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Rows by id; those without one, and those whose id another row has too, are left out and counted.

    Rows that are equal in every cell are one row. Without a column, a row is named by its place.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    twice: set[str] = set()
    for place, row in rows.rows:
        try:
            value = place if column is None else cell(row, column)
            id = "" if value is None else as_text(value).strip()
        except CellError:
            faults.add(f"rows left out: the id in {column!r} is neither text nor a number", place)
            continue
        if not id:
            faults.add(f"rows left out: no id in {column!r}", place)
        elif id not in found:
            found[id] = (place, row)
        elif found[id][1] == row:
            faults.add("rows left out: the same as another row in every cell", place, id)
        else:
            if id not in twice:
                faults.add(_SHARED, found[id][0], id)
            faults.add(_SHARED, place, id)
            twice.add(id)
    return {id: row for id, row in found.items() if id not in twice}


def _rejected(rows: Rows) -> tuple[str, ...]:
    return (f"{len(rows.rejected)} rows could not be read (first: {rows.rejected[0]})",) if rows.rejected else ()


def _case(id: str, place: str, row: Mapping[str, Any], columns: Columns, faults: Faults) -> Case | None:
    """The case of one row; None, counted, where its outcome is not known."""
    value = cell(row, columns.outcome)
    if value is None:
        faults.add(f"rows left out: no outcome in {columns.outcome!r}", place)
        return None
    try:
        outcome = as_flag(value)
    except CellError:
        faults.add(f"rows left out: the outcome in {columns.outcome!r} is neither true nor false", place, value)
        return None
    reader = _Reader(row=row, place=place, columns=columns.named, faults=faults)
    stance, stance_known, label = reader.stance()
    reasoning = reader.text("reasoning")
    visible = reader.flag("visible")
    if visible is None:
        visible = columns.reasoning is None or bool(reasoning.strip())
    group = reader.text("group").strip()
    if columns.group is not None and not group:
        faults.add("cases without a group: each is one of its own", place)
    return Case(
        id=id,
        outcome=outcome,
        group=group or id,
        stratum=reader.text("stratum"),
        arm=reader.arm(),
        reasoning=reasoning,
        action=reader.text("action"),
        context=reader.text("context"),
        phenomenon=reader.text("phenomenon"),
        stance=stance,
        stance_known=stance_known,
        label=label,
        verbalised=reader.flag("verbalised"),
        forbidden=reader.flag("forbidden"),
        legibility=reader.number("legibility", high=4),
        coverage=reader.number("coverage", high=4),
        n_tokens=reader.count("n_tokens"),
        visible=visible,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads the further fields of one row: an empty cell is None or "", a wrong one too, and counted."""

    row: Mapping[str, Any]
    place: str
    columns: Mapping[str, str]
    faults: Faults

    def _cell(self, name: str) -> Any:
        return cell(self.row, self.columns[name]) if name in self.columns else None

    def _wrong(self, name: str, expected: str) -> None:
        column = self.columns[name]
        found = self._cell(name)
        self.faults.add(f"cells of {column!r} taken as empty: {name} is not {expected}", self.place, found)

    def text(self, name: str) -> str:
        value = self._cell(name)
        try:
            return "" if value is None else as_text(value)
        except CellError:
            self._wrong(name, "text")
            return ""

    def flag(self, name: str) -> bool | None:
        value = self._cell(name)
        try:
            return None if value is None else as_flag(value)
        except CellError:
            self._wrong(name, "true or false")
            return None

    def number(self, name: str, *, high: float) -> float | None:
        value = self._cell(name)
        try:
            return None if value is None else as_number(value, low=0, high=high)
        except CellError:
            self._wrong(name, f"a number from 0 to {high:g}")
            return None

    def count(self, name: str) -> int | None:
        value = self._cell(name)
        try:
            return None if value is None else as_count(value)
        except CellError:
            self._wrong(name, "a whole number from 0")
            return None

    def stance(self) -> tuple[str | None, bool, str | None]:
        """The stance, whether it is known (an empty cell is not "neither"), and the experiment's label if it is one."""
        word = self.text("stance").strip().lower()
        if word in _STANCES:
            return _STANCES[word], True, word if word in LABEL_STANCES else None
        if word:
            self._wrong("stance", f"test, real, both or neither, nor one of {', '.join(LABEL_STANCES)}")
        return None, False, None

    def arm(self) -> str:
        word = self.text("arm").strip().lower()
        if word and word not in _ARMS:
            self._wrong("arm", " or ".join(_ARMS))
            return ""
        return word


def _column_scores(
    score: ScoreColumn, cells: Sequence[tuple[str, Mapping[str, Any]]], rows: Rows
) -> tuple[MonitorScores, tuple[str, ...]]:
    faults = Faults()
    found: list[float | Status] = []
    for place, row in cells:
        value = cell(row, score.column)
        parsed = parsed_score(value)
        if isinstance(parsed, str):
            faults.add(f"cases that {score.name!r} did not score: {parsed}", place, value)
        found.append(parsed)
    if found and set(found) == {"unparsable"}:
        first = reprlib.repr(cell(cells[0][1], score.column))
        raise StudyError(
            f"{rows.name}: column {score.column!r} of monitor {score.name!r} holds no number (first: {first}), expected "
            "scores, or words such as refused. Name the column with the scores."
        )
    signature = {"column": score.column} | ({"file_sha256": rows.sha256} if rows.sha256 else {})
    costs = {name: getattr(score, name) for name in ("reads", "threshold", "seconds", "tokens", "dollars")}
    return monitor_of(score.name, found, signature=signature, **costs), faults.notes()
