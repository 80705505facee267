"""Is one monitor better than another? Tests on the same traces, correction, power, calibration by bin.

Scores are ``(n,)`` float, labels ``(n,)`` bool, groups ``(n,)`` of anything: units of one group (a
scenario) may depend on each other, groups may not. Scores are finite: what an unscored case counts as,
above or below all others, is decided before. Usable without torch.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability.metrics import Bools, Floats, Metric, auroc
from cot_probe.monitorability.resampling import (
    bootstrap,
    group_codes,
    share_estimate,
    statistic_of,
)

Test = Literal["delong", "permutation"]

FEW_GROUPS: Final = 40
"""Under so many groups the normal approximation of DeLong's test is not trusted."""
_SAME: Final = 1e-12
"""Differences this close are the same: permuted ones differ by rounding alone."""
_NO_VARIANCE: Final = 1e-18
"""What rounding leaves of a variance that is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Two monitors on the same units.

    Attributes:
        first: The metric of the first monitor.
        second: Of the second.
        difference: ``first - second``.
        low: Lower end of its 95 % percentile bootstrap interval, by group.
        high: Its upper end.
        standard_error: Of the difference: over the draws, or DeLong's.
        p: Two-sided; nan where no test is defined.
        test: Which test gave it.
        n: Units.
        positives: Of these, positive.
        groups: Independent groups of them.
        needed: Units that would separate the two at 80 % power, see :func:`traces_needed`; None where no
            number would. ``max(needed - n, 0)`` more are wanted.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    standard_error: float
    p: float
    test: Test
    n: int
    positives: int
    groups: int
    needed: int | None


def compare(
    metric: Metric,
    first: Floats,
    second: Floats,
    labels: Bools,
    groups: Sequence[Hashable],
    *,
    test: Test | None = None,
    ranks: bool = True,
    draws: int = 1000,
    permutations: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Compare two monitors on the same units: interval by bootstrap, p by DeLong or by permutation.

    Args:
        metric: As in :mod:`cot_probe.monitorability.metrics`.
        first: Scores of one monitor, ``(n,)``.
        second: Scores of the other, ``(n,)``, on any scale if ``ranks``.
        labels: ``(n,)``.
        groups: ``(n,)``, resampled and permuted whole.
        test: None takes DeLong's for the AUROC of at least ``FEW_GROUPS`` groups, else permutation.
        ranks: The metric depends on the order of the scores alone; see :func:`permutation_p`.
        draws: Of the bootstrap.
        permutations: Of the permutation test.
        seed: Of both.

    Raises:
        ValueError: if arrays differ in length, are empty or not finite; if DeLong's test is asked of
            another metric than the AUROC; if ``ranks`` is said of a metric that needs the scores.
    """
    first, second, labels = _checked(first, second, labels, groups)
    if test == "delong" and metric is not auroc:
        raise ValueError('DeLong\'s test is of the AUROC alone: take test="permutation" for other metrics')
    of_first, of_second = statistic_of(metric, first, labels), statistic_of(metric, second, labels)
    found = bootstrap(lambda weights: of_first(weights) - of_second(weights), groups, draws=draws, seed=seed)
    ones = np.ones((1, len(labels)))
    count = group_codes(groups)[1]
    p, error = float("nan"), found.standard_error
    if metric is auroc and (test == "delong" or (test is None and count >= FEW_GROUPS)):
        _, error, p = delong_test(first, second, labels, groups)
    used: Test = "delong"
    if test == "permutation" or (test is None and math.isnan(p)):
        used, error = "permutation", found.standard_error
        p = permutation_p(metric, first, second, labels, groups, ranks=ranks, permutations=permutations, seed=seed)
    return PairedTest(
        first=float(of_first(ones)[0]),
        second=float(of_second(ones)[0]),
        difference=found.value,
        low=found.low,
        high=found.high,
        standard_error=error,
        p=p,
        test=used,
        n=len(labels),
        positives=int(labels.sum()),
        groups=count,
        needed=traces_needed(found.value, error, len(labels)),
    )


def _checked(first: Floats, second: Floats, labels: Bools, groups: Sequence[Hashable]) -> tuple[Floats, Floats, Bools]:
    first, second, labels = np.asarray(first, float), np.asarray(second, float), np.asarray(labels, bool)
    sizes = {"first": len(first), "second": len(second), "labels": len(labels), "groups": len(groups)}
    if len(set(sizes.values())) > 1 or not len(labels):
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"found {found} values, expected as many of each and at least one: give the same cases to all")
    unscored = int(np.sum(~np.isfinite(first)) + np.sum(~np.isfinite(second)))
    if unscored:
        raise ValueError(
            f"{unscored} of {2 * len(labels)} scores are nan or infinite, expected finite ones: decide first what an "
            "unscored case counts as (more than all others for an alarm, less for a miss, or left out for both monitors)"
        )
    return first, second, labels


def delong_covariance(
    scores: Floats, labels: Bools, groups: Sequence[Hashable] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC of several monitors on the same units, and the covariance of these estimates.

    A positive's component is the share of negatives that it outranks (ties half), a negative's the share
    of positives that outrank it; the covariance is that of their means (DeLong, DeLong and Clarke-Pearson
    1988, "Comparing the areas under two or more correlated receiver operating characteristic curves: a
    nonparametric approach", Biometrics 44, 837-845). Components of one group are summed first, after
    Obuchowski 1997 ("Nonparametric analysis of clustered ROC curve data", Biometrics 53, 567-578), which
    is DeLong's where each unit is a group of its own. Reference: the images of Hanley and McNeil as Stata prints them.

    Args:
        scores: ``(monitors, n)``, no nan.
        labels: ``(n,)``.
        groups: ``(n,)``; None: every unit is its own.

    Returns:
        ``(monitors,)`` areas and ``(monitors, monitors)`` covariance, nan where it is not defined (a class
        is missing, or is in fewer than two groups).
    """
    scores = np.atleast_2d(np.asarray(scores, float))
    labels = np.asarray(labels, bool)
    codes, count = group_codes(range(len(labels)) if groups is None else groups)
    m, n = int(labels.sum()), int((~labels).sum())
    k = len(scores)
    if not m or not n:
        return np.full(k, np.nan), np.full((k, k), np.nan)
    areas = np.empty(k)
    # Per group, the components less what the area would have them be: of its positives, of its negatives.
    positive, negative = np.zeros((k, count)), np.zeros((k, count))
    for at, row in enumerate(scores):
        above, below = _placements(row[labels], row[~labels])
        areas[at] = above.mean()
        np.add.at(positive[at], codes[labels], above - areas[at])
        np.add.at(negative[at], codes[~labels], below - areas[at])
    with_positive, with_negative = len(np.unique(codes[labels])), len(np.unique(codes[~labels]))
    if with_positive < 2 or with_negative < 2:
        return areas, np.full((k, k), np.nan)
    s10 = positive @ positive.T * with_positive / ((with_positive - 1) * m)
    s01 = negative @ negative.T * with_negative / ((with_negative - 1) * n)
    s11 = positive @ negative.T * count / (count - 1)
    return areas, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def _placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Share of negatives under each positive and of positives over each negative, ties half."""
    over, under = np.sort(positive), np.sort(negative)
    above = (np.searchsorted(under, positive, "left") + np.searchsorted(under, positive, "right")) / 2
    below = (np.searchsorted(over, negative, "left") + np.searchsorted(over, negative, "right")) / 2
    return above / len(negative), 1 - below / len(positive)


def delong_test(
    first: Floats, second: Floats, labels: Bools, groups: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """Difference of two AUROCs on the same units, its standard error, and two-sided p of "no difference".

    As :func:`delong_covariance`, with the normal distribution. The same scores give p = 1; where the
    standard error is 0 though the areas differ (one ranks perfectly, the other not at all) p is nan.
    """
    areas, covariance = delong_covariance(np.stack([first, second]), labels, groups)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= _NO_VARIANCE:
        return difference, 0.0, 1.0 if abs(difference) < _SAME else float("nan")
    error = math.sqrt(variance)
    return difference, error, math.erfc(abs(difference) / error / math.sqrt(2))


def permutation_p(
    metric: Metric,
    first: Floats,
    second: Floats,
    labels: Bools,
    groups: Sequence[Hashable],
    *,
    ranks: bool = True,
    permutations: int = 2000,
    seed: int = 0,
) -> float:
    """Two-sided p of "which monitor gave which score does not matter", exchanging them in whole groups.

    The scores of monitors are exchangeable only on one scale, hence as mid-ranks within each monitor
    (Bandos, Rockette and Gur 2005, "A permutation test sensitive to differences in areas for comparing ROC
    curves from a paired design", Statistics in Medicine 24, 2873-2893). With ``ranks=False`` they are
    taken as they are, which suits alarms (0 or 1, then F1, recall ...) and probabilities (Brier score).
    Every exchange is tried where there are no more than ``permutations``; else p is
    ``(1 + as extreme) / (1 + permutations)``, never 0 (Phipson and Smyth 2010, "Permutation p-values should
    never be zero", Statistical Applications in Genetics and Molecular Biology 9, 39). nan where the
    metric is. Reference: ``scipy.stats.permutation_test``, and for alarms McNemar's exact test in statsmodels.

    Raises:
        ValueError: as :func:`compare`.
    """
    first, second, labels = _checked(first, second, labels, groups)
    ones = np.ones(len(labels))
    if ranks:
        before = metric(first, labels, ones), metric(second, labels, ones)
        first, second = _midranks(first), _midranks(second)
        after = metric(first, labels, ones), metric(second, labels, ones)
        if not np.allclose(before, after, equal_nan=True):
            raise ValueError(
                f"the metric is {before[0]:.3g} and {before[1]:.3g} of the scores, {after[0]:.3g} and {after[1]:.3g} "
                "of their ranks, expected no difference: pass ranks=False, with both monitors on one scale"
            )
    seen = metric(first, labels, ones) - metric(second, labels, ones)
    if math.isnan(seen):
        return float("nan")
    codes, count = group_codes(groups)
    # Exchanging every group only turns the sign, so half of the exchanges are the whole test.
    exact = count < 32 and 2 ** (count - 1) <= permutations
    exchanges = _all_exchanges(count) if exact else _random_exchanges(count, permutations, seed)
    extreme = tried = 0
    for exchanged in exchanges:
        at = exchanged[codes]
        there = metric(np.where(at, second, first), labels, ones)
        here = metric(np.where(at, first, second), labels, ones)
        extreme += abs(there - here) >= abs(seen) - _SAME
        tried += 1
    return extreme / tried if exact else (1 + extreme) / (1 + tried)


def _all_exchanges(count: int) -> Iterator[Bools]:
    bits = np.arange(count - 1)
    for number in range(2 ** (count - 1)):
        yield np.r_[False, (number >> bits & 1).astype(bool)]


def _random_exchanges(count: int, permutations: int, seed: int) -> Iterator[Bools]:
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        yield rng.random(count) < 0.5


def _midranks(scores: Floats) -> NDArray[np.float64]:
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which], dtype=np.float64)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """P-values corrected so that the chance of any false rejection among them stays under the level.

    The k-th smallest of m is multiplied by ``m - k + 1``; none falls below one before it, none exceeds 1
    (Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 65-70). A nan is no test: it stays nan and does not count. Reference:
    ``statsmodels.stats.multitest.multipletests``.
    """
    p = np.asarray(p_values, dtype=np.float64)
    out = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return out


def traces_needed(
    difference: float, standard_error: float, n: int, *, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """How many traces it takes to tell two monitors apart with this power, if they differ by what was seen.

    The standard error shrinks with the root of the number of traces: ``n * ((z(1 - alpha / 2) + z(power)) *
    standard_error / difference)**2``, rounded up (the usual formula of the two-sided z test: Chow, Shao
    and Wang, "Sample Size Calculations in Clinical Research", 2008, chapter 3). The traces must be of the same
    kind: the same share of positives, groups of the same size. What was seen is itself uncertain, and is
    the larger by chance the fewer the traces: it is a number to plan with, no more. Reference: statsmodels'
    ``NormalIndPower``; that so many do give the power is simulated.

    Args:
        difference: Of the metrics, on ``n`` traces.
        standard_error: Of that difference.
        n: Traces it was measured on.
        power: Chance to find it.
        alpha: Level of the two-sided test.

    Returns:
        Traces in all, those at hand included, at least 2; None where there is no difference to find, or no
        spread known.
    """
    from scipy.special import ndtri

    if not (math.isfinite(difference) and math.isfinite(standard_error)) or abs(difference) < _SAME or not n:
        return None
    if not standard_error:
        return None
    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    return max(2, math.ceil(n * (z * standard_error / difference) ** 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Scores from ``start`` to under ``end`` (the last bin includes it): what was said and what was so.

    ``said`` is their mean, ``rate`` the share of positives among them with its 95 % interval.
    """

    start: float
    end: float
    said: float
    rate: float
    low: float
    high: float
    n: int
    positives: int


def reliability(
    scores: Floats,
    labels: Bools,
    groups: Sequence[Hashable] | None = None,
    *,
    bins: int = 10,
    equal: Literal["width", "mass"] = "width",
    draws: int = 1000,
    seed: int = 0,
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve of probabilities: share of positives by score, with intervals; empty bins left out.

    Murphy and Winkler 1977, "Reliability of subjective probability forecasts of precipitation and
    temperature", Applied Statistics 26, 41-47. Bins of equal width are those of
    :func:`cot_probe.monitorability.metrics.expected_calibration_error`, which is the mean of
    ``abs(said - rate)`` weighted by ``n``; bins of equal mass hold as many scores each, so far as ties let them.
    Intervals as :func:`cot_probe.monitorability.resampling.share_estimate`. Reference:
    ``sklearn.calibration.calibration_curve``.

    Raises:
        ValueError: if a score is no probability.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(scores)} scores are no probabilities (the first: {scores[wrong][0]}), expected "
            "0 to 1: only probabilities can be calibrated; leave this curve out or calibrate the monitor"
        )
    names = np.array([str(group) for group in (range(len(scores)) if groups is None else groups)])
    if equal == "width":
        edges, which = np.linspace(0, 1, bins + 1), np.clip((scores * bins).astype(int), 0, bins - 1)
    else:
        edges = np.quantile(scores, np.linspace(0, 1, bins + 1)) if len(scores) else np.linspace(0, 1, bins + 1)
        which = np.searchsorted(edges[1:-1], scores, side="right")
    out = []
    for at in np.unique(which):
        inside = which == at
        rate = share_estimate(labels[inside], list(names[inside]), draws=draws, seed=seed)
        out.append(
            ReliabilityBin(
                start=float(edges[at]),
                end=float(edges[at + 1]),
                said=float(scores[inside].mean()),
                rate=rate.value,
                low=rate.low,
                high=rate.high,
                n=rate.n,
                positives=rate.positives,
            )
        )
    return tuple(out)
