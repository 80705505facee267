"""Results as rows: the schema of a tagged trace, and the files that hold it (JSONL, Parquet).

A file holds one row a trace, in the order of reading, as :meth:`TaggedTrace.as_dict` gives it.
Offsets are characters from 0 and half-open, numbers of records, messages and turns count from 0.
Every row has every key but the last:

- ``schema`` (text): :data:`SCHEMA`, the name and version of this list.
- ``id`` (text): names the trace within its file.
- ``source`` (object): ``path`` of the transcript file (text or null), number of the ``record`` in it
  and of the first ``message`` with reasoning (integers or null), ``format`` that read it (text or null).
- ``visibility`` (text): of the reasoning, at best: ``full``, ``summary``, ``redacted`` or ``absent``.
- ``context`` (text): what the model was told, may be empty; ``n_tokens`` (integer) of reasoning read.
- ``tags`` (list of text): tags that reach their threshold, in the taxonomy's order.
- ``stance`` (text or null): ``test``, ``real`` or ``both``: what it says that its situation is.
- ``harm_kind`` (text or null): the kind with the most evidence, where one of the tags has kinds.
- ``scores`` (object): tag -> calibrated probability in [0, 1]; all 0 where nothing could be read.
- ``sentences`` (list of objects): in order, all of them or those with a tag. ``start``, ``end``
  (integers) into the trace's text, ``text``, ``scores`` (label -> probability), ``tags`` (list of
  text), ``harm_kind`` (text; the key is absent where there is none).
- ``blocks`` (list of objects): of reasoning, in order. ``start``, ``end`` (integers) into the trace's
  text, equal where nothing can be read; ``message`` (integer or null), ``field`` (text: path to the
  string in that message), ``source_start`` (integer, into that string), ``visibility`` (text),
  ``turn`` of the model (integer or null), ``action`` (text: what the model did next),
  ``context_end`` (integer or null: how much of ``context`` had been said by then).
- ``unfamiliar`` (object or null): text of a kind that the checkpoint does not read. ``score`` (number
  in [0, 1]), ``reasons`` (list of text), ``spans`` (list of objects: ``start``, ``end``, ``form``).
- ``checkpoint`` (text): name and digest of what gave the scores.
- ``metadata`` (object): any JSON that the record carried; ``model`` and ``scenario`` where known.
- ``passed`` (integer; the key is absent where it is none): sentences that a first stage let pass and the
  encoder did not read (:mod:`cot_probe.first_stage`); ``checkpoint`` then ends in ``+cascade``.

A Parquet file has a column for each key, nested as above, ``metadata`` as JSON, and besides:

- ``readable`` (bool): there was reasoning to read. ``score_<tag>`` (double), ``tagged_<tag>``
  (bool): null where there was none, so that a mean over them leaves unread traces out.
- Columns that Inspect Scout's results have too, by its names and types: ``transcript_id`` (our
  ``id``: unique within its file only), ``transcript_source_uri`` (the path as given),
  ``transcript_model``, ``transcript_task_set`` (the scenario), ``scanner_name``,
  ``scanner_version`` (that of the schema), ``input_type``, ``uuid`` (follows from checkpoint,
  source, id and tags), ``value`` (JSON array of the tags; null where nothing could be read),
  ``value_type``, ``answer`` (the tags, with commas), ``explanation`` (the strongest evidence),
  ``message_references`` (JSON; ``id`` is the message's number as text, not an id of its own;
  ``cite`` counts from 1). ``metadata`` is not Scout's: it is the trace's (there
  ``transcript_metadata``), not the result's. Scout's other columns are not there.
- ``row_json``: null, save where text has lone surrogates, which UTF-8 cannot hold: then the row
  as JSON, and the other columns have U+FFFD in their place.
"""

import heapq
import json
import math
import re
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cot_probe.journal import json_line
from cot_probe.result_rows import ANY_ROW, INTEGER, NUMBER, TEXT, arrow_type, fault, row_shape, said
from cot_probe.tagger import SCHEMA
from cot_probe.transcripts.containers import READ_ERRORS, open_transcript
from cot_probe.transcripts.trace import shortened

_MAX_ROW_BYTES: Final = 1 << 30
"""Longest line that is read: a row is several times as long as the trace's text."""
_READ_ROWS, _GROUP_ROWS, _GROUP_CHARS = 128, 1_000, 8_000_000
"""Rows read at once; a row group is written when it holds so many rows, or rows of so many characters."""
_EVIDENCE, _EVIDENCE_CHARS = 8, 300
"""How many sentences ``explanation`` shows, and how much of each."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "cot_probe.tagged_trace")


class ResultsError(ValueError):
    """A results file or row that breaks the schema: where, what was found, what was expected."""


_SCOUT_COLUMNS: Final = (
    dict.fromkeys(("transcript_id", "transcript_source_uri", "transcript_model", "transcript_task_set"), TEXT)
    | {"scanner_name": TEXT, "scanner_version": INTEGER, "input_type": TEXT, "uuid": TEXT, "value": TEXT}
    | dict.fromkeys(("value_type", "answer", "explanation", "message_references"), TEXT)
)
_PLACES: Final = ("source_record", "number", "start", "end", "message", "turn", "source_start", "source_end")
_SENTENCE_COLUMNS: Final = (
    dict.fromkeys(("trace", "source_path", "text", "harm_kind", "field", "visibility", "checkpoint"), TEXT)
    | dict.fromkeys(_PLACES, INTEGER)
    | {"tags": pa.list_(TEXT)}
)
"""Columns of a table of sentences, besides ``score_<label>``."""


def read_results(path: str | Path, *, sentences: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of a results file: JSON lines (also gzip or zstd) or Parquet, told by its first bytes.

    Without ``sentences``, these are left empty, which is much faster where traces are long.

    Raises:
        ResultsError: at the first row that does not have the schema, or where the file is damaged.
        OSError: if it cannot be opened.
    """
    place = Path(path)
    with place.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    yield from _parquet_rows(place, sentences) if parquet else _json_rows(place, sentences)


def write_parquet(
    rows: Iterable[Mapping[str, Any]], out: Path, *, taxonomy_tags: Sequence[str], taxonomy_labels: Sequence[str]
) -> int:
    """Write rows to a Parquet file, a row group at a time; return how many there were.

    The file appears under its name only once it is complete. Tags and labels are those of the
    checkpoint's taxonomy: the columns of its scores.

    Raises:
        ResultsError: if a row does not have the schema or these scores.
    """
    shape = row_shape(dict.fromkeys(taxonomy_tags, float), dict.fromkeys(taxonomy_labels, float))
    columns = {key: arrow_type(kind) for key, kind in shape.items()} | {"readable": pa.bool_()}
    columns |= {f"score_{tag}": NUMBER for tag in taxonomy_tags}
    columns |= {f"tagged_{tag}": pa.bool_() for tag in taxonomy_tags}
    columns |= _SCOUT_COLUMNS | {"row_json": TEXT}
    records = (_record(row, shape, f"row {number}") for number, row in enumerate(rows))
    return _write_table(records, out, columns)


def is_readable(row: Mapping[str, Any]) -> bool:
    """Whether there was reasoning to read (sentences do not tell: a file may hold evidence only)."""
    return any(block["end"] > block["start"] for block in row["blocks"])


def sentence_rows(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The sentences of a row, flat, one a row: for tables, search and labelling.

    Keys: ``trace`` (its id), ``source_path``, ``source_record``, ``number`` (from 0, among the
    sentences that the row holds), ``start``, ``end`` (characters into the trace's text), ``text``,
    ``tags``, ``harm_kind`` (or null); where it stands in the transcript: ``message``, ``turn``,
    ``field``, ``source_start``, ``source_end`` (characters into the string in that field),
    ``visibility``; ``checkpoint``; and ``score_<label>``.
    """
    blocks = [block for block in row["blocks"] if block["end"] > block["start"]]
    starts = [block["start"] for block in blocks]
    for number, sentence in enumerate(row["sentences"]):
        block = blocks[max(0, bisect_right(starts, sentence["start"]) - 1)] if blocks else {}
        out: dict[str, Any] = {
            "trace": row["id"],
            "source_path": row["source"]["path"],
            "source_record": row["source"]["record"],
            "number": number,
            **{key: sentence[key] for key in ("start", "end", "text", "tags")},
            "harm_kind": sentence.get("harm_kind"),
            **{key: block.get(key) for key in ("message", "turn", "field")},
        }
        for end in ("start", "end"):  # of a sentence with the blank line between two blocks, only what is in the first
            inside = min(sentence[end], block["end"]) - block["start"] if block else 0
            out[f"source_{end}"] = block["source_start"] + inside if block else None
        out |= {"visibility": block.get("visibility"), "checkpoint": row["checkpoint"]}
        yield out | {f"score_{label}": score for label, score in sentence["scores"].items()}


def write_sentences(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write the sentences of result rows to a ``.jsonl`` or ``.parquet`` file; return how many there were.

    The file appears under its name only once it is complete. In Parquet, lone surrogates in
    text become U+FFFD (offsets stay as they are).

    Raises:
        ResultsError: if the name ends otherwise, or sentences have scores of different names.
    """
    sentences = (sentence for row in rows for sentence in sentence_rows(row))
    if out.suffix.lower() == ".jsonl":
        with _appearing(out) as unfinished, unfinished.open("wb") as sink:
            return sum(1 for sentence in sentences if sink.write(json_line(sentence)))
    if out.suffix.lower() != ".parquet":
        raise ResultsError(f"{out}: the name ends in {out.suffix!r}, expected .jsonl or .parquet: rename the output")
    first = next(sentences, None)
    columns = {**dict.fromkeys(first or (), NUMBER), **_SENTENCE_COLUMNS}

    def records() -> Iterator[tuple[dict[str, Any], int]]:
        for sentence in chain([first] if first else [], sentences):
            if sentence.keys() != columns.keys():
                found, expected = (", ".join(names.keys() - _SENTENCE_COLUMNS) for names in (sentence, columns))
                raise ResultsError(f"trace {sentence['trace']!r}: a sentence has {found}, expected {expected}")
            line = json.dumps(sentence, ensure_ascii=False)
            yield json.loads(_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", line)), len(line)

    return _write_table(records(), out, columns)


def _json_rows(path: Path, sentences: bool) -> Iterator[dict[str, Any]]:
    try:
        with open_transcript(path).stream as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MAX_ROW_BYTES), b""), start=1):
                if line.strip():
                    place = f"{path}:{number}"
                    yield _known(_parsed(line, place), place, sentences)
    except READ_ERRORS as error:
        raise ResultsError(f"{path}: cannot be read on: {error}. Check that it is whole.") from None


def _parsed(data: str | bytes, place: str) -> Any:
    """Parse JSON; NaN and infinities, which JSON does not know, become null."""
    try:
        return json.loads(data, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{place}: found no JSON ({error}), expected {SCHEMA}: mend it or tag again") from None


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def _parquet_rows(path: Path, sentences: bool) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "schema" not in names:
                found = shortened(", ".join(names), 200)
                raise ResultsError(f"{path}: found columns {found}; expected those of {SCHEMA}: give a results file")
            wanted = [key for key in (*ANY_ROW, "row_json") if key in names and (sentences or key != "sentences")]
            for batch in file.iter_batches(batch_size=_READ_ROWS, columns=wanted):
                for record in batch.to_pylist():
                    place = f"{path}, row {number}"
                    yield _known(_from_record(record, place), place, sentences)
                    number += 1
    except pa.ArrowException as error:
        raise ResultsError(f"{path}: not readable as Parquet after {number} rows: {error}") from None


def _known(row: Any, place: str, sentences: bool) -> dict[str, Any]:
    """The row itself, checked; without its sentences where these are not wanted."""
    found = row.get("schema") if isinstance(row, dict) else row
    if found != SCHEMA:
        raise ResultsError(
            f"{place}: schema is {said(found)}, expected {SCHEMA!r}: give a results file, or tag the transcripts "
            "again with this version of cot-probe"
        )
    known: dict[str, Any] = row if sentences else row | {"sentences": []}
    _check(known, ANY_ROW, place)
    return known


def _check(row: Any, shape: Mapping[str, Any], place: str) -> None:
    if wrong := fault(row, shape):
        where, found, expected = wrong
        raise ResultsError(f"{place}: {where.lstrip('.') or 'the row'} is {found}, expected {expected}")
    for at, part in [("", row), *((f"sentences[{n}].", some) for n, some in enumerate(row["sentences"]))]:
        unknown = next((tag for tag in part["tags"] if tag not in part["scores"]), None)
        if unknown is not None:
            raise ResultsError(f"{place}: {at}tags holds {unknown!r}, expected one of {', '.join(part['scores'])}")


def _record(row: Mapping[str, Any], shape: Mapping[str, Any], place: str) -> tuple[dict[str, Any], int]:
    """A row as the record of a Parquet file, and about how many characters it has."""
    _check(row, shape, place)
    try:
        line = json.dumps(row, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultsError(f"{place}: metadata is not JSON ({error}), expected texts, numbers and the like") from None
    sound = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", line)
    plain = row if sound == line else json.loads(sound)
    readable = is_readable(plain)
    record = {**plain, **_scout_columns(plain, readable), "readable": readable}
    record["metadata"] = json.dumps(_parsed(json.dumps(plain["metadata"]), place), ensure_ascii=False)
    record["row_json"] = None if sound == line else json.dumps(row)
    if readable:
        record |= {f"score_{tag}": score for tag, score in plain["scores"].items()}
        record |= {f"tagged_{tag}": tag in plain["tags"] for tag in plain["scores"]}
    return record, len(line)


def _from_record(record: dict[str, Any], place: str) -> Any:
    """The reverse of :func:`_record`."""
    exact, metadata = record.pop("row_json", None), record.get("metadata")
    if exact is not None:
        return _parsed(exact, f"{place}, row_json")
    if isinstance(metadata, str):
        record["metadata"] = _parsed(metadata, f"{place}, metadata")
    if record.get("passed", 0) is None:
        del record["passed"]
    for sentence in record.get("sentences") or ():
        if isinstance(sentence, dict) and sentence.get("harm_kind", "") is None:
            del sentence["harm_kind"]
    return record


def _scout_columns(row: Mapping[str, Any], readable: bool) -> dict[str, Any]:
    """The columns that Inspect Scout has too; see the module's docstring."""
    evidence = [some for some in row["sentences"] if some["tags"]]
    strongest = heapq.nlargest(_EVIDENCE, evidence, key=lambda some: max(some["scores"][tag] for tag in some["tags"]))
    shown = sorted(strongest, key=lambda some: some["start"])
    messages = [sentence["message"] for sentence in sentence_rows({**row, "sentences": shown})]
    lines = [] if readable else [f"nothing to read: reasoning {row['visibility']}"]
    for sentence, message in zip(shown, messages, strict=True):
        scores = ", ".join(f"{tag} {sentence['scores'][tag]:.2f}" for tag in sentence["tags"])
        cite = "" if message is None else f"[M{message + 1}] "
        lines.append(f"{cite}{scores}: {shortened(sentence['text'].strip(), _EVIDENCE_CHARS)}")
    known = sorted({message for message in messages if message is not None})
    cited = [{"type": "message", "cite": f"[M{message + 1}]", "id": str(message)} for message in known]
    named = {name: row["metadata"].get(name) for name in ("model", "scenario")}
    identity = [row["checkpoint"], row["source"], row["id"], row["tags"]]
    return {
        "transcript_id": row["id"],
        "transcript_source_uri": row["source"]["path"],
        "transcript_model": named["model"] if isinstance(named["model"], str) else None,
        "transcript_task_set": named["scenario"] if isinstance(named["scenario"], str) else None,
        "scanner_name": "cot_probe",
        "scanner_version": int(SCHEMA.rpartition("/")[2]),
        "input_type": "transcript",
        "uuid": str(uuid.uuid5(_NAMESPACE, json.dumps(identity, sort_keys=True))),
        "value": json.dumps(row["tags"], ensure_ascii=False) if readable else None,
        "value_type": "array" if readable else "null",
        "answer": ", ".join(row["tags"]) if readable else None,
        "explanation": "\n".join(lines) or None,
        "message_references": json.dumps(cited),
    }


def _write_table(records: Iterable[tuple[dict[str, Any], int]], out: Path, columns: Mapping[str, pa.DataType]) -> int:
    """Write records, given with their size in characters, in row groups; return how many there were."""
    schema = pa.schema(list(columns.items()))
    group: list[dict[str, Any]] = []
    count = size = 0
    with _appearing(out) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for record, chars in records:
            group.append(record)
            count, size = count + 1, size + chars
            if len(group) >= _GROUP_ROWS or size >= _GROUP_CHARS:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return count


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``out`` if nothing went wrong and is removed otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".writing")  # not .partial, which is a batch's rows to be read
    try:
        yield unfinished
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
