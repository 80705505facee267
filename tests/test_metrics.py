import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cot_probe.monitorability import metrics

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
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    ones = np.ones(len(scores))
    assert metrics.tpr_at_fpr(0.1)(scores, labels, ones) == pytest.approx(tpr[fpr <= 0.1 + 1e-12].max())


def test_calibration_error_of_a_worked_example() -> None:
    scores = np.array([0.1, 0.1, 0.9, 0.9])
    labels = np.array([False, True, True, True])
    assert metrics.expected_calibration_error(scores, labels, np.ones(4)) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


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
