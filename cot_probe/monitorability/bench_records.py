"""What a benchmark found: its records, as a table (pyarrow), and as JSON and back."""

import dataclasses
import json
import math
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cot_probe.journal import write_whole
from cot_probe.monitorability.awareness import AwarenessTable
from cot_probe.monitorability.commands_given import DisobedienceTable
from cot_probe.monitorability.rows import StudyError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA: Final = "cot_probe.bench/1"
CurveKind = Literal["roc", "precision_recall", "reliability", "cascade"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number, never alone.

    Attributes:
        monitor: Whose number; "" where it is of the data, not of a monitor.
        metric: "auroc", "tpr_at_fpr_0.01", "g_mean_squared", "monitoring_value_at_0.05", ...
        slice: "all", or which part of the cases: "phenomenon=leak", "stratum=gpt-4o".
        value: The number; NaN where it is not defined on these cases.
        low: Lower end of the 95 % interval; NaN where there is none.
        high: Its upper end.
        n: Cases it was measured on.
        positives: Of these, cases with the misbehaviour.
        note: What a reader must know besides, such as "8 refusals counted as alarms".
    """

    monitor: str
    metric: str
    slice: str
    value: float
    low: float
    high: float
    n: int
    positives: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A curve of one monitor.

    ``x`` and ``y`` are false- and true-positive rate (roc), recall and precision (precision_recall), mean
    score and share of positives of a bin (reliability), share of judge calls and AUROC (cascade; the
    monitor is then named "first → judge"). ``low`` and ``high`` bound ``y``, empty where there is no interval.
    """

    monitor: str
    kind: CurveKind
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two monitors on the same cases: ``metric(first) - metric(second)``, with a paired 95 % interval.

    ``p`` is two-sided, ``p_holm`` corrected over all comparisons of the study (Holm 1979). ``needed`` is
    how many traces it would take to separate the two at 80 % power; None where no number would do.
    """

    metric: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    needed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """A study's figures, curves and comparisons, with what a reader must quote.

    Attributes:
        study: The study's name.
        outcome: What the outcome means, in words.
        n: Cases.
        positives: Cases with the misbehaviour.
        groups: Groups that the intervals resample.
        source: File to SHA-256, suite version.
        notes: What was left out or counted apart.
        signature: Versions, hashes, thresholds, seed, draws, policy for unscored cases.
        figures: All numbers.
        curves: For plots.
        comparisons: Monitors in pairs.
        awareness: Outcome by what the reasoning says of being tested, where that is known.
        deliberation: The same by the labels of the agentic-misalignment experiment, where they are known.
        disobedience: Outcome with and without an explicit command not to, where that is known.
    """

    study: str
    outcome: str
    n: int
    positives: int
    groups: int
    source: Mapping[str, str]
    notes: tuple[str, ...]
    signature: Mapping[str, str]
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...]
    comparisons: tuple[Comparison, ...]
    awareness: AwarenessTable | None = None
    deliberation: AwarenessTable | None = None
    disobedience: DisobedienceTable | None = None


class BenchFileError(StudyError):
    """A file that is no benchmark result: where, what was found, what was expected."""


def to_table(result: BenchResult) -> "pa.Table":
    """The figures as a pyarrow table, a row each (``.to_pandas()`` for pandas); what a reader must quote as metadata."""
    import pyarrow as pa

    texts, numbers, counts = pa.string(), pa.float64(), pa.int64()
    columns = {"monitor": texts, "metric": texts, "slice": texts, "value": numbers, "low": numbers, "high": numbers}
    columns |= {"n": counts, "positives": counts, "note": texts}
    about = {"study": result.study, "outcome": result.outcome, "source": dict(result.source)}
    about |= {"signature": dict(result.signature), "notes": list(result.notes)}
    schema = pa.schema(list(columns.items()), metadata={SCHEMA: json.dumps(about)})
    rows = [{name: _sound(getattr(one, name)) for name in columns} for one in result.figures]
    return pa.Table.from_pylist(rows, schema=schema)


def _sound(value: Any) -> Any:
    """Text without lone surrogates, which no Arrow column holds."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def write_json(result: BenchResult, path: Path) -> None:
    """Write a file that `read_json` reads back as it was."""
    write_whole(path, json.dumps(to_json(result), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> BenchResult:
    """Read what `write_json` wrote.

    Raises:
        BenchFileError: if it is anything else.
    """
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BenchFileError(
            f"{path}: not readable as JSON ({error}): give a results.json of `cot-probe bench`"
        ) from None
    return from_json(raw, str(path))


def to_json(result: BenchResult) -> dict[str, Any]:
    """A result as plain JSON data: nan is null, infinities are "inf" and "-inf"."""
    return {"schema": SCHEMA, **_plain(result)}


def from_json(raw: Any, place: str = "the result") -> BenchResult:
    """The reverse of `to_json`, validated.

    Raises:
        BenchFileError: with the field, what was found and what was expected.
    """
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else raw
        raise BenchFileError(
            f"{place}: schema is {reprlib.repr(found)}, expected {SCHEMA!r}: run `cot-probe bench` anew"
        )
    record: BenchResult = _read({key: value for key, value in raw.items() if key != "schema"}, BenchResult, place)
    return record


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _read(raw: Any, kind: Any, place: str) -> Any:
    """A value of a type, of its plain form; the types are those that the records here are made of."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = next(part for part in parts if part is not type(None))
        return None if raw is None else _read(raw, inner, place)
    if dataclasses.is_dataclass(kind):
        return _read_record(raw, kind, place)
    if origin is tuple and isinstance(raw, list):
        kinds = [parts[0]] * len(raw) if parts[-1] is ... else list(parts)
        if len(kinds) == len(raw):
            return tuple(
                _read(one, part, f"{place}[{at}]") for at, (one, part) in enumerate(zip(raw, kinds, strict=True))
            )
    if origin is not None and isinstance(raw, dict) and len(parts) == 2:
        return {key: _read(one, parts[1], f"{place}.{key}") for key, one in raw.items()}
    if kind is float and (raw is None or isinstance(raw, int | float | str)) and not isinstance(raw, bool):
        if raw is None or raw in ("inf", "-inf"):
            return math.nan if raw is None else float(raw)
        if not isinstance(raw, str) and abs(raw) <= sys.float_info.max:
            return float(raw)
    if (origin is Literal and raw in parts) or (isinstance(kind, type) and type(raw) is kind):
        return raw
    raise BenchFileError(f"{place} is {reprlib.repr(raw)}, expected {getattr(kind, '__name__', kind)}")


def _read_record(raw: Any, kind: Any, place: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(raw, dict) or raw.keys() != hints.keys():
        found = ", ".join(raw) if isinstance(raw, dict) else reprlib.repr(raw)
        raise BenchFileError(f"{place} has {found}, expected {', '.join(hints)}")
    return kind(**{name: _read(raw[name], hint, f"{place}.{name}") for name, hint in hints.items()})
