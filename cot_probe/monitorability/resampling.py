"""Bootstrap by group, many draws at once. Usable without torch.

A draw is a vector of weights over the units: how often the unit's group (scenario, or transcript)
was drawn. A :data:`Statistic` takes many draws in one call, so that a thousand cost little more than one.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability.metrics import (
    Bools,
    Estimate,
    Floats,
    Metric,
    auroc,
    average_precision,
    wilson,
)

Statistic = Callable[[Floats], Floats]
"""Weights ``(draws, n)`` to one value per draw, ``(draws,)``; nan where a draw leaves it undefined."""
Method = Literal["percentile", "bca"]

LEVEL: Final = 0.95
"""Level of every interval here."""
_CELLS: Final = 4_000_000
"""Most weights held at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % bootstrap interval.

    ``standard_error`` is the standard deviation over the draws. ``undefined`` of the ``draws`` had no
    value (no positive among them, say) and are left out of both.
    """

    value: float
    low: float
    high: float
    standard_error: float
    draws: int
    undefined: int
    method: Method


def group_codes(groups: Sequence[Hashable]) -> tuple[NDArray[np.intp], int]:
    """Groups as numbers from 0, ``(n,)``, and how many there are; groups of equal text are the same."""
    names, codes = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    return codes, len(names)


def bootstrap_weights(groups: Sequence[Hashable], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Weights ``(some, n)``, ``draws`` rows in all: whole groups drawn with replacement, as many as there are.

    The draws are those of :func:`cot_probe.monitorability.metrics.estimate` for the same seed.
    """
    codes, count = group_codes(groups)
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // max(len(codes), 1))
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size)[:, codes].astype(np.float64)


def jackknife_weights(groups: Sequence[Hashable]) -> Iterator[NDArray[np.float64]]:
    """Weights ``(some, n)``, one row per group: 0 for its units, 1 for all others."""
    codes, count = group_codes(groups)
    at_once = max(1, _CELLS // max(len(codes), 1))
    for start in range(0, count, at_once):
        left_out = np.arange(start, min(start + at_once, count))
        yield (codes[None, :] != left_out[:, None]).astype(np.float64)


def curve_points(scores: Floats, labels: Bools, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weight of positives and of negatives at or above each distinct score, the highest first.

    Args:
        scores: ``(n,)``; infinite ones are ranked, nan is not allowed.
        labels: ``(n,)``.
        weights: ``(draws, n)``.

    Returns:
        The k distinct scores ``(k,)``, positives ``(draws, k)``, negatives ``(draws, k)``.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.r_[np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1]
    sorted_weights, positive = weights[:, order], labels[order]
    positives = np.cumsum(sorted_weights * positive, axis=1)[:, last]
    negatives = np.cumsum(sorted_weights * ~positive, axis=1)[:, last]
    return ranked[last], positives, negatives


def statistic_of(metric: Metric, scores: Floats, labels: Bools) -> Statistic:
    """A metric of fixed scores and labels as a function of the draws; AUROC and average precision take all at once."""
    if metric is auroc:
        return lambda weights: _auroc(scores, labels, weights)
    if metric is average_precision:
        return lambda weights: _average_precision(scores, labels, weights)
    return lambda weights: np.array([metric(scores, labels, row) for row in weights])


def _auroc(scores: Floats, labels: Bools, weights: Floats) -> Floats:
    _, positives, negatives = curve_points(scores, labels, weights)
    # Between two distinct scores the curve rises over the negatives passed: a trapezium.
    above = np.concatenate([np.zeros((len(weights), 1)), positives[:, :-1]], axis=1)
    passed = np.diff(negatives, axis=1, prepend=0.0)
    area = np.sum(passed * (above + positives) / 2, axis=1)
    return divide(area, positives[:, -1] * negatives[:, -1])


def _average_precision(scores: Floats, labels: Bools, weights: Floats) -> Floats:
    _, positives, negatives = curve_points(scores, labels, weights)
    seen = positives + negatives
    precision = np.divide(positives, seen, out=np.zeros_like(positives), where=seen > 0)
    return divide(np.sum(np.diff(positives, axis=1, prepend=0.0) * precision, axis=1), positives[:, -1])


def ratio(numerator: Floats, denominator: Floats) -> Statistic:
    """The statistic ``sum(numerator) / sum(denominator)`` over units, nan where the denominator is 0."""
    return lambda weights: divide(weights @ numerator, weights @ denominator)


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """``numerator / denominator``, of one shape, nan where the denominator is 0."""
    out: Floats = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def bootstrap(
    statistic: Statistic,
    groups: Sequence[Hashable],
    *,
    method: Method = "percentile",
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic with its 95 % interval, resampling whole groups.

    ``percentile`` takes the 2.5 and 97.5 % points of the draws; ``bca`` corrects them for bias and for
    a spread that changes with the value (Efron 1987, "Better bootstrap confidence intervals", JASA 82,
    171-185), the acceleration from leaving out one group at a time. Whole groups stand for the units
    that depend on each other (Field and Welsh 2007, "Bootstrapping clustered data", JRSS B 69, 369-390).
    Neither knows values that no draw holds: where every draw agrees (no false alarm at all), the
    interval is a point; see :func:`share_estimate` for shares. Reference: ``scipy.stats.bootstrap``; coverage is
    simulated, over units and over groups.

    Raises:
        ValueError: without a group.
    """
    if not len(groups):
        raise ValueError("no units to resample, expected at least one: is the selection empty?")
    value = float(statistic(np.ones((1, len(groups))))[0])
    values = np.concatenate([statistic(weights) for weights in bootstrap_weights(groups, draws, seed)])
    known = values[~np.isnan(values)]
    low = high = error = float("nan")
    if len(known) and not np.isnan(value):
        tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if method == "bca":
            left_out = np.concatenate([statistic(weights) for weights in jackknife_weights(groups)])
            tails = _bca_tails(tails, value, known, left_out)
        low, high = (float(end) for end in np.quantile(known, tails))
        error = float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
    return Interval(
        value=value,
        low=low,
        high=high,
        standard_error=error,
        draws=draws,
        undefined=len(values) - len(known),
        method=method,
    )


def _bca_tails(tails: Floats, value: float, draws: Floats, left_out: Floats) -> Floats:
    from scipy.special import ndtr, ndtri

    below = (np.mean(draws < value) + np.mean(draws <= value)) / 2
    # With every draw on one side the correction is infinite; half a draw keeps it finite.
    bias = ndtri(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws)))
    known = left_out[~np.isnan(left_out)]
    pull = known.mean() - known if len(known) else np.zeros(1)
    spread = np.sum(pull**2) ** 1.5
    acceleration = np.sum(pull**3) / (6 * spread) if spread else 0.0
    shifted = bias + ndtri(tails)
    return np.asarray(ndtr(bias + shifted / (1 - acceleration * shifted)))


def share_estimate(flags: Bools, groups: Sequence[Hashable], *, draws: int = 1000, seed: int = 0) -> Estimate:
    """The share of units with a flag, with a 95 % interval that fits how they depend on each other.

    Wilson's score interval (1927) where every unit is a group of its own, the percentile bootstrap by
    group where not; where all units or none have the flag, which no bootstrap can see beyond, Wilson's
    with as many units as there are groups. ``positives`` counts the flags. nan without a unit.
    """
    n, count = len(flags), int(np.sum(flags))
    if not n:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0, positives=0)
    _, independent = group_codes(groups)
    if independent == n or count in (0, n):
        low, high = wilson(count if independent == n else min(count, independent), independent)
        return Estimate(value=count / n, low=low, high=high, n=n, positives=count)
    found = bootstrap(ratio(flags.astype(np.float64), np.ones(n)), groups, draws=draws, seed=seed)
    return Estimate(value=found.value, low=found.low, high=found.high, n=n, positives=count)
