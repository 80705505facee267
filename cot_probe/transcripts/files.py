"""Files to traces: the containers (text, JSON, JSONL, gzip) and the one table of shapes.

Everything is streamed: a JSONL file is read a line at a time. Bad input is never guessed
at and never fatal: it comes out as a :class:`Rejection` in its place.
"""

import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from cot_probe.transcripts import chat, responses, rows
from cot_probe.transcripts.content import ShapeError
from cot_probe.transcripts.trace import Rejection, Source, Trace

MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
"""Largest single record (a JSONL line, or a whole JSON or text file) that is read."""
SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".txt", ".md", ".log", ".gz")
"""File names that a folder is searched for."""


class LineReader(Protocol):
    """What can be read by lines; ``size`` bounds the bytes of one."""

    def readline(self, size: int, /) -> bytes:
        """Return a line with its LF, or as much of it as ``size`` allows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A record shape: how to recognise it and how to read it."""

    name: str
    description: str
    sniff: Callable[[Any], bool]
    read: Callable[..., list[Trace]]


SHAPES: Final = (
    Shape(
        name="responses",
        description="OpenAI Responses: `output` items with `type: reasoning`",
        sniff=responses.sniff,
        read=responses.read,
    ),
    Shape(
        name="chat",
        description="OpenAI-style or Anthropic messages, chat completions with `choices`",
        sniff=chat.sniff,
        read=chat.read,
    ),
    Shape(
        name="rows",
        description="one object a trace, the reasoning in `reasoning`, `thinking`, `trace`, `cot`, `text`",
        sniff=rows.sniff,
        read=rows.read,
    ),
)
"""Tried in this order; the first that recognises a record reads it."""

TEXT_FORMAT: Final = "text"
FORMATS: Final = (*(shape.name for shape in SHAPES), TEXT_FORMAT)


def transcript_files(path: str | Path) -> list[Path]:
    """The file itself, or every transcript file below a folder, in name order; links are not followed."""
    place = Path(path)
    if not place.is_dir():
        return [place]
    return [
        child
        for child in sorted(place.rglob("*"))
        if child.is_file() and not child.is_symlink() and child.suffix.lower() in SUFFIXES
    ]


def read_path(
    path: str | Path, *, format: str | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[Trace | Rejection]:
    """Read a file, or every transcript file below a folder.

    Args:
        path: file or folder.
        format: force a record shape (one of ``FORMATS``) instead of sniffing.
        progress: called with the number of bytes, as they are read from the disk.
    """
    for place in transcript_files(path):
        try:
            with _open(place, progress) as stream:
                yield from read_stream(stream, name=str(place), format=format)
        except (OSError, EOFError, zlib.error) as error:
            yield Rejection(path=str(place), reason=f"cannot be read: {error}. Check that it exists and is whole.")


def read_stream(stream: BinaryIO, *, name: str, format: str | None = None) -> Iterator[Trace | Rejection]:
    """Read traces from an open binary stream; ``name`` stands for it in the output."""
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if format == TEXT_FORMAT or (format is None and suffix in {".txt", ".md", ".log"}):
        yield from _read_text(stream, name)
    elif suffix in {".jsonl", ".ndjson"}:
        yield from _read_lines(stream, name, format)
    else:
        yield from _read_unknown(stream, name, format)


def traces_of(record: Any, *, name: str = "record", number: int = 0, format: str | None = None) -> list[Trace]:
    """Turn one parsed record into traces.

    Raises:
        ShapeError: if no shape recognises it, or it breaks the shape it claims.
    """
    shapes = [shape for shape in SHAPES if shape.name == format] if format else list(SHAPES)
    for shape in shapes:
        if format or shape.sniff(record):
            try:
                traces = shape.read(record, Source(path=name, record=number), id=_id(record, name, number))
            except (AttributeError, KeyError, TypeError, IndexError) as error:
                raise ShapeError(f"does not have the {shape.name} shape that it seems to have ({error})") from error
            return traces
    raise ShapeError(
        f"no known shape: found {_describe(record)}, expected a field named one of "
        f"{', '.join(rows.ROW_FIELDS[:4])}, text, or messages, output or choices"
    )


def _open(path: Path, progress: Callable[[int], None] | None) -> BinaryIO:
    raw = io.BufferedReader(_Counted(path, progress))
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw


class _Counted(io.FileIO):
    """A file that says how many bytes were read from it."""

    def __init__(self, path: Path, progress: Callable[[int], None] | None) -> None:
        super().__init__(path, "rb")
        self._progress = progress

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        if self._progress is not None:
            self._progress(count)
        return count


def _read_unknown(stream: BinaryIO, name: str, format: str | None) -> Iterator[Trace | Rejection]:
    """JSON in one document, JSON lines, or text: told by trying, in that order."""
    data = stream.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        first = data.find(b"\n")
        if data.lstrip()[:1] != b"{" or first < 0 or not _parses(data[:first]):
            yield _too_large(name, None)
            return
        yield from _read_lines(_Joined(data, stream), name, format)
        return
    if name.lower().removesuffix(".gz").endswith(".json") or data.lstrip()[:1] in (b"{", b"["):
        yield from _read_document(data, name, format)
    else:
        yield from _read_text(io.BytesIO(data), name)


def _read_document(data: bytes, name: str, format: str | None) -> Iterator[Trace | Rejection]:
    try:
        record = parse_json(data)
    except ValueError as error:
        first = data.lstrip().split(b"\n", 1)[0]
        if _parses(first):
            yield from _read_lines(io.BytesIO(data), name, format)
        else:
            yield Rejection(path=name, reason=str(error))
        return
    whole = chat.sniff(record) or responses.sniff(record)
    many = record if isinstance(record, list) and not whole else [record]
    for number, item in enumerate(many):
        yield from _read_record(item, name, number, None, format)


def _read_lines(stream: LineReader, name: str, format: str | None) -> Iterator[Trace | Rejection]:
    number = 0
    for line_number, line in enumerate(_lines(stream), start=1):
        if line is None:
            yield _too_large(name, line_number)
        elif line.strip():
            try:
                record = parse_json(line)
            except ValueError as error:
                yield Rejection(path=name, line=line_number, record=number, reason=str(error))
            else:
                yield from _read_record(record, name, number, line_number, format)
        else:
            continue
        number += 1


def _read_record(
    record: Any, name: str, number: int, line: int | None, format: str | None
) -> Iterator[Trace | Rejection]:
    try:
        yield from traces_of(record, name=name, number=number, format=format)
    except ShapeError as error:
        yield Rejection(path=name, line=line, record=number, reason=str(error))


def _read_text(stream: BinaryIO, name: str) -> Iterator[Trace | Rejection]:
    data = stream.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        yield _too_large(name, None)
        return
    try:
        text = decode(data)
    except ValueError as error:
        yield Rejection(path=name, reason=str(error))
        return
    yield from rows.read_text(text, Source(path=name, record=0), id=Path(name).stem)


def _lines(stream: LineReader) -> Iterator[bytes | None]:
    """Lines split on LF alone; None for one that is over the bound (it is skipped whole)."""
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        if len(line) <= MAX_RECORD_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_RECORD_BYTES)
        yield None


class _Joined:
    """The part of a stream already read, then the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def readline(self, size: int, /) -> bytes:
        line = self._head.readline(size)
        return line if line.endswith(b"\n") else line + self._rest.readline(size - len(line))


def decode(data: bytes) -> str:
    """Decode UTF-8 (with or without BOM), or say where it breaks."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}. Convert the file, e.g. with iconv."
        ) from None


def parse_json(data: bytes) -> Any:
    """Parse JSON; NaN and infinities, which JSON does not know, become null."""
    try:
        return json.loads(decode(data), parse_constant=lambda _: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("JSON nested too deep to be a transcript") from None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _parses(line: bytes) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _too_large(name: str, line: int | None) -> Rejection:
    limit = MAX_RECORD_BYTES // (1024 * 1024)
    return Rejection(path=name, line=line, reason=f"a single record of over {limit} MiB: split it, one trace a record")


def _id(record: Any, name: str, number: int) -> str:
    if isinstance(record, Mapping):
        for key in ("id", "trace_id", "sample_id", "uuid"):
            if isinstance(record.get(key), str | int) and str(record[key]):
                return str(record[key])
    return f"{Path(name).stem}:{number}"


def _describe(record: Any) -> str:
    if isinstance(record, Mapping):
        return f"an object with keys {', '.join(sorted(map(str, record))[:8]) or '(none)'}"
    if isinstance(record, list):
        kinds = sorted({type(item).__name__ for item in record})
        return f"a list of {len(record)} ({', '.join(kinds) or 'empty'})"
    return f"a bare {type(record).__name__}"
