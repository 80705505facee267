import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from toy import make_calibration

from calibrate import threshold_within
from cot_probe.calibration import Scaling, decide, fit_scaling, scale, tag_logits, threshold_at
from cot_probe.taxonomy import TAGS

RNG = np.random.default_rng(0)


def test_fit_recovers_the_scaling_that_made_the_labels() -> None:
    logits = RNG.normal(size=20_000) * 3
    labels = RNG.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))
    found = fit_scaling(logits, labels)
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.offset == pytest.approx(-1, abs=0.06)
    reference = LogisticRegression(C=1e6).fit(logits[:, None], labels)
    assert found.slope == pytest.approx(float(reference.coef_[0, 0]), rel=0.01)


def test_fit_is_finite_on_separable_logits_and_refuses_one_class() -> None:
    logits = np.r_[np.full(20, -4.0), np.full(5, 4.0)]
    found = fit_scaling(logits, logits > 0)
    assert np.isfinite([found.slope, found.offset]).all() and found.slope > 0
    with pytest.raises(ValueError, match="both classes"):
        fit_scaling(logits, np.zeros(25, dtype=bool))


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), st.floats(0.001, 0.5))
def test_threshold_lets_through_at_most_the_rate(scores: np.ndarray, fpr: float) -> None:
    threshold = threshold_at(scores, fpr)
    assert (scores >= threshold).sum() <= np.floor(fpr * (len(scores) + 1)) or threshold == 1.0


def test_threshold_covers_in_simulation() -> None:
    """The finite-sample guarantee: a fresh negative is tagged with probability at most the rate."""
    rates = []
    for _ in range(400):
        sample = RNG.random(99)
        rates.append((RNG.random(200) >= threshold_at(sample, 0.05)).mean())
    assert np.mean(rates) <= 0.055


def test_scale_does_not_overflow_and_keeps_order() -> None:
    values = scale(np.array([-1e4, -20.0, 0.0, 20.0, 1e4]), Scaling(slope=2.0, offset=1.0))
    assert np.all(np.diff(values) >= 0) and values[0] == 0 and values[-1] == 1


def test_eval_awareness_is_at_least_either_stance() -> None:
    raw = tag_logits(RNG.normal(size=(50, 5)))
    at = {tag: raw[:, TAGS.index(tag)] for tag in TAGS}
    assert np.all(at["eval_awareness"] >= np.maximum(at["states_test"], at["states_real"]))


def test_decide_is_inclusive_and_ordered() -> None:
    scores = dict.fromkeys(TAGS, 0.5)
    assert decide(scores, {"harm_rejected": 0.5, "strategic_harm": 0.5, "states_test": 0.51}, TAGS) == (
        "strategic_harm",
        "harm_rejected",
    )


def test_an_operating_point_that_is_not_stored_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 0\.01, 0\.05"):
        make_calibration().at(0.2)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_the_chosen_threshold_holds_the_rate_and_has_the_greatest_f1(rows, fpr) -> None:
    scores, labels, counted = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 12
    chosen = threshold_within(scores, labels, counted, fpr)
    lowest = threshold_at(scores[counted & ~labels], fpr)

    def f1(limit: float) -> float:
        return f1_score(labels, scores >= limit, zero_division=0.0)

    assert chosen >= lowest
    # Above the highest positive nothing is left to find: a rate may then be held, but no gain compared.
    highest = max(scores[labels], default=0)
    held = [limit for limit in np.linspace(0, 1, 101) if lowest <= limit <= highest]
    assert f1(chosen) >= max(map(f1, held), default=0) - 1e-12


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=60))
def test_a_lower_rate_never_has_a_lower_threshold(rows) -> None:
    scores, labels = np.array([score for score, _ in rows]) / 30, np.array([label for _, label in rows])
    chosen = [threshold_within(scores, labels, labels == labels, rate) for rate in (0.01, 0.05, 0.2, 0.5)]
    assert chosen == sorted(chosen, reverse=True)
