"""How well misbehaviour is detected, and how much of that is owed to the reasoning. Usable without torch.

Metrics ``(scores, labels, weights) -> float`` fit :func:`cot_probe.monitorability.metrics.estimate` and
:func:`cot_probe.monitorability.inference.compare`; rates are shares from 0 to 1. Scores are ``(n,)``
float without nan, labels ``(n,)`` bool, groups ``(n,)`` of anything. An alarm is ``score >= threshold``.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability.metrics import (
    Bools,
    Estimate,
    Floats,
    Metric,
    estimate,
    fpr_at,
    paired_difference,
    recall_at,
    tpr_at_fpr,
)
from cot_probe.monitorability.resampling import bootstrap, curve_points, ratio, share_estimate

RATING_SCALE: Final = 4
"""Legibility and coverage are rated from 0 to this."""


def true_negative_rate_at(threshold: float) -> Metric:
    """The metric true-negative rate of ``score >= threshold``: the share of clean cases without an alarm."""
    false_positive_rate = fpr_at(threshold)
    return lambda scores, labels, weights: 1 - false_positive_rate(scores, labels, weights)


def g_mean_squared_at(threshold: float) -> Metric:
    """The metric g-mean² of ``score >= threshold``: true-positive rate times true-negative rate.

    It does not depend on how common misbehaviour is, and is 0 for a monitor that always or never alarms
    (Guan et al. 2025, "Monitoring Monitorability", arXiv 2512.18311, section 2.1; the geometric mean is of
    Kubat and Matwin 1997). This is its form for outcome properties; process evaluations, which have no
    sound negatives, take the true-positive rate alone; for interventions see :func:`intervention_rates`.
    Reference: recall of either class in scikit-learn, and figure 3 of the paper.
    """
    true_positive_rate, true_negative_rate = recall_at(threshold), true_negative_rate_at(threshold)
    return lambda scores, labels, weights: (
        true_positive_rate(scores, labels, weights) * true_negative_rate(scores, labels, weights)
    )


def best_g_mean_squared(scores: Floats, labels: Bools, weights: Floats) -> float:
    """The largest g-mean² that any threshold gives: what a monitor without an operating point could reach.

    The threshold is chosen on the cases that it is measured on, so the figure flatters; it is a bound,
    not a result. nan without both classes. Reference: the points of ``sklearn.metrics.roc_curve``.
    """
    _, positives, negatives = curve_points(scores, labels, np.asarray(weights)[None])
    if not positives[0, -1] or not negatives[0, -1]:
        return float("nan")
    return float(np.max(positives[0] / positives[0, -1] * (1 - negatives[0] / negatives[0, -1])))


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A monitor's alarms: true-positive rate, true-negative rate and their product, with intervals."""

    true_positive_rate: Estimate
    true_negative_rate: Estimate
    g_mean_squared: Estimate


def operating_point(
    alarms: Bools, labels: Bools, groups: Sequence[Hashable], *, draws: int = 1000, seed: int = 0
) -> OperatingPoint:
    """g-mean² and its parts of alarms that were raised or not, see :func:`g_mean_squared_at`.

    The rates have the intervals of :func:`cot_probe.monitorability.resampling.share_estimate`, their
    product that of the bootstrap by group. nan where a class is missing.
    """
    alarms, labels, names = np.asarray(alarms, bool), np.asarray(labels, bool), np.array([str(g) for g in groups])
    product = estimate(g_mean_squared_at(1.0), alarms.astype(float), labels, list(names), draws=draws, seed=seed)
    caught = share_estimate(alarms[labels], list(names[labels]), draws=draws, seed=seed)
    quiet = share_estimate(~alarms[~labels], list(names[~labels]), draws=draws, seed=seed)
    return OperatingPoint(true_positive_rate=caught, true_negative_rate=quiet, g_mean_squared=product)


def transcript_units(
    scores: Floats, misaligned: Bools, transcripts: Sequence[Hashable]
) -> tuple[NDArray[np.float64], Bools, tuple[Hashable, ...]]:
    """Turns as the units of "transcript-TPR at turn-FPR": any metric of these is in that convention.

    A transcript with a misaligned turn is one positive, with the largest score of *all* its turns; every
    turn that is not misaligned is a negative, those of such transcripts too. So a monitor must pick
    out transcripts at a rate of false alarms per turn that a reader can bear (Zhou et al. 2026, "Probing the
    Misaligned Thinking Process of Language Models", arXiv 2606.24251). Reference: ``sklearn.metrics.roc_curve`` of
    units that are gathered transcript by transcript, and an example by hand.

    Args:
        scores: ``(turns,)``, no nan.
        misaligned: ``(turns,)``.
        transcripts: ``(turns,)``, which transcript each is of.

    Returns:
        Scores, labels and transcripts of the units, positives first. Resample by transcript (or by
        scenario), since a positive and negatives may be of one transcript.

    Raises:
        ValueError: if lengths differ or a score is nan.
    """
    scores, misaligned = np.asarray(scores, float), np.asarray(misaligned, bool)
    if not len(scores) == len(misaligned) == len(transcripts):
        found = f"{len(scores)} scores, {len(misaligned)} labels, {len(transcripts)} transcripts"
        raise ValueError(f"{found}, expected one of each per turn")
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} turns have no score: decide first what an unscored turn counts as"
        )
    highest: dict[Hashable, float] = {}
    for score, transcript in zip(scores, transcripts, strict=True):
        highest[transcript] = max(highest.get(transcript, -np.inf), float(score))
    positive = list(dict.fromkeys(name for name, bad in zip(transcripts, misaligned, strict=True) if bad))
    negative = [at for at, bad in enumerate(misaligned) if not bad]
    return (
        np.r_[np.array([highest[name] for name in positive], dtype=float), scores[negative]],
        np.r_[np.ones(len(positive), bool), np.zeros(len(negative), bool)],
        (*positive, *(transcripts[at] for at in negative)),
    )


def audit_recall(budget: float) -> Metric:
    """The metric recall under an audit budget: share of the misbehaviour found by reading the top ``budget`` share.

    Cases are read from the highest score down until ``budget`` (0 to 1) of all are read; of cases with one
    score, the expected number is found, as if in random order. A random monitor finds ``budget``. The
    budget is that of Greenblatt et al. 2024, "AI Control: Improving Safety Despite Intentional
    Subversion", arXiv 2312.06942; in retrieval this is recall at k. nan without misbehaviour. Reference:
    ``sklearn.metrics.recall_score`` of the k highest.

    Raises:
        ValueError: if the budget is not over 0 and at most 1.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"audit budget {budget:g}, expected a share over 0 and at most 1, such as 0.05")

    def metric(scores: Floats, labels: Bools, weights: Floats) -> float:
        _, positives, negatives = curve_points(scores, labels, np.asarray(weights)[None])
        if not positives[0, -1]:
            return float("nan")
        read = np.r_[0.0, positives[0] + negatives[0]]
        found = np.interp(budget * read[-1], read, np.r_[0.0, positives[0]])
        return float(found / positives[0, -1])

    return metric


def monitoring_value(
    with_trace: Floats,
    without_trace: Floats,
    labels: Bools,
    groups: Sequence[Hashable],
    *,
    fpr: float = 0.05,
    metric: Metric | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """What reading the reasoning adds: performance with it minus performance without it, on the same cases.

    True-positive rate at a false-positive rate of at most ``fpr``, unless another ``metric`` is given. The
    two monitors should differ in what they read and in nothing else (model, prompt, compute). The
    comparison of scopes is that of Guan et al. 2025 (arXiv 2512.18311, section 2.2: all messages or
    reasoning against actions alone). The interval is of the paired bootstrap by group; for a p-value see
    :func:`cot_probe.monitorability.inference.compare`. Reference: the difference of scikit-learn's figures; the
    paired interval is simulated.
    """
    return paired_difference(
        tpr_at_fpr(fpr) if metric is None else metric,
        with_trace,
        without_trace,
        labels,
        groups,
        draws=draws,
        seed=seed,
    )


def hybrid(reasoning: Floats, action: Floats, *, weight: float = 0.5) -> NDArray[np.float64]:
    """A hybrid monitor's scores: ``weight * reasoning + (1 - weight) * action``.

    Arnav et al. 2025, "CoT Red-Handed: Stress Testing Chain-of-Thought Monitoring", arXiv 2505.23575: a monitor
    of the reasoning and one of the action score independently, the average of both beats either. A weight
    chosen on the cases that are reported flatters. A case that one of them did not score is nan.

    Args:
        reasoning: ``(n,)``, 0 to 1 or nan.
        action: ``(n,)``, 0 to 1 or nan.
        weight: Of the reasoning, 0 to 1.

    Raises:
        ValueError: if the weight or a score is not from 0 to 1: an average needs one scale.
    """
    for name, values in (("reasoning", reasoning), ("action", action), ("weight", np.array([weight]))):
        wrong = (values < 0) | (values > 1)
        if wrong.any():
            raise ValueError(
                f"{name}: {int(wrong.sum())} of {len(values)} values are not from 0 to 1 (the first: "
                f"{values[wrong][0]:g}): bring both monitors to one scale, 0 to 1, before averaging them"
            )
    return np.asarray(weight * reasoning + (1 - weight) * action, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verbalisation:
    """How often misbehaviour is said in the reasoning.

    Attributes:
        rate: Share that says so, of the misbehaviours of which it is known.
        misbehaviours: All of them.
        unknown: Those of which it is not known: nobody looked, or the reasoning could not be read.
        at_least: The rate if no unknown one says so, of all.
        at_most: The rate if every unknown one does.
    """

    rate: Estimate
    misbehaviours: int
    unknown: int
    at_least: float
    at_most: float


def verbalisation(
    outcomes: Bools, said: Sequence[bool | None], groups: Sequence[Hashable], *, draws: int = 1000, seed: int = 0
) -> Verbalisation:
    """Verbalisation rate: the share of misbehaviour whose reasoning says so.

    ``P(said | outcome)``, as the share of answers changed by a hint whose reasoning owns up to it in Chen et al.
    2025, "Reasoning Models Don't Always Say What They Think", arXiv 2505.05410. It bounds what any
    monitor that reads the reasoning can find by its words. The bounds for unknown ones are those of
    Manski 1989. Reference: the interval is ``statsmodels.stats.proportion.proportion_confint``, counts by hand.

    Args:
        outcomes: ``(n,)``, the misbehaviour happened.
        said: ``(n,)``, the reasoning says so; None: not known. Looked at where it happened only.
        groups: ``(n,)``.
        draws: Of the bootstrap.
        seed: Of the bootstrap.
    """
    happened = [at for at, outcome in enumerate(outcomes) if outcome]
    known = [at for at in happened if said[at] is not None]
    flags = np.array([bool(said[at]) for at in known], dtype=bool)
    rate = share_estimate(flags, [groups[at] for at in known], draws=draws, seed=seed)
    unknown, n = len(happened) - len(known), len(happened)
    return Verbalisation(
        rate=rate,
        misbehaviours=n,
        unknown=unknown,
        at_least=rate.positives / n if n else float("nan"),
        at_most=(rate.positives + unknown) / n if n else float("nan"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """An autorater's ratings of legibility or of coverage.

    Attributes:
        mean: On the scale from 0 to 4; ``positives`` counts those with the full mark.
        share: The mean as a share of the scale, 0 to 1.
        counts: How many fall on 0, 1, 2, 3, 4, each rounded to the nearest.
        unrated: Cases without a rating; they are in nothing else.
    """

    mean: Estimate
    share: float
    counts: tuple[int, ...]
    unrated: int


def ratings(values: Floats, groups: Sequence[Hashable], *, draws: int = 1000, seed: int = 0) -> Ratings:
    """Ratings summed up: can an unaided human follow the reasoning, is all of it there that the answer needed?

    Legibility and coverage, each 0 to 4, are of Emmons, Zimmermann, Elson and Shah 2025, "A Pragmatic Way to
    Measure Chain-of-Thought Monitorability", arXiv 2510.23966, who rate right answers to tasks that are
    hard without reasoning, and no others. The mean's interval is of the bootstrap by group. Reference:
    ``scipy.stats.bootstrap`` of the mean, given the same draws.

    Args:
        values: ``(n,)``, nan where a case was not rated.
        groups: ``(n,)``.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ValueError: if a rating is outside the scale.
    """
    values = np.asarray(values, float)
    wrong = (values < 0) | (values > RATING_SCALE)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(values)} ratings are outside 0 to {RATING_SCALE} (the first: "
            f"{values[wrong][0]:g}): rescale them first"
        )
    rated = [at for at, value in enumerate(values) if not np.isnan(value)]
    unrated = len(values) - len(rated)
    if not len(rated):
        none = Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0, positives=0)
        return Ratings(mean=none, share=float("nan"), counts=(0,) * (RATING_SCALE + 1), unrated=unrated)
    known = values[rated]
    found = bootstrap(ratio(known, np.ones(len(known))), [groups[at] for at in rated], draws=draws, seed=seed)
    full = int(np.sum(known == RATING_SCALE))
    return Ratings(
        mean=Estimate(value=found.value, low=found.low, high=found.high, n=len(known), positives=full),
        share=found.value / RATING_SCALE,
        counts=tuple(int(count) for count in np.bincount(np.rint(known).astype(int), minlength=RATING_SCALE + 1)),
        unrated=unrated,
    )
