"""Rows of a file or of a table in memory, for whatever is scored here: CSV, JSON, Parquet, pandas, pyarrow.

A cell is read as one of a few kinds and never guessed at: what does not fit its kind is a fault, counted
in `Faults` and told with the place of the first.
"""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cot_probe.journal import sha256_of
from cot_probe.transcripts.containers import (
    READ_ERRORS,
    TranscriptFile,
    UnreadableError,
    json_lines,
    open_transcript,
    parse_json,
    read_whole,
)
from cot_probe.transcripts.table_rows import SUFFIXES, Row, kind_of, open_table
from cot_probe.transcripts.trace import Rejection, shortened

_FLAGS: Final = dict.fromkeys(("true", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "no", "0", "0.0"), False)
_MOST_COLUMNS: Final = 40


class StudyError(ValueError):
    """A study that cannot be made of what was given: where, what was found, what was expected, what to do."""


class CellError(ValueError):
    """A cell that is not of its kind; the text says what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows as they were read.

    Attributes:
        name: The file's path, or "table".
        sha256: Of the file's bytes; "" for a table in memory.
        columns: Every name that a row has, in the order of first sight.
        rows: Place ("line 7", "row 6") and cells but for the null ones.
        rejected: What could not be read as a row, with its place.
    """

    name: str
    sha256: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, Any]], ...]
    rejected: tuple[str, ...]

    def require(self, names: Iterable[str]) -> None:
        """Refuse names that no row has.

        Raises:
            StudyError: with the columns that there are.
        """
        missing = [name for name in names if not any(has(cells, name) for _, cells in self.rows)]
        # A column whose cells are all empty is there all the same.
        missing = [name for name in missing if name not in self.columns]
        if missing:
            found = shortened(", ".join(self.columns[:_MOST_COLUMNS]), 1_000) or "no column at all"
            raise StudyError(f"{self.name}: no column {missing[0]!r}: found {found}. Name one of these.")


@dataclass(slots=True)
class Faults:
    """Counts of what was wrong, each kind with its first place."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, place: str, found: Any = None) -> None:
        """Count one fault of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, place if found is None else f"{place}: {reprlib.repr(found)}")

    def notes(self) -> tuple[str, ...]:
        """One line a kind: how many, what, and where first."""
        return tuple(f"{count} {kind} (first: {self.first[kind]})" for kind, count in self.counts.items())


def read_rows(source: str | Path | Any) -> Rows:
    """All rows of a file (CSV, TSV, JSON lines, a JSON list, Parquet, Arrow; compressed or not) or of a table.

    A table in memory is a pandas DataFrame, a pyarrow Table, or a sequence of mappings.

    Raises:
        StudyError: if it is none of these, or cannot be read at all.
    """
    if not isinstance(source, str | Path):
        return _of_table(source)
    path = Path(source)
    kept: list[tuple[str, Mapping[str, Any]]] = []
    rejected: list[str] = []
    columns: dict[str, None] = {}
    try:
        with (file := open_transcript(path)).stream:
            for item in _items(file, columns):
                if isinstance(item, Rejection):
                    rejected.append(str(item))
                else:
                    columns |= dict.fromkeys(item[1])
                    kept.append(item)
    except READ_ERRORS as error:
        said = str(error).rstrip(".")
        raise StudyError(f"{path}: cannot be read: {said}. Give CSV, JSON lines or Parquet.") from None
    return Rows(
        name=str(path),
        sha256=sha256_of(path) or "",
        columns=tuple(columns),
        rows=tuple(kept),
        rejected=tuple(rejected),
    )


def _items(file: TranscriptFile, columns: dict[str, None]) -> Iterator[tuple[str, Mapping[str, Any]] | Rejection]:
    if kind_of(file) is not None or file.suffix in SUFFIXES:
        table = open_table(file)
        columns |= dict.fromkeys(table.columns)
        for row in table.rows:
            yield row if isinstance(row, Rejection) else (_place(row), row.cells)
        return
    begin = file.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begin == b"[":
        for number, record in enumerate(_listed(file)):
            yield _record(record, f"item {number}", file.name, number)
        return
    if begin != b"{":
        raise UnreadableError(f"begins with {file.head[:20]!r}, and its name does not end in .csv")
    for line in json_lines(file.stream, file.name):
        if isinstance(line, Rejection):
            yield line
        else:
            yield _record(line[2], f"line {line[0]}", file.name, line[1])


def _listed(file: TranscriptFile) -> Sequence[Any]:
    found = parse_json(read_whole(file))
    return found if isinstance(found, list) else [found]


def _record(record: Any, place: str, name: str, number: int) -> tuple[str, Mapping[str, Any]] | Rejection:
    if not isinstance(record, dict):
        return Rejection(path=name, record=number, reason=f"{place} is {reprlib.repr(record)}, expected an object")
    return place, {key: value for key, value in record.items() if value is not None}


def _place(row: Row) -> str:
    return f"line {row.line}" if row.line is not None else f"row {row.number}"


def _of_table(table: Any) -> Rows:
    if hasattr(table, "to_pylist") and hasattr(table, "column_names"):
        records: Any = table.to_pylist()
        names = list(table.column_names)
    elif hasattr(table, "to_dict") and hasattr(table, "columns"):
        records, names = table.to_dict("records"), [str(name) for name in table.columns]
    elif isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        records, names = table, []
    else:
        raise StudyError(f"{type(table).__name__}: expected a path, a DataFrame, a pyarrow Table or a list of mappings")
    rows = tuple((f"row {number}", _without_null(record)) for number, record in enumerate(records))
    columns = dict.fromkeys(names) | dict.fromkeys(name for _, cells in rows for name in cells)
    return Rows(name="table", sha256="", columns=tuple(columns), rows=rows, rejected=())


def _without_null(record: Mapping[Any, Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, value in record.items():
        plain = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
        # pandas has a null of its own, the only scalar besides nan that is not equal to itself.
        if plain is not None and type(plain).__name__ not in {"NAType", "NaTType"}:
            cells[str(name)] = plain
    return cells


def has(cells: Mapping[str, Any], name: str) -> bool:
    """Whether the row has a cell of this name that is not null."""
    return cell(cells, name) is not None


def cell(cells: Mapping[str, Any], name: str) -> Any:
    """A cell by its name, or by its path where objects are nested ("scores.harm"); None where it is empty."""
    value: Any = cells.get(name)
    if value is None and "." in name:
        value = cells
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str) and not value.strip():
        return None
    return None if isinstance(value, float) and math.isnan(value) else value


def as_flag(value: Any) -> bool:
    """True or false: a boolean, 0 or 1, or such a word.

    Raises:
        CellError: for anything else.
    """
    if isinstance(value, bool):
        return value
    found = _FLAGS.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None
    if found is None:
        raise CellError(reprlib.repr(value))
    return found


def as_number(value: Any, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within bounds, or text that is one.

    Raises:
        CellError: for anything else.
    """
    if isinstance(value, bool):
        number = float(value)
    elif isinstance(value, int | float | str):
        try:
            number = math.nan if isinstance(value, str) and "_" in value else float(value)
        except (ValueError, OverflowError):
            raise CellError(reprlib.repr(value)) from None
    else:
        raise CellError(reprlib.repr(value))
    if not math.isfinite(number) or not low <= number <= high:
        raise CellError(reprlib.repr(value))
    return number


def as_count(value: Any) -> int:
    """A whole number from 0.

    Raises:
        CellError: for anything else.
    """
    number = as_number(value, low=0)
    if number != int(number):
        raise CellError(reprlib.repr(value))
    return int(number)


def as_text(value: Any) -> str:
    """Text; a number or flag as it is written.

    Raises:
        CellError: for a list or an object.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        # An id column with a gap comes out of pandas as floats.
        whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
        return str(int(value)) if whole else str(value)
    raise CellError(reprlib.repr(value))
