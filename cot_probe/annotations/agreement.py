"""Agreement of annotators: Krippendorff's alpha and Cohen's kappa, with bootstrap intervals.

Alpha: Krippendorff (2011), "Computing Krippendorff's alpha-reliability", nominal data.
Kappa: Cohen (1960), "A coefficient of agreement for nominal scales".
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cot_probe.annotations.records import AnnotatedTrace, trace_vector
from cot_probe.taxonomy import SENTENCE_LABELS, TRACE_LABELS

Pairs = NDArray[np.bool_]
"""``(n_units, 2)``: the judgements of two readers on the same units."""


def krippendorff_alpha(pairs: Pairs) -> float:
    """Alpha of two readers on binary units, none missing; nan where nobody ever said yes (or no)."""
    values = pairs.size
    if not values:
        return float("nan")
    ones = int(pairs.sum())
    expected = 2 * ones * (values - ones) / (values * (values - 1)) if values > 1 else 0.0
    if expected == 0:
        return float("nan")
    observed = float(np.mean(pairs[:, 0] != pairs[:, 1]))
    return 1 - observed / expected


def cohen_kappa(pairs: Pairs) -> float:
    """Kappa of two readers on binary units; nan where chance agreement is perfect."""
    if not len(pairs):
        return float("nan")
    a, b = pairs.mean(axis=0)
    chance = a * b + (1 - a) * (1 - b)
    if chance == 1:
        return float("nan")
    return float((np.mean(pairs[:, 0] == pairs[:, 1]) - chance) / (1 - chance))


def interval(
    groups: Sequence[Pairs], statistic: Callable[[Pairs], float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval, resampling groups (traces)."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        chosen = rng.integers(len(groups), size=len(groups))
        values.append(statistic(np.concatenate([groups[at] for at in chosen])))
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def sentence_pairs(record: AnnotatedTrace, label: str) -> Pairs:
    """What two readers said of each sentence of a trace, ``(n_sentences, 2)``.

    Readers label whole sentences, so a span is a sentence; those without a span are counted
    by ``n_sentences``.
    """
    first, second = record.readings[0], record.readings[1]
    starts = sorted({span.start for reading in (first, second) for span in reading.sentences})
    chosen = [{span.start for span in reading.sentences if label in span.labels} for reading in (first, second)]
    pairs = np.zeros((max(record.n_sentences, len(starts)), 2), dtype=np.bool_)
    for row, start in enumerate(starts):
        pairs[row] = [start in chosen[0], start in chosen[1]]
    return pairs


def agreement_table(records: Sequence[AnnotatedTrace], *, seed: int = 0) -> str:
    """A Markdown table of agreement per label over the traces that two people read."""
    twice = [record for record in records if len(record.readings) > 1]
    if not twice:
        return "no trace was read twice"
    lines = [
        f"{len(twice)} traces read by two annotators, {sum(r.n_sentences for r in twice)} sentences",
        "",
        "| label | level | yes by both | by one | alpha | 95 % interval | kappa |",
        "|---|---|---|---|---|---|---|",
    ]
    vectors = [(trace_vector(r.readings[0].trace), trace_vector(r.readings[1].trace)) for r in twice]
    for at, label in enumerate(SENTENCE_LABELS):
        lines.append(_row(label, "sentence", [sentence_pairs(record, label) for record in twice], seed))
        assert TRACE_LABELS[at] == label
        lines.append(_row(label, "trace", [np.array([[a[at], b[at]]]) for a, b in vectors], seed))
    return "\n".join(lines)


def _row(label: str, level: str, groups: Sequence[Pairs], seed: int) -> str:
    pairs = np.concatenate(groups)
    both, one = int(pairs.all(axis=1).sum()), int((pairs[:, 0] != pairs[:, 1]).sum())
    alpha, (low, high) = krippendorff_alpha(pairs), interval(groups, krippendorff_alpha, seed=seed)
    if np.isnan(alpha):
        return f"| {label} | {level} | {both} | {one} | – (nobody used it) | – | – |"
    return f"| {label} | {level} | {both} | {one} | {alpha:.3f} | {low:.3f} to {high:.3f} | {cohen_kappa(pairs):.3f} |"
