"""Two-by-two tables: the rate of an outcome in one group of cases against that in another, also within strata.

A ratio or an odds ratio of 0 or infinity stays what it is: no half is added to a cell. Its interval is then open to
that side, and nan stands where there is nothing to compare. Intervals are of 95 % and take the cases as independent,
but for `Association.by_group`, which resamples whole groups. No figure here says what causes what.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability.metrics import Bools, Floats, estimate, wilson

_Z95: Final = 1.959963984540054
"""The 97.5 % point of the normal distribution."""
_FARTHEST: Final = 60.0
"""How far from 1 the ends of a ratio's interval are looked for, as a natural logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """``count`` of ``of``, with the 95 % score interval of Wilson (1927); nan where ``of`` is 0."""

    count: int
    of: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A difference or a ratio with its 95 % interval; nan where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """The rate of an outcome in one group of cases against a reference group.

    Attributes:
        names: Of the group and of the reference, such as ``("real", "test")``.
        group: How many cases of the group have the outcome.
        reference: How many of the reference group.
        difference: Rate in the group minus rate in the reference (`risk_difference`).
        ratio: Rate in the group over rate in the reference (`risk_ratio`).
        odds: Odds in the group over odds in the reference (`odds_ratio`).
        p: Two-sided, of Fisher's exact test; nan without a case on either side.
    """

    names: tuple[str, str]
    group: Share
    reference: Share
    difference: Effect
    ratio: Effect
    odds: Effect
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """The two rates in one stratum (a model, a scenario), and their difference."""

    name: str
    group: Share
    reference: Share
    difference: Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratified:
    """Effects common to all strata, after Mantel and Haenszel (1959); see `mantel_haenszel`.

    Attributes:
        difference: Common difference of rates.
        ratio: Common ratio of rates.
        odds: Common odds ratio.
        chi2: Of the Cochran-Mantel-Haenszel test of "no association in any stratum", 1 degree of freedom.
        p: Its p-value.
        homogeneity: Statistic of Breslow and Day with Tarone's correction: is the odds ratio the same in all strata?
        homogeneity_p: Its p-value: where small, a common effect describes no stratum. Poor with few cases a stratum.
        degrees: Its degrees of freedom, informative strata less 1; 0 where nothing can be tested.
        strata: Strata with cases on both sides.
        one_sided: Cases in the other strata: these say nothing of the difference.
    """

    difference: Effect
    ratio: Effect
    odds: Effect
    chi2: float
    p: float
    homogeneity: float
    homogeneity_p: float
    degrees: int
    strata: int
    one_sided: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """An outcome in one group of cases against another: in all, by whole groups, and within strata.

    Attributes:
        contrast: All cases of either side together, whatever their stratum.
        by_group: The difference of rates again, its interval by resampling whole groups (scenarios); None where
            no two cases share a group, or all do; nan ends where every draw agrees. Rough with few groups.
        groups: How many groups there are on both sides together.
        stratified: Within strata; None where there are not two.
        strata: Each of them, in name order.
    """

    contrast: Contrast
    by_group: Effect | None
    groups: int
    stratified: Stratified | None
    strata: tuple[Stratum, ...]


def share(count: int, of: int) -> Share:
    """``count`` of ``of`` as a `Share`.

    Raises:
        ValueError: if it is not 0 <= count <= of.
    """
    if not 0 <= count <= of:
        raise ValueError(f"{count} of {of}: expected a count from 0 to {of}")
    low, high = wilson(count, of)
    return Share(count=count, of=of, value=count / of if of else math.nan, low=low, high=high)


def contrast(group: Share, reference: Share, names: tuple[str, str]) -> Contrast:
    """The group's rate against that of the reference group, by every measure."""
    return Contrast(
        names=names,
        group=group,
        reference=reference,
        difference=risk_difference(group, reference),
        ratio=risk_ratio(group, reference),
        odds=odds_ratio(group, reference),
        p=fisher(group, reference),
    )


def risk_difference(group: Share, reference: Share) -> Effect:
    """Rate in the group minus rate in the reference, with the hybrid score interval (Newcombe 1998, method 10).

    R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven
    methods", Statistics in Medicine 17 (1998) 873-890. Reference: its table II, and
    ``statsmodels.stats.proportion.confint_proportions_2indep``; coverage is summed over all counts.
    """
    value = group.value - reference.value
    low = value - math.hypot(group.value - group.low, reference.high - reference.value)
    high = value + math.hypot(group.high - group.value, reference.value - reference.low)
    return Effect(value=value, low=low, high=high)


def risk_ratio(group: Share, reference: Share) -> Effect:
    """Rate in the group over rate in the reference, with the score interval of Koopman (1984).

    P. A. R. Koopman, "Confidence intervals for the ratio of two binomial proportions", Biometrics 40 (1984) 513-517.
    It is defined with empty cells: the ratio is then 0 or infinite and the interval open to that side. Reference:
    ``scipy.stats.contingency.relative_risk``, the interval as in statsmodels.
    """
    if not group.of or not reference.of:
        return Effect(value=math.nan, low=math.nan, high=math.nan)
    x1, n1, x0, n0 = group.count, group.of, reference.count, reference.of

    def score(ratio: float) -> float:
        """How far the data are from this ratio, in standard errors; falls as the ratio grows."""
        b = ratio * (n1 + x0) + x1 + n0
        p0 = 2 * (x1 + x0) / (b + math.sqrt(max(b * b - 4 * ratio * (n1 + n0) * (x1 + x0), 0.0)))
        p1 = min(ratio * p0, 1.0)
        variance = p1 * (1 - p1) / n1 + ratio * ratio * p0 * max(1 - p0, 0.0) / n0
        return _over(x1 / n1 - ratio * x0 / n0, variance)

    return _score_effect(score, _quotient(group.value, reference.value))


def odds_ratio(group: Share, reference: Share) -> Effect:
    """Odds in the group over odds in the reference, with the score interval (Miettinen and Nurminen 1985).

    O. Miettinen and M. Nurminen, "Comparative analysis of two rates", Statistics in Medicine 4 (1985) 213-226,
    without their factor n / (n - 1); the value is the plain cross-product. Defined with empty cells. Reference:
    ``scipy.stats.contingency.odds_ratio``, the interval as in statsmodels.
    """
    if not group.of or not reference.of:
        return Effect(value=math.nan, low=math.nan, high=math.nan)
    x1, n1, x0, n0 = group.count, group.of, reference.count, reference.of

    def score(odds: float) -> float:
        expected, variance = _expected(n1, x1 + x0, n0, odds)
        return _over(x1 - expected, variance)

    return _score_effect(score, _quotient(x1 * (n0 - x0), (n1 - x1) * x0))


def fisher(group: Share, reference: Share) -> float:
    """Two-sided p of the exact test of Fisher (1922): tables no likelier than this one; nan without a case of either.

    R. A. Fisher, "On the interpretation of chi-squared from contingency tables, and the calculation of P", Journal of
    the Royal Statistical Society 85 (1922) 87-94. Reference: his own tea, and counting all tables.
    """
    from scipy.stats import fisher_exact

    if not group.of or not reference.of:
        return math.nan
    return float(fisher_exact([[side.count, side.of - side.count] for side in (group, reference)]).pvalue)


def _expected(n1: float, cases: float, n0: float, odds: float) -> tuple[float, float]:
    """Expected count of the group under an odds ratio, with both margins as they are, and its variance (0 at a bound).

    The root of ``x (n0 - cases + x) = odds (n1 - x) (cases - x)`` that leaves no cell negative.
    """
    b = odds * (n1 + cases) + n0 - cases
    root = math.sqrt(max(b * b - 4 * (odds - 1) * odds * n1 * cases, 0.0))
    # Two forms of the same root: each loses its digits where the other does not. b < 0 only where odds < 1.
    x = 2 * odds * n1 * cases / (b + root) if b >= 0 else (root - b) / (2 * (1 - odds))
    parts = (x, n1 - x, cases - x, n0 - cases + x)
    return x, 1 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


def _quotient(above: float, below: float) -> float:
    if below:
        return above / below
    return math.inf if above else math.nan


def _over(distance: float, variance: float) -> float:
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _score_effect(score: Callable[[float], float], value: float) -> Effect:
    """The ratio with the interval of those that a score test does not reject at 5 %."""
    from scipy.optimize import brentq

    if math.isnan(value):
        return Effect(value=value, low=0.0, high=math.inf)
    middle = min(max(math.log(value), -_FARTHEST), _FARTHEST) if 0 < value < math.inf else 0.0

    def crossing(target: float, begin: float, end: float) -> float:
        """Where the score, which falls, is ``target`` between two logarithms."""

        def bounded(at: float) -> float:
            return min(max(score(math.exp(at)), -1e6), 1e6) - target

        return math.exp(float(brentq(bounded, begin, end, xtol=1e-12, rtol=1e-12)))

    open_low, open_high = value == 0, value == math.inf
    low = 0.0 if open_low else crossing(_Z95, -_FARTHEST, _FARTHEST if open_high else middle)
    high = math.inf if open_high else crossing(-_Z95, -_FARTHEST if open_low else middle, _FARTHEST)
    return Effect(value=value, low=low, high=high)


def mantel_haenszel(strata: Sequence[tuple[Share, Share]]) -> Stratified:
    """Effects held common to all strata, and tests of "none" and of "the same everywhere".

    Estimates and test: N. Mantel and W. Haenszel, "Statistical aspects of the analysis of data from retrospective
    studies of disease", JNCI 22 (1959) 719-748; the test without a continuity correction. Variance of the log odds
    ratio: Robins, Breslow and Greenland, Biometrics 42 (1986) 311-323; of the log ratio of rates: Greenland and
    Robins, Biometrics 41 (1985) 55-68; of the difference: Sato, Greenland and Robins, Biometrics 45 (1989) 1323-1324.
    Homogeneity: Breslow and Day, Statistical Methods in Cancer Research 1 (1980) 142, with the correction of Tarone,
    Biometrika 72 (1985) 91-95. An interval is nan where a variance is not defined or 0. Reference: R on Berkeley's
    admissions, metafor on the BCG trials, Agresti's smokers, ``statsmodels.stats.contingency_tables.StratifiedTable``.

    Args:
        strata: Group and reference in each stratum.
    """
    from scipy.special import chdtrc

    counts = [(g.count, g.of, r.count, r.of) for g, r in strata]
    table = np.array([row for row in counts if row[1] and row[3]], dtype=np.float64).reshape(-1, 4)
    one_sided = sum(row[1] + row[3] for row in counts if not (row[1] and row[3]))
    a, n1, c, n0 = table.T
    total, cases = n1 + n0, a + c
    odds = _common_odds(a, n1, c, n0)
    mean, spread = n1 * cases / total, n1 * n0 * cases * (total - cases) / (total**2 * np.maximum(total - 1, 1))
    chi2 = float((a - mean).sum() ** 2 / spread.sum()) if spread.sum() else math.nan
    homogeneity, degrees = _breslow_day(table, odds.value)
    return Stratified(
        difference=_common_difference(a, n1, c, n0),
        ratio=_common_ratio(a, n1, c, n0),
        odds=odds,
        chi2=chi2,
        p=float(chdtrc(1, chi2)),
        homogeneity=homogeneity,
        homogeneity_p=float(chdtrc(degrees, homogeneity)) if degrees else math.nan,
        degrees=degrees,
        strata=len(table),
        one_sided=one_sided,
    )


def _common_odds(a: Floats, n1: Floats, c: Floats, n0: Floats) -> Effect:
    b, d, total = n1 - a, n0 - c, n1 + n0
    r, s, p, q = a * d / total, b * c / total, (a + d) / total, (b + c) / total
    above, below = float(r.sum()), float(s.sum())
    if not above or not below:
        return _log_effect(_quotient(above, below), math.nan)
    variance = (p * r).sum() / (2 * above**2) + (q * s).sum() / (2 * below**2)
    return _log_effect(above / below, float(variance + (p * s + q * r).sum() / (2 * above * below)))


def _common_ratio(a: Floats, n1: Floats, c: Floats, n0: Floats) -> Effect:
    total = n1 + n0
    above, below = float((a * n0 / total).sum()), float((c * n1 / total).sum())
    if not above or not below:
        return _log_effect(_quotient(above, below), math.nan)
    variance = ((n1 * n0 * (a + c) - a * c * total) / total**2).sum() / (above * below)
    return _log_effect(above / below, float(variance))


def _log_effect(value: float, variance: float) -> Effect:
    if not variance > 0:
        return Effect(value=value, low=math.nan, high=math.nan)
    factor = math.exp(_Z95 * math.sqrt(variance))
    return Effect(value=value, low=value / factor, high=value * factor)


def _common_difference(a: Floats, n1: Floats, c: Floats, n0: Floats) -> Effect:
    total = n1 + n0
    weight = float((n1 * n0 / total).sum())
    if not weight:
        return Effect(value=math.nan, low=math.nan, high=math.nan)
    value = float(((a * n0 - c * n1) / total).sum()) / weight
    p = ((n1**2 * c - n0**2 * a + n1 * n0 * (n0 - n1) / 2) / total**2).sum()
    q = ((a * (n0 - c) + c * (n1 - a)) / (2 * total)).sum()
    variance = float(value * p + q) / weight**2
    if not variance > 0:
        return Effect(value=value, low=math.nan, high=math.nan)
    half = _Z95 * math.sqrt(variance)
    return Effect(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0))


def _breslow_day(table: NDArray[np.float64], odds: float) -> tuple[float, int]:
    """Statistic with Tarone's correction and its degrees of freedom; ``(nan, 0)`` where nothing can be tested."""
    a, n1, c, n0 = table[(table[:, 0] + table[:, 2] > 0) & (table[:, 0] + table[:, 2] < table[:, 1] + table[:, 3])].T
    if len(a) < 2 or not 0 < odds < math.inf:
        return math.nan, 0
    expected, variance = np.array([_expected(*row, odds) for row in zip(n1, a + c, n0, strict=True)]).T
    statistic = ((a - expected) ** 2 / variance).sum() - (a - expected).sum() ** 2 / variance.sum()
    return max(float(statistic), 0.0), len(a) - 1


def associate(
    outcomes: Sequence[bool] | Bools,
    group: Sequence[bool] | Bools,
    reference: Sequence[bool] | Bools,
    *,
    names: tuple[str, str],
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Association:
    """The outcome in one group of cases against that in another; cases in neither are left out.

    Args:
        outcomes: ``(n,)`` whether it happened.
        group: ``(n,)`` which cases are of the group.
        reference: ``(n,)`` which are of the reference group.
        names: Of group and reference.
        groups: ``(n,)`` what is resampled whole (the scenario); None: no interval by groups.
        strata: ``(n,)`` what is held fixed (the model); None: no stratified analysis.
        draws: Of the bootstrap by groups.
        seed: Of the bootstrap by groups.

    Raises:
        ValueError: if lengths differ, or a case is in both.
    """
    outcome, one, other = (np.asarray(side, dtype=bool) for side in (outcomes, group, reference))
    lengths = {len(outcome), len(one), len(other), *(len(some) for some in (groups, strata) if some is not None)}
    if len(lengths) > 1:
        raise ValueError(f"{names[0]} against {names[1]}: lengths {sorted(lengths)}, expected one: one entry a case")
    if (one & other).any():
        at = int(np.flatnonzero(one & other)[0])
        raise ValueError(f"case {at} is of {names[0]!r} and of {names[1]!r}, expected one at most")
    known = np.flatnonzero(one | other).tolist()
    keys = [str(groups[at]) for at in known] if groups is not None else []
    layers = _strata(outcome, one, other, strata) if strata is not None else ()
    return Association(
        contrast=contrast(_counted(outcome, one), _counted(outcome, other), names),
        by_group=_by_group(outcome[known], one[known], keys, draws, seed),
        groups=len(set(keys)),
        stratified=mantel_haenszel([(s.group, s.reference) for s in layers]) if len(layers) > 1 else None,
        strata=layers,
    )


def _counted(outcome: Bools, among: Bools) -> Share:
    return share(int((outcome & among).sum()), int(among.sum()))


def _strata(outcome: Bools, one: Bools, other: Bools, strata: Sequence[str]) -> tuple[Stratum, ...]:
    names = np.array([str(name) for name in strata], dtype=object)
    out = []
    for name in sorted({str(names[at]) for at in np.flatnonzero(one | other)}):
        inside = np.asarray(names == name, dtype=bool)
        group, reference = _counted(outcome, one & inside), _counted(outcome, other & inside)
        difference = risk_difference(group, reference)
        out.append(Stratum(name=name, group=group, reference=reference, difference=difference))
    return tuple(out)


def _by_group(outcome: Bools, one: Bools, keys: Sequence[str], draws: int, seed: int) -> Effect | None:
    if not 1 < len(set(keys)) < len(keys) or one.all() or not one.any():
        return None
    found = estimate(_weighted_difference, one.astype(np.float64), outcome, keys, draws=draws, seed=seed)
    if found.low == found.high:  # every draw agrees: resampling cannot look beyond what it has seen
        return Effect(value=found.value, low=math.nan, high=math.nan)
    return Effect(value=found.value, low=found.low, high=found.high)


def _weighted_difference(one: Floats, outcome: Bools, weights: Floats) -> float:
    """The difference of rates as a metric: ``one`` is 1 for cases of the group and 0 for those of the reference."""
    rates = []
    for side in (one > 0, one == 0):
        mass = weights[side].sum()
        if not mass:
            return math.nan
        rates.append(float(weights[side & outcome].sum() / mass))
    return rates[0] - rates[1]
