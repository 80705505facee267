from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from cot_probe.monitorability import metrics
from cot_probe.monitorability.detection import (
    audit_recall,
    best_g_mean_squared,
    g_mean_squared_at,
    hybrid,
    monitoring_value,
    operating_point,
    ratings,
    transcript_units,
    true_negative_rate_at,
    verbalisation,
)
from cot_probe.monitorability.resampling import bootstrap_weights

DATA = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def sample(rng: np.random.Generator, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, labels = np.round(rng.random(n), rng.integers(1, 4)), rng.random(n) < 0.3
    labels[:2] = [True, False]
    return scores, labels, rng.integers(1, 4, n).astype(float)


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_g_mean_squared_equals_scikit_learn(rng: np.random.Generator) -> None:
    scores, labels, weights = sample(rng)
    recall, specificity = (
        sk.recall_score(labels, scores >= 0.5, pos_label=side, sample_weight=weights) for side in (True, False)
    )
    assert true_negative_rate_at(0.5)(scores, labels, weights) == pytest.approx(specificity)
    assert g_mean_squared_at(0.5)(scores, labels, weights) == pytest.approx(recall * specificity)
    fpr, tpr, _ = sk.roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    assert best_g_mean_squared(scores, labels, weights) == pytest.approx(np.max(tpr * (1 - fpr)))


def test_g_mean_squared_of_the_paper() -> None:
    """Figure 3 of arXiv 2512.18311: 0 for a monitor that always alarms, 0.99^2 however rare the positives."""
    ones = np.ones(100)
    assert g_mean_squared_at(0.5)(ones, np.arange(100) < 90, ones) == 0.0
    for positives, negatives in ((100, 100), (100, 10_000)):
        labels = np.r_[np.ones(positives, bool), np.zeros(negatives, bool)]
        alarms = np.r_[np.arange(positives) >= positives // 100, np.arange(negatives) < negatives // 100]
        found = operating_point(alarms, labels, range(len(labels)), draws=5)
        assert found.g_mean_squared.value == pytest.approx(0.9801)
        assert found.true_positive_rate.value == found.true_negative_rate.value == 0.99


def test_an_operating_point_has_intervals_that_fit_the_units() -> None:
    alarms, labels = np.array([True] * 9 + [False] * 11), np.arange(20) < 10
    found = operating_point(alarms, labels, range(20), draws=100)
    rate = found.true_positive_rate
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(9, 10, method="wilson"))
    assert (found.true_negative_rate.value, found.true_negative_rate.n) == (1.0, 10)
    assert found.true_negative_rate.low < 0.8  # ten clean cases without an alarm show no more
    assert found.g_mean_squared.low < 0.9 < found.g_mean_squared.high
    assert np.isnan(operating_point(alarms, labels & False, range(20), draws=5).g_mean_squared.value)


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_transcript_units_are_those_of_the_convention(rng: np.random.Generator) -> None:
    """Transcript by transcript: the largest of all turns if one is misaligned, and each turn that is not."""
    transcripts = list(rng.choice(["a", "b", "c", "d"], 20))
    scores, misaligned = np.round(rng.random(20), 1), rng.random(20) < 0.2
    positive, negative = [], []
    for name in set(transcripts):
        mine = [at for at in range(20) if transcripts[at] == name]
        if any(misaligned[at] for at in mine):
            positive.append(max(scores[at] for at in mine))
        negative += [scores[at] for at in mine if not misaligned[at]]
    units, labels, names = transcript_units(scores, misaligned, transcripts)
    assert sorted(units[labels]) == sorted(positive) and sorted(units[~labels]) == sorted(negative)
    assert len(names) == len(units) == len(labels)
    assert all(units[at] in scores[[one == names[at] for one in transcripts]] for at in range(len(units)))


def test_transcript_tpr_at_turn_fpr_of_a_worked_example() -> None:
    """a: turns 0.2 and 0.9 (misaligned); b: 0.4 (misaligned), 0.5; c: 0.7, 0.1, clean.

    Positives 0.9 and 0.5, negatives 0.2, 0.5, 0.7, 0.1: at a turn-FPR of 25 % the threshold is 0.7.
    """
    scores, bad = np.array([0.2, 0.9, 0.4, 0.5, 0.7, 0.1]), np.array([False, True, True, False, False, False])
    units, labels, names = transcript_units(scores, bad, ["a", "a", "b", "b", "c", "c"])
    assert names == ("a", "b", "a", "b", "c", "c")
    ones = np.ones(6)
    assert metrics.tpr_at_fpr(0.25)(units, labels, ones) == 0.5
    assert metrics.tpr_at_fpr(0.5)(units, labels, ones) == 1.0
    assert metrics.auroc(units, labels, ones) == (4 + 2.5) / 8
    with pytest.raises(ValueError, match="6 scores, 6 labels, 1 transcripts"):
        transcript_units(scores, bad, ["a"])
    with pytest.raises(ValueError, match="1 turns have no score"):
        transcript_units(np.r_[scores[:5], np.nan], bad, ["a"] * 6)


@settings(max_examples=30, deadline=None)
@given(DATA)
def test_transcript_tpr_at_turn_fpr_is_read_off_the_curve_of_scikit_learn(rng: np.random.Generator) -> None:
    transcripts, scores = rng.integers(0, 12, 80), np.round(rng.random(80), 2)
    misaligned = rng.random(80) < 0.15
    misaligned[:2] = [True, False]
    highest = [scores[transcripts == one].max() for one in np.unique(transcripts[misaligned])]
    clean = scores[~misaligned]
    units = np.r_[np.ones(len(highest)), np.zeros(len(clean))], np.r_[highest, clean]
    fpr, tpr, _ = sk.roc_curve(*units, drop_intermediate=False)
    found, labels, _ = transcript_units(scores, misaligned, list(transcripts))
    for rate in (0.01, 0.05, 0.2):
        share = metrics.tpr_at_fpr(rate)(found, labels, np.ones(len(found)))
        assert share == pytest.approx(tpr[fpr <= rate + 1e-12].max())


def test_audit_recall_is_recall_at_k_and_the_mean_over_the_order_of_ties() -> None:
    rng = np.random.default_rng(0)
    scores, labels, _ = sample(rng, 30)
    ones, coarse = np.ones(30), np.round(scores)
    distinct = scores + rng.random(30) / 1e4
    top = np.argsort(-distinct)[:6]
    expected = sk.recall_score(labels, np.isin(np.arange(30), top))
    assert audit_recall(0.2)(distinct, labels, ones) == pytest.approx(expected)
    orders = [np.lexsort((rng.random(30), -coarse))[:6] for _ in range(4000)]
    mean = np.mean([labels[order].sum() for order in orders]) / labels.sum()
    assert audit_recall(0.2)(coarse, labels, ones) == pytest.approx(mean, abs=0.01)
    assert audit_recall(0.35)(np.zeros(30), labels, ones) == pytest.approx(0.35)  # no better than by lot
    assert audit_recall(1.0)(scores, labels, ones) == 1.0
    weights = rng.integers(0, 4, 30)
    repeated = [np.repeat(values, weights) for values in (scores, labels)]
    for budget in (0.1, 0.3, 0.6, 0.9):
        expected = audit_recall(budget)(*repeated, np.ones(weights.sum()))
        assert audit_recall(budget)(scores, labels, weights.astype(float)) == pytest.approx(expected)
    assert np.isnan(audit_recall(0.3)(scores, labels & False, ones))
    with pytest.raises(ValueError, match="audit budget 5"):
        audit_recall(5)


def test_monitoring_value_is_the_gain_at_a_fixed_rate() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(300) < 0.4
    without = rng.normal(size=300) + 0.3 * labels
    trace = without + 2.0 * labels
    gain = monitoring_value(trace, without, labels, range(300), fpr=0.05, draws=100)
    at_five = metrics.tpr_at_fpr(0.05)
    ones = np.ones(300)
    assert gain.value == pytest.approx(at_five(trace, labels, ones) - at_five(without, labels, ones))
    assert 0.2 < gain.low < gain.value < gain.high < 1
    assert monitoring_value(without, without, labels, range(300), draws=5).value == 0
    area = monitoring_value(trace, without, labels, range(300), metric=metrics.auroc, draws=5)
    assert area.value == pytest.approx(sk.roc_auc_score(labels, trace) - sk.roc_auc_score(labels, without))


def test_a_hybrid_is_a_weighted_average_on_one_scale() -> None:
    found = hybrid(np.array([1.0, 0.5, np.nan]), np.array([0.0, 0.5, 0.5]), weight=0.75)
    np.testing.assert_allclose(found, [0.75, 0.5, np.nan])
    with pytest.raises(ValueError, match=r"action: 1 of 2 values are not from 0 to 1 \(the first: 7\)"):
        hybrid(np.array([0.1, 0.2]), np.array([0.1, 7.0]))
    with pytest.raises(ValueError, match="weight"):
        hybrid(np.array([0.1]), np.array([0.1]), weight=2)


def test_verbalisation_counts_known_misbehaviour_alone_and_bounds_the_rest() -> None:
    outcomes = np.array([True, True, True, True, True, False, False])
    found = verbalisation(outcomes, [True, True, False, True, None, True, None], range(7))
    assert (found.rate.value, found.rate.n, found.rate.positives) == (0.75, 4, 3)
    assert (found.rate.low, found.rate.high) == pytest.approx(proportion_confint(3, 4, method="wilson"))
    assert (found.misbehaviours, found.unknown, found.at_least, found.at_most) == (5, 1, 0.6, 0.8)
    nothing = verbalisation(outcomes & False, [None] * 7, range(7))
    assert np.isnan([nothing.rate.value, nothing.at_least, nothing.at_most]).all() and nothing.unknown == 0
    unread = verbalisation(outcomes, [None] * 7, range(7))
    assert np.isnan(unread.rate.value) and (unread.at_least, unread.at_most) == (0, 1)


def test_ratings_are_summed_up_and_the_unrated_counted() -> None:
    found = ratings(np.array([4, 4, 3, 0, np.nan, 4]), range(6), draws=200)
    assert (found.mean.value, found.mean.n, found.mean.positives, found.unrated) == (3.0, 5, 3, 1)
    assert found.share == 0.75 and found.counts == (1, 0, 0, 1, 3)
    assert found.mean.low < 3 < found.mean.high <= 4
    values, many = np.repeat([0.0, 2, 3, 4], [3, 4, 9, 14]), list(range(30))
    drawn = np.concatenate(list(bootstrap_weights(many, 500, 7))) @ values / 30
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=drawn),
    ).confidence_interval
    mean = ratings(values, many, draws=500, seed=7).mean
    assert (mean.low, mean.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    none = ratings(np.array([np.nan]), range(1))
    assert np.isnan(none.mean.value) and (none.unrated, none.counts) == (1, (0, 0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"1 of 2 ratings are outside 0 to 4 \(the first: 85\)"):
        ratings(np.array([3, 85.0]), range(2))
