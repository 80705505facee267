"""What the encoder says of annotated traces, as distances from the thresholds: what ``first_stage.py`` distils."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cot_probe.annotations import AnnotatedTrace
from cot_probe.calibration import tag_logits
from cot_probe.tagger import Tagger, sentences_of
from cot_probe.windows import Window
from long_traces import parts_of

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What the encoder says of some traces.

    Attributes:
        windows: of each trace.
        sources: where each comes from; empty for a written one.
        starts: first row of each trace in the arrays of sentences, and one past the last row.
        sentences: scores of labels from their thresholds, in logits, ``(n_sentences, n_labels)``.
        traces: the same of tags, ``(n_traces, n_tags)``.
        right: tags that people gave, ``(n_traces, n_tags)``.
        logits, scores, values: what the trace head joins, one row a sentence.
        trace_logits: ``(n_traces, n_labels)``.
    """

    windows: list[list[Window]]
    sources: list[str]
    starts: NDArray[np.int64]
    sentences: Matrix
    traces: Matrix
    right: NDArray[np.bool_]
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    values: NDArray[np.float32]
    trace_logits: NDArray[np.float32]


def margins(logits: NDArray[np.float32], scalings: Sequence[Any], thresholds: Sequence[float]) -> Matrix:
    """Calibrated logits minus those of the thresholds, column by column."""
    columns = [
        scaling.slope * logits[:, at].astype(np.float64) + scaling.offset - np.log(limit / (1 - limit))
        for at, (scaling, limit) in enumerate(zip(scalings, thresholds, strict=True))
    ]
    return np.stack(columns, axis=1)


def trace_margins(tagger: Tagger, logits: NDArray[np.float32]) -> Matrix:
    """Scores of tags from their thresholds, ``(n_traces, n_tags)``, in logits."""
    calibration, taxonomy = tagger.checkpoint.calibration, tagger.checkpoint.taxonomy
    raw = tag_logits(logits, taxonomy).astype(np.float32)
    scalings = [calibration.traces[tag] for tag in taxonomy.tags]
    return margins(raw, scalings, [calibration.default.traces[tag] for tag in taxonomy.tags])


def encoded(tagger: Tagger, records: Sequence[AnnotatedTrace]) -> dict[str, NDArray[Any]]:
    """Logits, parts and trace logits of some traces, all of them read."""
    parts, head = parts_of(tagger, records), tagger.checkpoint.encoder.trace_head
    with torch.inference_mode():
        traces = [head.joined(part.scores, part.values, part.labels).numpy() for part in parts]
    return {
        "logits": np.concatenate([part.labels.numpy() for part in parts]),
        "scores": np.concatenate([part.scores.numpy() for part in parts]),
        "values": np.concatenate([part.values.numpy().astype(np.float16) for part in parts]),
        "trace": np.stack(traces),
    }


def cached(tagger: Tagger, name: str, records: Sequence[AnnotatedTrace], cache: Path | None, key: str) -> Any:
    """:func:`encoded`, from the cache where it holds the same of the same weights."""
    path = None if cache is None else cache / f"{name}.npz"
    key = hashlib.sha256(
        "\n".join([key, *(f"{record.id} {len(record.text)}" for record in records)]).encode()
    ).hexdigest()
    if path is not None and path.is_file():
        with np.load(path) as stored:
            if str(stored["key"]) == key:
                return {part: stored[part] for part in ("logits", "scores", "values", "trace")}
    found = encoded(tagger, records)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, key=np.array(key), **found)
    return found


def read(tagger: Tagger, name: str, records: Sequence[AnnotatedTrace], cache: Path | None, key: str) -> Read:
    """Windows of some traces and what the encoder says of them."""
    calibration, taxonomy = tagger.checkpoint.calibration, tagger.checkpoint.taxonomy
    traces = [record.as_trace() for record in records]
    sentences = [sentences_of(trace) for trace in traces]
    found = cached(tagger, name, records, cache, key)
    print(f"{name}: {len(records)} traces", flush=True)
    limits = [calibration.default.sentences[label] for label in taxonomy.labels]
    tags = [taxonomy.with_unions(record.trace) for record in records]
    return Read(
        windows=tagger.windows(traces, sentences),
        sources=[record.source for record in records],
        starts=np.concatenate([[0], np.cumsum([len(some) for some in sentences])]),
        sentences=margins(found["logits"], [calibration.sentences[label] for label in taxonomy.labels], limits),
        traces=trace_margins(tagger, found["trace"]),
        right=np.array([[tag in some for tag in taxonomy.tags] for some in tags]),
        logits=found["logits"],
        scores=found["scores"],
        values=found["values"].astype(np.float32),
        trace_logits=found["trace"],
    )
