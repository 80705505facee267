"""Records of the annotation set: parsing and loading.

One JSONL record a trace; ``annotations/README.md`` explains every field on a real one.
Spans are half-open character ranges of ``text``. ``sentences`` and ``trace`` hold the labels
that count (after adjudication); ``annotators`` keeps what each reader said.

A folder with a ``taxonomy.json`` is of a taxonomy of its own, and a record there may be short:
``id``, ``text`` and ``trace`` are enough. Without ``sentences`` nobody has labelled its sentences;
an empty list says that somebody did, and that none carries a label.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cot_probe.sentences import Sentence, split
from cot_probe.taxonomy import TAXONOMY, Taxonomy, TaxonomyError, own_taxonomy
from cot_probe.transcripts import Trace
from cot_probe.transcripts.trace import trace_of

SPLITS: Final = ("train", "dev", "test")


class AnnotationError(ValueError):
    """A record that breaks the format; the text says which file, line, field and rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSpan:
    """A labelled sentence: its characters, labels, and the kind where a label of it has kinds."""

    start: int
    end: int
    labels: tuple[str, ...]
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one annotator said of one trace."""

    annotator: str
    sentences: tuple[LabelledSpan, ...]
    trace: frozenset[str]
    unsure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedTrace:
    """A labelled trace.

    Attributes:
        group: what may not be in two splits: the scenario, or for real traces source and question.
        source: repository of a real trace, empty for a written one.
        phenomenon: what the scenario is about; a ``benign:`` prefix marks a hard-negative type.
        text: empty where only a reference is stored and the text is not at hand.
        adjudication: why, where the readers differed.
        sentences_known: False where the trace alone was labelled; ``sentences`` is then empty.
        taxonomy: the labels that it was labelled with.
    """

    id: str
    group: str
    phenomenon: str
    split: str
    language: str
    style: str
    context: str
    text: str
    sentences: tuple[LabelledSpan, ...]
    trace: frozenset[str]
    unsure: bool
    readings: tuple[Reading, ...]
    adjudication: str = ""
    n_sentences: int = 0
    source: str = ""
    sentences_known: bool = True
    taxonomy: Taxonomy = field(default=TAXONOMY, repr=False)

    def as_trace(self) -> Trace:
        """The record as the tagger takes it."""
        return trace_of(self.text, id=self.id, context=self.context)


def load_split(folder: Path, name: str) -> list[AnnotatedTrace]:
    """Load one split of the written traces.

    Raises:
        AnnotationError: with file and line, at the first record that breaks the format.
    """
    if name not in SPLITS:
        raise AnnotationError(f"split is {name!r}, expected one of {', '.join(SPLITS)}")
    return [record for _, record in _records(folder / "data" / f"{name}.jsonl", taxonomy_in(folder))]


def load_real(
    folder: Path, name: str = "dev", *, text_dir: Path | None = None, require_text: bool = False
) -> list[AnnotatedTrace]:
    """Load the labels of real traces, which are stored by reference.

    Args:
        folder: the annotations folder.
        name: the file in ``annotations/real``.
        text_dir: a folder of JSONL files that hold the texts under ``sha256``; without it the
            records have no text.
        require_text: leave out records whose text was not found.
    """
    texts = texts_by_hash(text_dir) if text_dir is not None else {}
    out = []
    for _, record in _records(folder / "real" / f"{name}.jsonl", taxonomy_in(folder), texts=texts):
        if record.text or not require_text:
            out.append(record)
    return out


def taxonomy_in(folder: Path) -> Taxonomy | None:
    """The taxonomy that an annotations folder has of its own; None for the built-in.

    Raises:
        AnnotationError: if its file is faulty.
    """
    try:
        return own_taxonomy(folder)
    except TaxonomyError as error:
        raise AnnotationError(str(error)) from None


def label_matrix(record: AnnotatedTrace, sentences: Sequence[Sentence]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Labels of the sentences of a record: ``(n, n_labels)`` bool, and kinds ``(n,)``, -1 for none.

    A span covers a sentence if it holds at least half of it, or at least half of the span
    lies in it: so labels survive a change of the splitter. Columns are those of the record's
    taxonomy. Where ``sentences_known`` is False the zeros say nothing.
    """
    return _matrix(record.sentences, sentences, record.taxonomy)


def reading_matrix(reading: Reading, sentences: Sequence[Sentence], taxonomy: Taxonomy = TAXONOMY) -> NDArray[np.bool_]:
    """Labels of one reader: ``(n, n_labels)`` bool."""
    return _matrix(reading.sentences, sentences, taxonomy)[0]


def _matrix(
    spans: Sequence[LabelledSpan], sentences: Sequence[Sentence], taxonomy: Taxonomy
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    labels = np.zeros((len(sentences), len(taxonomy.labels)), dtype=np.bool_)
    kinds = np.full(len(sentences), -1, dtype=np.int64)
    for span in spans:
        for row, sentence in enumerate(sentences):
            overlap = min(span.end, sentence.end) - max(span.start, sentence.start)
            if overlap <= 0 or 2 * overlap < min(span.end - span.start, len(sentence.text.rstrip())):
                continue
            for label in span.labels:
                labels[row, taxonomy.labels.index(label)] = True
            if span.kind is not None:
                kinds[row] = taxonomy.kinds.index(span.kind)
    return labels, kinds


def trace_vector(labels: frozenset[str], taxonomy: Taxonomy = TAXONOMY) -> NDArray[np.bool_]:
    """Trace labels as ``(n_labels,)`` bool."""
    return np.array([label in labels for label in taxonomy.labels])


def parse_record(raw: bytes | str, path: str, line: int, *, own: Taxonomy | None = None) -> AnnotatedTrace:
    """Parse and validate one line.

    Args:
        raw: the line.
        path: named in errors; its stem is the split of a short record.
        line: named in errors.
        own: the taxonomy of a folder that has its own; records may then be short.

    Raises:
        AnnotationError: naming file, line and fault.
    """
    try:
        record = json.loads(raw)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}:{line}: not JSON ({error.msg} at column {error.colno})") from None
    try:
        if own is None:
            return _parsed(record, TAXONOMY)
        return _parsed(_completed(record, Path(path).stem), own, sentences_known="sentences" in record)
    except (KeyError, TypeError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise AnnotationError(f"{path}:{line}: {what}") from None
    except ValueError as error:
        raise AnnotationError(f"{path}:{line}: {error}") from None


def _completed(record: Any, split_name: str) -> dict[str, Any]:
    """A short record with the fields that it may leave out."""
    if not isinstance(record, dict):
        raise AnnotationError("not an object: write one with id, text and trace")
    text, trace = record["text"], record["trace"]
    if not isinstance(text, str) or not text.strip():
        raise AnnotationError(f"text is {text!r}, expected the reasoning: give it, or remove the line")
    if not isinstance(trace, list):
        raise AnnotationError(f"trace is {trace!r}, expected a list of labels: write [] for none")
    usual = {"scenario": record["id"], "phenomenon": "", "split": split_name, "language": "und"}
    return usual | {"annotators": [], "sentences": []} | record


def _parsed(record: Mapping[str, Any], taxonomy: Taxonomy, *, sentences_known: bool = True) -> AnnotatedTrace:
    text = record.get("text", "")
    length = len(text) if text else None
    readings = tuple(
        Reading(
            annotator=str(reading["annotator"]),
            sentences=_spans(reading["sentences"], length, taxonomy),
            trace=_trace_labels(reading["trace"], taxonomy),
            unsure=bool(reading.get("unsure", False)),
        )
        for reading in record["annotators"]
    )
    split_name = record["split"]
    if split_name not in SPLITS:
        raise AnnotationError(f"split is {split_name!r}, expected one of {', '.join(SPLITS)}")
    return AnnotatedTrace(
        id=str(record["id"]),
        group=str(record["scenario"]),
        phenomenon=str(record["phenomenon"]),
        split=split_name,
        language=str(record["language"]),
        style=str(record.get("style", "")),
        context=str(record.get("context", "")),
        text=text,
        sentences=_spans(record["sentences"], length, taxonomy),
        trace=_trace_labels(record["trace"], taxonomy),
        unsure=bool(record.get("unsure", False)),
        readings=readings,
        adjudication=str(record.get("adjudication") or ""),
        source=str(record.get("source_repo", "")),
        n_sentences=int(record.get("n_sentences") or 0) or len(split(text)),
        sentences_known=sentences_known,
        taxonomy=taxonomy,
    )


def _spans(raw: Any, length: int | None, taxonomy: Taxonomy) -> tuple[LabelledSpan, ...]:
    spans = []
    for number, span in enumerate(raw):
        start, end, labels = int(span["start"]), int(span["end"]), tuple(span["labels"])
        if not 0 <= start < end or (length is not None and end > length):
            raise AnnotationError(f"sentences[{number}] spans {start}..{end}, the text has {length} characters")
        unknown = set(labels) - set(taxonomy.labels)
        if unknown or not labels:
            raise AnnotationError(f"sentences[{number}] has labels {labels}, expected some of {taxonomy.labels}")
        kind = span.get("kind")
        if kind not in (taxonomy.kinds if taxonomy.kind_label in labels else (None,)):
            needs = f"{taxonomy.kind_label} needs one of {taxonomy.kinds}, others none"
            rule = needs if taxonomy.kinds else "this taxonomy has no kinds, remove it"
            raise AnnotationError(f"sentences[{number}] has kind {kind!r}: {rule}")
        spans.append(LabelledSpan(start=start, end=end, labels=labels, kind=kind))
    return tuple(spans)


def _trace_labels(raw: Any, taxonomy: Taxonomy) -> frozenset[str]:
    labels = frozenset(raw)
    if labels - set(taxonomy.labels):
        raise AnnotationError(f"trace labels {sorted(labels)}, expected some of {taxonomy.labels}")
    return labels


def _records(
    path: Path, own: Taxonomy | None, *, texts: Mapping[str, str] | None = None
) -> Iterator[tuple[int, AnnotatedTrace]]:
    if not path.is_file():
        remedy = "give the annotations folder of a clone" if own is None else "write it, one record a line"
        raise AnnotationError(f"{path} does not exist: {remedy}")
    for line, raw in lines_of(path):
        if texts is not None:
            stored = json.loads(raw)
            text = texts.get(stored.get("sha256", ""), "")
            raw = json.dumps(stored | {"text": text, "context": texts.get("context:" + stored.get("sha256", ""), "")})
        yield line, parse_record(raw, str(path), line, own=own)


def lines_of(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """The lines of a file that are not blank, each with its number (1-based)."""
    with path.open("rb") as stream:
        for line, raw in enumerate(stream, start=1):
            if raw.strip():
                yield line, raw


def texts_by_hash(folder: Path) -> dict[str, str]:
    """Texts (and contexts, under ``context:`` and the hash) of the JSONL files of a folder by the SHA-256 of the text, checked."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as stream:
            for raw in stream:
                row = json.loads(raw)
                digest = hashlib.sha256(row["text"].encode("utf-8", "surrogatepass")).hexdigest()
                found[digest] = row["text"]
                found["context:" + digest] = row.get("context") or ""
    return found
