"""Rows of tagged traces to one HTML file: checked, packed and written as they come.

The file holds the page, then the traces in gzipped pieces that the page unpacks when somebody
looks at them, an index for its list, and the counts of its overview. Transcripts are hostile:
they stand in the file only as JSON with no character in it that HTML knows, and the page makes
text nodes of them. Its policy (CSP) allows this one script and this one style sheet, by hash,
and no request to anywhere.
"""

import base64
import gzip
import hashlib
import html
import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, BinaryIO, Final

from cot_probe.report.overview import BINS, Overview, group_name, is_readable
from cot_probe.tagger import SCHEMA
from cot_probe.taxonomy import TAXONOMY, Taxonomy
from cot_probe.transcripts.trace import VISIBILITIES

PIECE_CHARS: Final = 400_000
"""Records are gzipped together until they hold this many characters of JSON."""
SCORE_UNIT: Final = 10_000
"""Scores are stored as whole numbers of this fraction."""
_SCRIPTS: Final = ("elements", "data", "list", "overview", "reader", "evidence", "page")
"""Parts of the page's one script, in their order."""
_EXCERPT_CHARS: Final = 160
_STANCES: Final = ("test", "real", "both")
_MARKUP: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

_Fields = Mapping[str, type | tuple[type, ...]]
_ROW: Final[_Fields] = {
    "id": str,
    "source": dict,
    "visibility": str,
    "tags": list,
    "scores": dict,
    "sentences": list,
    "blocks": list,
    "checkpoint": str,
    "metadata": dict,
    "context": str,
}
_SOURCE: Final[_Fields] = {"path": str, "record": int, "message": int, "format": str}
_BLOCK: Final[_Fields] = {"start": int, "end": int, "field": str, "visibility": str, "action": str}
_PLACE: Final[_Fields] = {"message": int, "source_start": int, "turn": int, "context_end": int}
_SENTENCE: Final[_Fields] = {"start": int, "end": int, "text": str, "scores": dict, "tags": list}
_UNFAMILIAR: Final[_Fields] = {"score": (int, float), "reasons": (list, tuple), "spans": (list, tuple)}
_SPAN: Final[_Fields] = {"start": int, "end": int, "form": str}


class ReportError(ValueError):
    """A row that is no tagged trace: the text says which row and field, what was found and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSize:
    """What a report came to: ``contexts`` counts the different ones, each of which is stored once."""

    traces: int
    contexts: int
    bytes: int

    @property
    def bytes_per_trace(self) -> float:
        """Size of the file over the number of traces; nan without one."""
        return self.bytes / self.traces if self.traces else math.nan


def write_report(
    rows: Iterable[Mapping[str, Any]],
    out: Path,
    *,
    title: str,
    thresholds: Mapping[str, float] | None,
    population: str = "",
    taxonomy: Taxonomy = TAXONOMY,
) -> ReportSize:
    """Write the rows as one self-contained HTML file; it appears under its name only once it is whole.

    Memory holds one row, the pieces being filled, and the counts; not the rows.

    Args:
        rows: records as ``TaggedTrace.as_dict`` gives them, or lines of a results file parsed.
        out: the file to write.
        title: its heading.
        thresholds: the threshold of each tag on a trace's score, to be marked in the histograms;
            None where they are not known.
        population: in words, what the thresholds were set on (``Calibration.population``).
        taxonomy: what the tags mean and which of them a run is made for.

    Raises:
        ReportError: at the first row that is no tagged trace; ``out`` is left as it was.
        OSError: if the file cannot be written.
    """
    before, after = _page(title)
    overview = Overview(kind_label=taxonomy.kind_label)
    names = _Names()
    contexts: dict[bytes, int] = {}
    with _appearing(out) as stream:
        stream.write(before)
        pieces = {name: _Pieces(stream, name) for name in ("traces", "contexts", "index")}
        for number, row in enumerate(rows):
            _check(row, number)
            overview.add(row)
            digest = hashlib.sha256(row["context"].encode("utf-8", "surrogatepass")).digest()[:16]
            if digest not in contexts:
                contexts[digest] = len(contexts)
                pieces["contexts"].add(row["context"])
            pieces["traces"].add(_stored(row, contexts[digest], names))
            pieces["index"].add(_listed(row, names))
        for piece in pieces.values():
            piece.flush()
        about = _about(title, thresholds, population, taxonomy)
        stream.write(_element("about", _json({**about, "names": names.as_json(), "overview": overview.as_json()})))
        stream.write(after)
        size = stream.tell()
    return ReportSize(traces=overview.traces, contexts=len(contexts), bytes=size)


def _about(title: str, thresholds: Mapping[str, float] | None, population: str, taxonomy: Taxonomy) -> dict[str, Any]:
    return {
        "title": title,
        "thresholds": None if thresholds is None else dict(thresholds),
        "population": population,
        "definitions": dict(taxonomy.definitions),
        "public": list(taxonomy.public),
        "kindLabel": taxonomy.kind_label,
        "unit": SCORE_UNIT,
        "bins": BINS,
    }


def _page(title: str) -> tuple[bytes, bytes]:
    """The page around the data: all that stands before it and all that stands after it."""
    folder = resources.files("cot_probe.report")
    page, style = ((folder / name).read_text("utf-8") for name in ("page.html", "page.css"))
    script = "\n".join((folder / f"{name}.js").read_text("utf-8") for name in _SCRIPTS)
    filled = Template(page).substitute(
        policy=(
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
            "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        title=html.escape(_printable(title)),
        style=style,
        script=script,
        data="\0",
    )
    before, after = filled.encode("utf-8", "replace").split(b"\0")
    return before, after


def _hash(source: str) -> str:
    """A source expression of the Content Security Policy (level 3, W3C): the hash of an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def _json(value: Any) -> str:
    """JSON in ASCII without ``<``, ``>`` and ``&``: nothing in it can end the element that it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MARKUP)


def _element(kind: str, text: str, *, first: int = 0) -> bytes:
    """A block of data; ``first`` is the number of the first record in it."""
    return f'<script type="application/json" class="{kind}" data-first="{first}">{text}</script>\n'.encode("ascii")


@contextmanager
def _appearing(out: Path) -> Iterator[BinaryIO]:
    """A file under another name that takes the name ``out`` once it is complete, and goes where it is not."""
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(slots=True)
class _Pieces:
    """Records of one kind on their way into the file, some hundred to a gzipped piece."""

    stream: BinaryIO
    kind: str
    records: list[str] = field(default_factory=list)
    chars: int = 0
    first: int = 0

    def add(self, record: Any) -> None:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if not _is_utf8(text):
            text = json.dumps(record, allow_nan=False, separators=(",", ":"))
        self.records.append(text)
        self.chars += len(text)
        if self.chars >= PIECE_CHARS:
            self.flush()

    def flush(self) -> None:
        if not self.records:
            return
        packed = gzip.compress(f"[{','.join(self.records)}]".encode(), mtime=0)
        text = _json(base64.b64encode(packed).decode("ascii"))
        self.stream.write(_element(self.kind, text, first=self.first))
        self.first += len(self.records)
        self.records, self.chars = [], 0


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text: not where it has lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(slots=True)
class _Names:
    """Names that many traces share, by their numbers, in the order in which they came up."""

    tables: dict[str, dict[str, int]] = field(
        default_factory=lambda: {
            name: {} for name in ("tags", "labels", "kinds", "models", "scenarios", "sources", "checkpoints")
        }
    )

    def number(self, table: str, name: str | None) -> int | None:
        if name is None:
            return None
        known = self.tables[table]
        return known.setdefault(name, len(known))

    def scores(self, table: str, scores: Mapping[str, float]) -> list[int | None]:
        """Scores in the order of the table, as whole numbers; None for a name that is not among them."""
        placed = {self.number(table, name): round(score * SCORE_UNIT) for name, score in scores.items()}
        return [placed.get(at) for at in range(len(self.tables[table]))]

    def as_json(self) -> dict[str, list[str]]:
        return {name: list(table) for name, table in self.tables.items()}


def _stored(row: Mapping[str, Any], context: int, names: _Names) -> dict[str, Any]:
    """What the reading view needs of one trace; offsets count characters, as in the row."""
    unfamiliar = row.get("unfamiliar")
    return {
        "context": context,
        "message": row["source"].get("message"),
        "format": row["source"].get("format"),
        "tokens": row.get("n_tokens"),
        "metadata": [[str(key), _as_text(value)] for key, value in row["metadata"].items()],
        "unfamiliar": unfamiliar
        and {
            "score": unfamiliar["score"],
            "reasons": list(unfamiliar["reasons"]),
            "spans": [[span["start"], span["end"], span["form"]] for span in unfamiliar["spans"]],
        },
        "blocks": [
            [
                block["start"],
                block["end"],
                VISIBILITIES.index(block["visibility"]),
                block.get("message"),
                block["field"],
                block.get("source_start") or 0,
                block.get("turn"),
                block.get("context_end"),
                block["action"],
            ]
            for block in row["blocks"]
        ],
        "sentences": [
            [
                sentence["start"],
                sentence["end"],
                sentence["text"],
                names.scores("labels", sentence["scores"]),
                [names.number("labels", tag) for tag in sentence["tags"]],
                names.number("kinds", sentence.get("harm_kind")),
            ]
            for sentence in row["sentences"]
        ],
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str, indent=1)


def _listed(row: Mapping[str, Any], names: _Names) -> list[Any]:
    """One line of the list; the page reads the fields by their place."""
    evidence = [sentence for sentence in row["sentences"] if sentence["tags"]]
    strongest = max(evidence, key=lambda one: max(one["scores"].get(tag, 0) for tag in one["tags"]), default=None)
    shown = strongest or next(iter(row["sentences"]), None)
    stance = row.get("stance")
    scores = names.scores("tags", row["scores"])  # before the tags: the order of the scores is the taxonomy's
    return [
        row["id"],
        [names.number("tags", tag) for tag in row["tags"]],
        scores,
        _STANCES.index(stance) if stance in _STANCES else None,
        names.number("kinds", row.get("harm_kind")),
        VISIBILITIES.index(row["visibility"]),
        names.number("models", group_name(row["metadata"], "model")),
        names.number("scenarios", group_name(row["metadata"], "scenario")),
        names.number("sources", row["source"].get("path")),
        row["source"].get("record"),
        names.number("checkpoints", row["checkpoint"]),
        int(row.get("unfamiliar") is not None),
        int(is_readable(row)),
        len(evidence),
        sum(block["end"] - block["start"] for block in row["blocks"]),
        " ".join(shown["text"].split())[:_EXCERPT_CHARS] if shown else "",
    ]


def _check(row: Any, number: int) -> None:
    """Refuse what is no row of a results file.

    Raises:
        ReportError: as :func:`write_report`.
    """
    place = f"row {number}"
    if not isinstance(row, Mapping) or row.get("schema") != SCHEMA:
        found = row.get("schema") if isinstance(row, Mapping) else row
        raise _fault(place, "schema", found, repr(SCHEMA))
    _check_fields(row, _ROW, place)
    place += f" (id {reprlib.repr(row['id'])})"
    _check_tagged(row, place, {"stance": str, "harm_kind": str, "n_tokens": int})
    _check_fields(row["source"], _SOURCE, f"{place}, source", optional=True)
    _check_visibility(row, place)
    for at, block in enumerate(row["blocks"]):
        where = f"{place}, blocks[{at}]"
        _check_fields(block, _BLOCK, where)
        _check_fields(block, _PLACE, where, optional=True)
        _check_visibility(block, where)
    end = 0
    for at, sentence in enumerate(row["sentences"]):
        where = f"{place}, sentences[{at}]"
        _check_fields(sentence, _SENTENCE, where)
        _check_tagged(sentence, where, {"harm_kind": str})
        if sentence["start"] < end or sentence["end"] - sentence["start"] != len(sentence["text"]):
            span = (sentence["start"], sentence["end"])
            raise _fault(where, "(start, end)", span, f"a start from {end} on, an end {len(sentence['text'])} after it")
        end = sentence["end"]
    if row.get("unfamiliar") is not None:
        _check_fields(row["unfamiliar"], _UNFAMILIAR, f"{place}, unfamiliar")
        for at, found in enumerate(row["unfamiliar"]["spans"]):
            _check_fields(found, _SPAN, f"{place}, unfamiliar.spans[{at}]")


def _check_fields(record: Any, fields: _Fields, place: str, *, optional: bool = False) -> None:
    """Refuse a record without these fields of these types; ``optional`` ones may be missing or None."""
    if not isinstance(record, Mapping):
        raise _fault(place, "the record", record, "an object")
    for name, kind in fields.items():
        value = record.get(name)
        if not isinstance(value, kind) and not (optional and value is None):
            types = kind if isinstance(kind, tuple) else (kind,)
            raise _fault(place, name, value, f"a value of type {' or '.join(one.__name__ for one in types)}")


def _check_tagged(record: Mapping[str, Any], place: str, optional: _Fields) -> None:
    """Refuse tags that are no names and scores that are no probabilities."""
    _check_fields(record, optional, place, optional=True)
    for tag in record["tags"]:
        if not isinstance(tag, str):
            raise _fault(place, "tags", tag, "names of tags")
    for name, score in record["scores"].items():
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise _fault(place, f"scores.{name}", score, "a number between 0 and 1")


def _check_visibility(record: Mapping[str, Any], place: str) -> None:
    if record["visibility"] not in VISIBILITIES:
        raise _fault(place, "visibility", record["visibility"], f"one of {', '.join(VISIBILITIES)}")


def _fault(place: str, name: str, found: Any, expected: str) -> ReportError:
    return ReportError(
        f"{place}: {name} is {reprlib.repr(found)}, expected {expected}: "
        "tag the transcripts again with this version and give it those rows"
    )
