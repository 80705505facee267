from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from cot_probe.monitorability import metrics, resampling
from cot_probe.monitorability.resampling import bootstrap, ratio, share_estimate, statistic_of

DATA = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def test_the_bootstrap_is_that_of_metrics_whether_at_once_or_in_parts(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.random(90) < 0.4, list(rng.integers(0, 20, 90))
    scores = rng.normal(size=90) + labels
    expected = metrics.estimate(metrics.auroc, scores, labels, groups, draws=150, seed=3)
    for cells in (10**6, 1000):
        monkeypatch.setattr(resampling, "_CELLS", cells)
        found = bootstrap(statistic_of(metrics.auroc, scores, labels), groups, draws=150, seed=3)
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert sum(len(rows) for rows in resampling.jackknife_weights(groups)) == len(set(groups))


@settings(max_examples=40, deadline=None)
@given(DATA)
def test_metrics_of_many_draws_equal_one_at_a_time(rng: np.random.Generator) -> None:
    scores = np.round(rng.normal(size=40), rng.integers(0, 3))
    labels, weights = rng.random(40) < 0.3, rng.integers(0, 3, (8, 40)).astype(float)
    weights[0] *= labels  # a draw without a negative
    for metric in (metrics.auroc, metrics.average_precision, metrics.recall_at(0.5)):
        one_by_one = [metric(scores, labels, row) for row in weights]
        np.testing.assert_allclose(statistic_of(metric, scores, labels)(weights), one_by_one)
    ends, finite = np.clip(scores, -1, 1), np.where(np.abs(scores) >= 1, np.copysign(np.inf, scores), scores)
    for metric in (metrics.auroc, metrics.average_precision):  # infinite scores tie as others do
        found = statistic_of(metric, finite, labels)(weights)
        np.testing.assert_allclose(found, statistic_of(metric, ends, labels)(weights))


def test_bca_equals_scipy_for_units_and_for_groups() -> None:
    """Given the same draws; a group's sums stand for the group, so scipy can leave out whole ones."""
    rng = np.random.default_rng(1)
    groups = list(np.repeat(np.arange(25), rng.integers(1, 7, 25)))
    top, bottom = rng.exponential(size=len(groups)), rng.exponential(size=len(groups)) + 0.2
    for names in (list(range(len(groups))), groups):
        draws = np.concatenate(list(resampling.bootstrap_weights(names, 999, 5)))
        distribution = draws @ top / (draws @ bottom)
        sums = [np.bincount(resampling.group_codes(names)[0], weights=values) for values in (top, bottom)]
        expected = stats.bootstrap(
            sums,
            lambda a, b, axis=-1: np.sum(a, axis=axis) / np.sum(b, axis=axis),
            paired=True,
            method="BCa",
            n_resamples=0,
            bootstrap_result=SimpleNamespace(bootstrap_distribution=distribution),
        )
        found = bootstrap(ratio(top, bottom), names, method="bca", draws=999, seed=5)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)
        assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-9)


def test_draws_without_a_value_are_counted_and_left_out() -> None:
    labels, scores = np.array([True] + [False] * 7), np.arange(8.0)[::-1]
    found = bootstrap(statistic_of(metrics.auroc, scores, labels), range(8), draws=400)
    assert found.value == found.low == found.high == 1.0
    assert 80 < found.undefined < 200 and found.draws == 400  # (7/8)^8 = 0.34 of the draws have no positive
    never = bootstrap(statistic_of(metrics.auroc, scores, labels & False), range(8), draws=10)
    assert never.undefined == 10 and np.isnan([never.value, never.low, never.standard_error]).all()
    with pytest.raises(ValueError, match="at least one"):
        bootstrap(ratio(np.empty(0), np.empty(0)), [])


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_of_the_auroc_cover_at_the_nominal_rate(method) -> None:
    """True AUROC of N(1, 1) against N(0, 1): Phi(1 / sqrt 2). 400 repetitions: 95 % plus or minus 2."""
    truth, hits, runs = stats.norm.cdf(np.sqrt(0.5)), 0, 400
    rng = np.random.default_rng(2)
    for seed in range(runs):
        labels = rng.random(200) < 0.4
        scores = rng.normal(size=200) + labels
        found = bootstrap(statistic_of(metrics.auroc, scores, labels), range(200), method=method, draws=300, seed=seed)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / runs <= 0.97


def clustered(rng: np.random.Generator, groups: int, size: int) -> tuple[np.ndarray, list[int]]:
    """Flags, 30 % of them true, alike within a group: each has a rate of its own, Beta(0.9, 2.1)."""
    rates = rng.beta(0.9, 2.1, groups)
    return rng.random((groups, size)).ravel() < np.repeat(rates, size), list(np.repeat(np.arange(groups), size))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_over_groups_cover_and_those_over_units_do_not(method) -> None:
    """60 groups of 8 units that share a rate. 500 repetitions: 95 % plus or minus 2."""
    rng, runs, hits, naive = np.random.default_rng(3), 500, 0, 0
    for seed in range(runs):
        flags, groups = clustered(rng, 60, 8)
        statistic = ratio(flags.astype(float), np.ones(480))
        found = bootstrap(statistic, groups, method=method, draws=250, seed=seed)
        hits += found.low <= 0.3 <= found.high
        low, high = metrics.wilson(int(flags.sum()), 480)
        naive += low <= 0.3 <= high
    assert 0.93 <= hits / runs <= 0.97
    assert naive / runs < 0.8


def test_wilson_covers_at_the_nominal_rate_on_average_and_never_far_under() -> None:
    """Not in simulation but by summing over all counts (Brown, Cai and DasGupta 2001, figure 5: mean near 95 %)."""
    rates = np.linspace(0.02, 0.98, 193)
    for n in (20, 50, 200):
        ends = np.array([metrics.wilson(count, n) for count in range(n + 1)])
        inside = (ends[:, :1] <= rates) & (rates <= ends[:, 1:])
        covered = (stats.binom.pmf(np.arange(n + 1)[:, None], n, rates) * inside).sum(axis=0)
        assert 0.945 <= covered.mean() <= 0.96 and covered.min() > 0.83


def test_a_share_has_wilson_for_units_and_never_a_point_at_the_ends() -> None:
    for count in (0, 3, 10):
        flags = np.arange(10) < count
        found = share_estimate(flags, range(10))
        expected = proportion_confint(count, 10, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)
    flags, groups = np.ones(40, bool), list(np.repeat(np.arange(5), 8))
    assert share_estimate(flags, groups).low == pytest.approx(proportion_confint(5, 5, method="wilson")[0])
    assert share_estimate(~flags, groups).high == pytest.approx(proportion_confint(0, 5, method="wilson")[1])
    flags[:8] = False
    assert share_estimate(flags, groups).low == 0.4  # as 5 draws of groups, not 40 of units
    assert np.isnan(share_estimate(flags[:0], []).value)
