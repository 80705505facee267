"""Cases and our own scores from the results of ``cot-probe tag``, joined with outcomes by id."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cot_probe.journal import beside, sha256_of
from cot_probe.monitorability.awareness import Label, label_of
from cot_probe.monitorability.rows import Faults, Rows, StudyError, has, read_rows
from cot_probe.monitorability.study import MonitorScores, Study, monitor_of
from cot_probe.monitorability.study_reading import Columns, keyed_rows, study_of_rows
from cot_probe.results import ResultsError, is_readable, read_results
from cot_probe.taxonomy import STANCES

_PRIVATE: Final = "cot_probe:"
"""Before the names of what a result says, so that no column of an outcomes file is mistaken for it."""
_OWN: Final = ("reasoning", "action", "context", "n_tokens", "visible", "stance")
_FROM_METADATA: Final = {"group": "scenario", "stratum": "model"}


def is_results_file(path: Path) -> bool:
    """Whether a file is one of results of ``cot-probe tag``, by its first row."""
    try:
        return next(iter(read_results(path, sentences=False)), None) is not None
    except (ResultsError, OSError):
        return False


def join_results(
    results: str | Path,
    outcomes: str | Path | Any | None,
    columns: Columns,
    *,
    name: str | None = None,
    outcome: str | None = None,
) -> Study:
    """A study of tagged traces: what a trace says from the results, its outcome from a table or from its metadata.

    ``columns`` are those of the outcomes; a name that stands there nowhere is looked for in the traces' metadata.
    Unless they are named, reasoning, action, context, length and stance are those of the result, the group is the
    scenario in the metadata and the stratum the model. A result without an outcome is left out and counted; an
    outcome without a result is a case that nobody could read, and counted too.

    Args:
        results: JSON lines or Parquet, as ``cot-probe tag -o`` writes them.
        outcomes: Anything that `read_rows` reads, with an id as in the results; None where metadata has them.
        columns: Which column holds what (``id`` defaults to "id").
        name: The study's name (default: that of the results file).
        outcome: What the outcome means, in words (default: the column's name).

    Raises:
        StudyError: if files cannot be read or no case is left.
    """
    path = Path(results)
    columns = dataclasses.replace(columns, id=columns.id or "id")
    faults = Faults()
    found = _results(path, faults)
    known, given = _outcomes(outcomes, columns, found, faults)
    merged = []
    partial = 0
    for id in dict.fromkeys((*given, *found)):
        place, cells = given.get(id, ("", {}))
        result = found.get(id)
        if result is None:
            faults.add("cases without a result: nobody could read them", place, id)
            merged.append((place, {**cells, str(columns.id): id, _PRIVATE + "visible": False}))
            continue
        own = _own_cells(result)
        partial += own[_PRIVATE + "visible"] and not own[_PRIVATE + "reasoning"]
        # An empty cell of the table stays empty, whatever the metadata says under the same name.
        metadata = {key: value for key, value in result["metadata"].items() if key not in known}
        merged.append((place or f"result {id!r}", {**metadata, **cells, **own, str(columns.id): id}))
    rows = Rows(name=str(path), sha256=sha256_of(path) or "", columns=_names(merged), rows=tuple(merged), rejected=())
    notes = faults.notes()
    if partial:
        notes += (f"the results hold no whole text of {partial} cases (evidence only): no baseline can read these",)
    study = study_of_rows(rows, _completed(columns, rows), name=name, outcome=outcome, notes=notes)
    source = dict(study.source)
    if isinstance(outcomes, str | Path):
        source[Path(outcomes).name] = sha256_of(Path(outcomes)) or ""
    return dataclasses.replace(study, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScores:
    """What our tagger says of the cases of a study.

    Attributes:
        monitors: One a tag.
        stances: Case to "test", "real", "both" or None for neither, where reasoning was read.
        labels: Case to the agentic-misalignment experiment's label, for the same cases.
        told_by: Name and digest of the checkpoint.
        notes: On what did not match.
    """

    monitors: tuple[MonitorScores, ...]
    stances: Mapping[str, str | None]
    labels: Mapping[str, Label]
    told_by: str
    notes: tuple[str, ...] = ()


def results_scores(study: Study, results: str | Path, tags: Sequence[str] = ("strategic_harm",)) -> OwnScores:
    """Our scores from a results file, a monitor a tag.

    The threshold is that of the run, where its manifest lies beside the file. A trace in which nothing could be
    read has no score: it is "missing", whatever number stands in the file.

    Raises:
        StudyError: if the file cannot be read, has no such tag, or holds none of the cases.
    """
    path = Path(results)
    faults = Faults()
    found = _results(path, faults)
    known: Mapping[str, float] = next((row["scores"] for row in found.values()), {})
    unknown = next((tag for tag in tags if tag not in known), None)
    if known and unknown is not None:
        raise StudyError(f"{path}: no tag {unknown!r}: found {', '.join(known)}. Name one of these.")
    matched = [found.get(case.id) for case in study.cases]
    if not any(matched):
        example = f"{study.cases[0].id!r} there, {next(iter(found), '')!r} here" if study.cases else "no case"
        raise StudyError(f"{path}: no result has the id of a case ({example}): give results of the same traces")
    for case, row in zip(study.cases, matched, strict=True):
        if row is None:
            faults.add(f"cases without a result in {path.name}", case.id)
    told_by = ", ".join(sorted({row["checkpoint"] for row in found.values()}))
    signature = {"checkpoint": told_by, "results_sha256": sha256_of(path) or ""}
    readable = [row if row is not None and is_readable(row) else None for row in matched]
    monitors = [
        monitor_of(
            f"cot_probe {tag}",
            ["missing" if row is None else float(row["scores"][tag]) for row in readable],
            signature=signature | {"tag": tag},
            reads="reasoning",
            threshold=_threshold(path, tag),
            tokens=sum(row["n_tokens"] for row in matched if row is not None),
        )
        for tag in tags
    ]
    asked = [row for row in readable if row is not None] if set(STANCES) <= set(known) else []
    return OwnScores(
        monitors=tuple(monitors),
        stances={row["id"].strip(): row["stance"] for row in asked},
        labels={row["id"].strip(): label_of(row["stance"], (one["tags"] for one in row["sentences"])) for row in asked},
        told_by=told_by,
        notes=faults.notes(),
    )


def _results(path: Path, faults: Faults) -> dict[str, Mapping[str, Any]]:
    """Results by id; of those that share one, none is taken."""
    found: dict[str, Mapping[str, Any]] = {}
    twice: set[str] = set()
    try:
        for number, row in enumerate(read_results(path)):
            id = row["id"].strip()
            if id in found:
                faults.add(f"results in {path.name} left out: several have the same id", f"row {number}", id)
                twice.add(id)
            found[id] = row
    except (ResultsError, OSError) as error:
        raise StudyError(f"{path}: not results of `cot-probe tag`: {error}") from None
    return {id: row for id, row in found.items() if id not in twice}


def _outcomes(
    outcomes: Any, columns: Columns, found: Mapping[str, Mapping[str, Any]], faults: Faults
) -> tuple[frozenset[str], dict[str, tuple[str, Mapping[str, Any]]]]:
    """The columns of the table of outcomes, and its rows by id."""
    if outcomes is None:
        return frozenset(), {}
    rows = read_rows(outcomes)
    rows.require([str(columns.id)])
    for rejected in rows.rejected:
        faults.add("rows of outcomes could not be read", rejected)
    given = keyed_rows(rows, columns.id, faults)
    if not set(given) & set(found):
        example = f"{next(iter(given), '')!r} there, {next(iter(found), '')!r} in the results"
        raise StudyError(f"{rows.name}: no id is that of a result ({example}): name the right column with --id")
    return frozenset(rows.columns), given


def _own_cells(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the result says of its trace, under private names."""
    readable = is_readable(result)
    text = "".join(sentence["text"] for sentence in result["sentences"])
    end = max((block["end"] for block in result["blocks"]), default=0)
    known = readable and set(STANCES) <= set(result["scores"])
    values = {
        "reasoning": text if len(text) == end else "",
        "action": "\n\n".join(block["action"] for block in result["blocks"] if block["action"]),
        "context": result["context"],
        "n_tokens": result["n_tokens"],
        "visible": readable,
        "stance": (result["stance"] or "neither") if known else None,
    }
    return {_PRIVATE + name: value for name, value in values.items()}


def _names(merged: list[tuple[str, dict[str, Any]]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, cells in merged for name in cells if not name.startswith(_PRIVATE)))


def _completed(columns: Columns, rows: Rows) -> Columns:
    """The columns, and for fields that nobody named what the results say."""
    names = {field: _PRIVATE + field for field in _OWN} | _FROM_METADATA
    own: dict[str, Any] = {
        field: name
        for field, name in names.items()
        if getattr(columns, field) is None and any(has(cells, name) for _, cells in rows.rows)
    }
    return dataclasses.replace(columns, **own)


def _threshold(path: Path, tag: str) -> float | None:
    """The run's own threshold, from the manifest beside the results; None where there is none."""
    try:
        manifest = json.loads(beside(path, "manifest.json").read_bytes())
        value = manifest["settings"]["thresholds"][tag]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
