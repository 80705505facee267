"""Metrics of a monitor's scores against labels, with intervals. Usable without torch.

All functions take ``scores`` ``(n,)`` float, ``labels`` ``(n,)`` bool and optional ``weights``
``(n,)``; a bootstrap draw is then a vector of weights, and one sort serves every draw. The tests hold every
metric against what its docstring names.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Metric = Callable[[Floats, Bools, Floats], float]
_Z95: Final = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval and what it was measured on."""

    value: float
    low: float
    high: float
    n: int
    positives: int

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _curve(scores: Floats, labels: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and negatives at or above each distinct score, from the top."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.r_[np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1]
    positive = np.cumsum(np.where(labels, weights, 0.0)[order])[last]
    negative = np.cumsum(np.where(labels, 0.0, weights)[order])[last]
    return positive, negative


def auroc(scores: Floats, labels: Bools, weights: Floats) -> float:
    """Area under the ROC curve (Hanley and McNeil 1982); nan without both classes.

    Reference: ``sklearn.metrics.roc_auc_score``.
    """
    positive, negative = _curve(scores, labels, weights)
    if positive[-1] == 0 or negative[-1] == 0:
        return float("nan")
    tpr, fpr = np.r_[0, positive / positive[-1]], np.r_[0, negative / negative[-1]]
    return float(np.trapezoid(tpr, fpr))


def average_precision(scores: Floats, labels: Bools, weights: Floats) -> float:
    """Average precision, the step-wise area under precision-recall (Zhu 2004); nan without a positive.

    M. Zhu, "Recall, precision and average precision", University of Waterloo working paper 2004-09. Reference:
    ``sklearn.metrics.average_precision_score``.
    """
    positive, negative = _curve(scores, labels, weights)
    if positive[-1] == 0:
        return float("nan")
    seen = positive + negative
    precision = np.divide(positive, seen, out=np.zeros_like(positive), where=seen > 0)
    return float(np.sum(np.diff(np.r_[0, positive / positive[-1]]) * precision))


def tpr_at_fpr(target: float) -> Metric:
    """The metric "true-positive rate at a false-positive rate of at most ``target``".

    It is what Carlini et al. 2022 ("Membership inference attacks from first principles", arXiv 2112.03570) ask for in
    place of the AUROC where false alarms are dear: a point of the ROC curve, not interpolated. Reference:
    ``sklearn.metrics.roc_curve``.
    """

    def metric(scores: Floats, labels: Bools, weights: Floats) -> float:
        positive, negative = _curve(scores, labels, weights)
        if positive[-1] == 0 or negative[-1] == 0:
            return float("nan")
        allowed = negative / negative[-1] <= target + 1e-12
        return float(positive[allowed][-1] / positive[-1]) if allowed.any() else 0.0

    return metric


def f1_at(threshold: float) -> Metric:
    """The metric F1 of ``score >= threshold`` (van Rijsbergen 1979); 0 where nothing is right.

    Reference: ``sklearn.metrics.f1_score``.
    """

    def metric(scores: Floats, labels: Bools, weights: Floats) -> float:
        said = scores >= threshold
        right = weights[said & labels].sum()
        total = weights[said].sum() + weights[labels].sum()
        return float(2 * right / total) if total else float("nan")

    return metric


def fpr_at(threshold: float) -> Metric:
    """The metric false-positive rate of ``score >= threshold`` (1 less the specificity of Yerushalmy 1947).

    Reference: ``sklearn.metrics.recall_score`` of the negatives.
    """

    def metric(scores: Floats, labels: Bools, weights: Floats) -> float:
        negatives = weights[~labels].sum()
        return float(weights[(scores >= threshold) & ~labels].sum() / negatives) if negatives else float("nan")

    return metric


def recall_at(threshold: float) -> Metric:
    """The metric recall, or true-positive rate, of ``score >= threshold``: the sensitivity of Yerushalmy 1947.

    J. Yerushalmy, "Statistical problems in assessing methods of medical diagnosis, with special reference to X-ray
    techniques", Public Health Reports 62, 1432-1449. Reference: ``sklearn.metrics.recall_score``.
    """

    def metric(scores: Floats, labels: Bools, weights: Floats) -> float:
        positives = weights[labels].sum()
        return float(weights[(scores >= threshold) & labels].sum() / positives) if positives else float("nan")

    return metric


def expected_calibration_error(scores: Floats, labels: Bools, weights: Floats, *, bins: int = 10) -> float:
    """ECE over equal-width bins (Naeini, Cooper and Hauskrecht 2015).

    Reference: the bins of ``sklearn.calibration.calibration_curve``, and a worked example.
    """
    which = np.clip((scores * bins).astype(int), 0, bins - 1)
    total = weights.sum()
    gap = 0.0
    for at in range(bins):
        inside = which == at
        mass = weights[inside].sum()
        if mass:
            said = np.average(scores[inside], weights=weights[inside])
            was = np.average(labels[inside].astype(float), weights=weights[inside])
            gap += mass / total * abs(said - was)
    return float(gap)


def brier(scores: Floats, labels: Bools, weights: Floats) -> float:
    """Mean squared error of the probability (Brier 1950). Reference: ``sklearn.metrics.brier_score_loss``."""
    return float(np.average((scores - labels) ** 2, weights=weights))


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % score interval of the share ``count / n`` (Wilson 1927); nan without a unit.

    It takes the units as independent: where several come from one scenario it is too narrow. Reference:
    ``statsmodels.stats.proportion.proportion_confint``; its coverage is summed over all counts.
    """
    if not n:
        return float("nan"), float("nan")
    share, spread = count / n, _Z95**2 / n
    middle = share + spread / 2
    half = float(np.sqrt(share * (1 - share) * spread + spread**2 / 4))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return (max(low, 0.0) if count else 0.0), (min(high, 1.0) if count < n else 1.0)


def _draws(groups: Sequence[Hashable], draws: int, seed: int) -> NDArray[np.float64]:
    """``(draws, n)`` weights: how often each unit's group was drawn with replacement."""
    names, codes = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, codes].astype(np.float64)


def estimate(
    metric: Metric,
    scores: Floats,
    labels: Bools,
    groups: Sequence[Hashable],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A metric with its 95 % percentile interval, resampling whole groups (scenarios)."""
    if not len(scores):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0, positives=0)
    value = metric(scores, labels, np.ones(len(scores)))
    low, high = _percentiles([metric(scores, labels, weights) for weights in _draws(groups, draws, seed)])
    return Estimate(value=value, low=low, high=high, n=len(scores), positives=int(labels.sum()))


def paired_difference(
    metric: Metric,
    first: Floats,
    second: Floats,
    labels: Bools,
    groups: Sequence[Hashable],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """``metric(first) - metric(second)`` on the same units, with a paired 95 % interval."""
    ones = np.ones(len(labels))
    value = metric(first, labels, ones) - metric(second, labels, ones)
    differences = [
        metric(first, labels, weights) - metric(second, labels, weights) for weights in _draws(groups, draws, seed)
    ]
    low, high = _percentiles(differences)
    return Estimate(value=value, low=low, high=high, n=len(labels), positives=int(labels.sum()))


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
