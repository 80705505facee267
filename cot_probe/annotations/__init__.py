"""The annotation set: loading, validation, agreement, exchange. Needs no torch.

``load()`` gives it as a ``datasets.DatasetDict``; the other functions work on plain records.
"""

from cot_probe.annotations.checks import Problem, check
from cot_probe.annotations.dataset import load
from cot_probe.annotations.passages import load_passages
from cot_probe.annotations.records import (
    SPLITS,
    AnnotatedTrace,
    AnnotationError,
    LabelledSpan,
    Reading,
    label_matrix,
    load_real,
    load_split,
    parse_record,
    reading_matrix,
    taxonomy_in,
    trace_vector,
)

__all__ = [
    "SPLITS",
    "AnnotatedTrace",
    "AnnotationError",
    "LabelledSpan",
    "Problem",
    "Reading",
    "check",
    "label_matrix",
    "load",
    "load_passages",
    "load_real",
    "load_split",
    "parse_record",
    "reading_matrix",
    "taxonomy_in",
    "trace_vector",
]
