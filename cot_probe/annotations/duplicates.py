"""Near-duplicates among the written traces: cosine similarity of character n-gram profiles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from cot_probe.annotations.records import AnnotatedTrace

BOUND: Final = 0.4
"""No two traces may be more alike than this, twins apart."""
BOUND_ACROSS: Final = 0.2
"""No two traces of different splits may be more alike than this."""
TWINS: Final = "twins"
"""Phenomenon of scenarios whose traces come in pairs that differ in a few sentences only, in what matters."""
BOUND_TWINS: Final = 0.6
"""No two traces of such a scenario may be more alike than this."""
_NGRAM: Final = 6
_BLOCK: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two traces and how alike they are, 0 to 1."""

    first: str
    second: str
    similarity: float
    bound: float
    """The most that is allowed for such a pair."""


def similarities(texts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Blocks of rows of the similarity matrix: first row number and ``(rows, n_texts)``.

    Similarity is the cosine of tf-idf weighted counts (sublinear) of character 6-grams, in
    lower case, white space squeezed.
    """
    squeezed = [" ".join(text.lower().split()) for text in texts]
    profiles = TfidfVectorizer(analyzer="char", ngram_range=(_NGRAM, _NGRAM), sublinear_tf=True, dtype=np.float32)
    matrix = profiles.fit_transform(squeezed)
    for start in range(0, len(texts), _BLOCK):
        yield start, np.asarray((matrix[start : start + _BLOCK] @ matrix.T).todense(), dtype=np.float64)


def closest_pairs(records: Sequence[AnnotatedTrace], *, top: int = 10) -> tuple[list[Pair], list[Pair]]:
    """The most similar pairs, within any split and across splits, most similar first.

    Every pair over its bound is among them, however many these are.
    """
    within: list[Pair] = []
    across: list[Pair] = []
    splits = np.array([record.split for record in records])
    for start, block in similarities([record.text for record in records]):
        for offset, alike in enumerate(block):
            row = start + offset
            alike[: row + 1] = -1.0
            other = splits != splits[row]
            within += _best(records, row, alike, ~other, top)
            across += _best(records, row, alike, other, top)
    return _ranked(within, top), _ranked(across, top)


def _bound(first: AnnotatedTrace, second: AnnotatedTrace) -> float:
    if first.split != second.split:
        return BOUND_ACROSS
    return BOUND_TWINS if first.group == second.group and first.phenomenon == TWINS else BOUND


def _best(
    records: Sequence[AnnotatedTrace], row: int, alike: NDArray[np.float64], chosen: NDArray[np.bool_], top: int
) -> list[Pair]:
    columns = np.flatnonzero(chosen & (alike >= 0))
    order = columns[np.argsort(-alike[columns], kind="stable")]
    first = records[row]
    pairs = (
        Pair(
            first=first.id,
            second=records[at].id,
            similarity=float(alike[at]),
            bound=_bound(first, records[at]),
        )
        for at in order[: max(top, int((alike[columns] > min(BOUND, BOUND_ACROSS)).sum()))]
    )
    return _ranked(list(pairs), top)


def _ranked(pairs: list[Pair], top: int) -> list[Pair]:
    """The most alike and every one over its bound."""
    pairs.sort(key=lambda pair: -pair.similarity)
    return [pair for at, pair in enumerate(pairs) if at < top or pair.similarity > pair.bound]


def duplicates_table(records: Sequence[AnnotatedTrace], *, top: int = 10) -> tuple[str, int]:
    """The closest pairs as Markdown, and the number of pairs over their bound."""
    within, across = closest_pairs(records, top=top)
    lines = [
        f"{len(records)} traces; similarity is the cosine of character {_NGRAM}-gram profiles (tf-idf)",
        "",
        "| where | traces | similarity | bound |",
        "|---|---|---|---|",
    ]
    for where, pairs in (("same split", within), ("across splits", across)):
        lines += [f"| {where} | {p.first}, {p.second} | {p.similarity:.3f} | {p.bound} |" for p in pairs]
    over = sum(pair.similarity > pair.bound for pair in [*within, *across])
    lines += ["", f"{over} pairs over the bounds"]
    return "\n".join(lines), over
