import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from cot_probe.monitorability import (
    cascade,
    contrasts,
    detection,
    inference,
    interventions,
    metrics,
    resampling,
    streams,
)

DATA = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def sample(rng: np.random.Generator, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.round(rng.random(n), rng.integers(1, 4))
    labels = rng.random(n) < 0.3
    labels[:2] = [True, False]
    return scores, labels, rng.integers(1, 4, n).astype(float)


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_metrics_equal_scikit_learn(rng: np.random.Generator) -> None:
    scores, labels, weights = sample(rng)
    weighted = {"sample_weight": weights}
    assert metrics.auroc(scores, labels, weights) == pytest.approx(sk.roc_auc_score(labels, scores, **weighted))
    assert metrics.average_precision(scores, labels, weights) == pytest.approx(
        sk.average_precision_score(labels, scores, **weighted)
    )
    assert metrics.f1_at(0.5)(scores, labels, weights) == pytest.approx(sk.f1_score(labels, scores >= 0.5, **weighted))
    assert metrics.brier(scores, labels, weights) == pytest.approx(sk.brier_score_loss(labels, scores, **weighted))
    assert metrics.recall_at(0.4)(scores, labels, weights) == pytest.approx(
        sk.recall_score(labels, scores >= 0.4, **weighted)
    )
    assert metrics.fpr_at(0.4)(scores, labels, weights) == pytest.approx(
        1 - sk.recall_score(labels, scores >= 0.4, pos_label=False, **weighted)
    )
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    ones = np.ones(len(scores))
    assert metrics.tpr_at_fpr(0.1)(scores, labels, ones) == pytest.approx(tpr[fpr <= 0.1 + 1e-12].max())


def test_calibration_error_of_a_worked_example() -> None:
    scores = np.array([0.1, 0.1, 0.9, 0.9])
    labels = np.array([False, True, True, True])
    assert metrics.expected_calibration_error(scores, labels, np.ones(4)) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


@settings(max_examples=40, deadline=None)
@given(DATA)
def test_calibration_error_is_that_of_the_bins_of_scikit_learn(rng: np.random.Generator) -> None:
    scores, labels = rng.beta(0.7, 1.5, 80), rng.random(80) < 0.4
    rate, said = calibration_curve(labels, scores, n_bins=10)
    sizes = np.histogram(scores, np.linspace(0, 1, 11))[0]
    expected = np.sum(sizes[sizes > 0] * np.abs(rate - said)) / 80
    assert metrics.expected_calibration_error(scores, labels, np.ones(80)) == pytest.approx(expected)


def test_undefined_figures_are_nan_not_numbers() -> None:
    scores, none = np.array([0.1, 0.2]), np.array([False, False])
    assert np.isnan(metrics.auroc(scores, none, np.ones(2)))
    assert np.isnan(metrics.average_precision(scores, none, np.ones(2)))
    assert str(metrics.estimate(metrics.auroc, scores, none, ["a", "b"], draws=5)) == "–"


def test_intervals_cover_at_about_the_nominal_rate() -> None:
    """True AUROC of N(1, 1) against N(0, 1) is Phi(1/sqrt 2) = 0.760."""
    hits, runs = 0, 120
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        labels = rng.random(150) < 0.4
        scores = rng.normal(size=150) + labels
        found = metrics.estimate(metrics.auroc, scores, labels, range(150), draws=200, seed=seed)
        hits += found.low <= 0.7602 <= found.high
    assert 0.88 <= hits / runs <= 1.0


def test_groups_are_resampled_whole() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.random(12) < 0.5, 30)
    scores = np.repeat(rng.random(12), 30) + 0.01 * rng.random(360)
    groups = np.repeat(np.arange(12), 30)
    grouped = metrics.estimate(metrics.auroc, scores, labels, list(groups), draws=300)
    single = metrics.estimate(metrics.auroc, scores, labels, range(360), draws=300)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_paired_difference_of_a_monitor_with_itself_is_zero() -> None:
    scores, labels, _ = sample(np.random.default_rng(1))
    gap = metrics.paired_difference(metrics.auroc, scores, scores, labels, range(60), draws=50)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_the_paired_interval_covers_at_the_nominal_rate_whatever_two_monitors_share() -> None:
    """Two monitors of lift 1.2 and 0.6 with a common part, 3 traces a scenario. 400 repetitions: 95 % plus or minus 2."""
    truth = stats.norm.cdf(1.2 / 2) - stats.norm.cdf(0.6 / 2)  # each score has variance 2
    rng, runs, hits = np.random.default_rng(4), 400, 0
    for seed in range(runs):
        labels = rng.random(180) < 0.4
        groups = list(np.repeat(np.arange(60), 3))
        shared = np.repeat(rng.normal(size=60), 3)
        first, second = (shared + rng.normal(size=180) + lift * labels for lift in (1.2, 0.6))
        one, other = (resampling.statistic_of(metrics.auroc, scores, labels) for scores in (first, second))
        found = resampling.bootstrap(
            lambda weights, one=one, other=other: one(weights) - other(weights), groups, draws=200, seed=seed
        )
        if seed == 0:  # the same, draw by draw
            slow = metrics.paired_difference(metrics.auroc, first, second, labels, groups, draws=200, seed=seed)
            assert (found.low, found.high) == pytest.approx((slow.low, slow.high))
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / runs <= 0.975


def test_every_metric_says_what_it_is_held_against() -> None:
    """A paper or a plain definition, and the outside reference of these tests."""
    of = {
        metrics: "auroc average_precision tpr_at_fpr f1_at fpr_at recall_at expected_calibration_error brier wilson",
        detection: "g_mean_squared_at best_g_mean_squared transcript_units audit_recall monitoring_value verbalisation "
        "ratings",
        inference: "delong_covariance permutation_p holm traces_needed reliability",
        contrasts: "risk_difference risk_ratio odds_ratio fisher mantel_haenszel",
        resampling: "bootstrap",
        cascade: "cascade_curve",
        interventions: "intervention_rates",
        streams: "first_alarm false_alarm_rate",
    }
    for module, names in of.items():
        for name in names.split():
            assert "Reference:" in (getattr(module, name).__doc__ or ""), f"{module.__name__}.{name}"
