"""A cheap monitor first, a judge for some of the cases: what is gained, at what cost. Usable without torch.

The judge's scores must be there for every case that could be sent to it: the curve is read off, nothing is
called. Scores are ``(n,)`` float, nan where a monitor gave none (a refusal, an answer that could not be
read): such a case is never taken for clean.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability.metrics import Bools, Estimate, Floats, Metric, auroc
from cot_probe.monitorability.resampling import bootstrap, statistic_of

Rule = Literal["band", "replace", "mean"]
Unanswered = Literal["alarm", "first"]

SHARES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Shares of cases sent to the judge, where no others are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a monitor costs per case, or in all; None where it is not known, which is not 0."""

    tokens: float | None = None
    seconds: float | None = None
    dollars: float | None = None

    def per_case(self, n: int) -> "Cost":
        """The cost of one of ``n`` cases, if this is the cost of all."""

        def one(total: float | None) -> float | None:
            return None if total is None or not n else total / n

        return Cost(tokens=one(self.tokens), seconds=one(self.seconds), dollars=one(self.dollars))

    def plus(self, other: "Cost", share: float) -> "Cost":
        """The cost per case of a cascade: this for every case, ``other`` for a share of them."""

        def both(own: float | None, others: float | None) -> float | None:
            if not share:
                return own
            return None if own is None or others is None else own + share * others

        return Cost(
            tokens=both(self.tokens, other.tokens),
            seconds=both(self.seconds, other.seconds),
            dollars=both(self.dollars, other.dollars),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadePoint:
    """A cascade that sends one share of the cases to the judge.

    Attributes:
        share: Cases sent, of all.
        calls: How many.
        unanswered: Cases left without a score: sent and not answered, or scored by neither.
        value: The metric, with its 95 % interval; the cases sent stay the same in every draw.
        band: Lowest and highest first score among those sent; nan if none was.
        cost: Per case, of both monitors together.
    """

    share: float
    calls: int
    unanswered: int
    value: Estimate
    band: tuple[float, float]
    cost: Cost


def sent_to_judge(first: Floats, calls: int, *, centre: float | None, seed: int = 0) -> Bools:
    """Which cases go to the judge: ``(n,)`` bool, ``calls`` of them True.

    Those of which the first monitor is least sure, by rank around ``centre`` (its threshold, say); None takes
    the highest scores, as a filter before a judge does. Cases that it did not score go first of all.
    Ties are broken by lot; more calls send the same cases and others.

    Raises:
        ValueError: if ``calls`` is not from 0 to the number of cases.
    """
    if not 0 <= calls <= len(first):
        raise ValueError(f"{calls} calls, expected 0 to {len(first)}: one for each case at most")
    distance = np.where(np.isnan(first), -1.0, np.abs(_from_centre(first, centre)))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first)), distance))
    sent = np.zeros(len(first), dtype=bool)
    sent[order[:calls]] = True
    return sent


def _from_centre(first: Floats, centre: float | None) -> NDArray[np.float64]:
    """How many places above the centre a score ranks, ties in their middle; nan without a score."""
    known = np.sort(first[~np.isnan(first)])

    def place(values: Floats) -> NDArray[np.float64]:
        return (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2

    middle = float(len(known)) if centre is None else float(place(np.array([centre]))[0])
    return np.where(np.isnan(first), np.nan, place(first) - middle)


def cascade_scores(
    first: Floats,
    judge: Floats,
    sent: Bools,
    *,
    centre: float | None,
    rule: Rule = "band",
    unanswered: Unanswered = "alarm",
) -> tuple[NDArray[np.float64], int]:
    """The scores of a cascade, and how many cases are left without one.

    With ``band`` the judge orders the cases sent among themselves (ties by the first score); those not sent stay
    below or above all of them, on their side of the centre. Any two scales will do; the scores are ranks.
    With ``replace`` its score takes the place of the first, as in a filter whose finds are checked; with
    ``mean`` the two are averaged: both need one scale.

    Args:
        first: ``(n,)``, nan where there is none.
        judge: ``(n,)``, nan where there is none; looked at where ``sent``.
        sent: ``(n,)``.
        centre: As in :func:`sent_to_judge`.
        rule: How the two make one.
        unanswered: A case sent to which the judge gave no score is an alarm above all others, or keeps
            its first score. A case scored by neither is always such an alarm.

    Raises:
        ValueError: if scores are not from 0 to 1 where the rule needs one scale.
    """
    if rule != "band":
        _check_scale(first, "first")
        _check_scale(judge[sent], "judge")
    answered = sent & ~np.isnan(judge)
    without = ~answered & (sent | np.isnan(first))
    alarm = without if unanswered == "alarm" else without & np.isnan(first)
    if rule != "band":
        both = judge if rule == "replace" else np.where(np.isnan(first), judge, (first + judge) / 2)
        return np.where(alarm, np.nextafter(1.0, 2.0), np.where(answered, both, first)), int(without.sum())
    side = np.where(_from_centre(first, centre) >= 0, 2.0, 0.0)
    tier = np.where(alarm, 3.0, np.where(answered, 1.0, side))
    main = np.where(alarm, 0.0, np.where(answered, judge, first))
    tie = np.where(answered & ~np.isnan(first), first, -np.inf)
    _, ranks = np.unique(np.stack([tier, main, tie], axis=1), axis=0, return_inverse=True)
    return np.asarray(ranks.reshape(-1), dtype=np.float64), int(without.sum())


def _check_scale(scores: Floats, name: str) -> None:
    wrong = (scores < 0) | (scores > 1)
    if wrong.any():
        raise ValueError(
            f"{name}: {int(wrong.sum())} of {len(scores)} scores are not from 0 to 1 (the first: {scores[wrong][0]:g}): "
            'bring both monitors to one scale, 0 to 1, or take rule="band", which needs none'
        )


def cascade_curve(
    first: Floats,
    judge: Floats,
    labels: Bools,
    groups: Sequence[Hashable],
    *,
    centre: float | None,
    rule: Rule = "band",
    metric: Metric = auroc,
    shares: Sequence[float] = SHARES,
    unanswered: Unanswered = "alarm",
    first_cost: Cost | None = None,
    judge_cost: Cost | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[CascadePoint, ...]:
    """A metric of the cascade against the share of cases that the judge reads.

    Zhou et al. 2026 (arXiv 2606.24251) report AUROC at a share of calls, the judge checking the highest
    scores (``centre=None``); McKenzie et al. 2025 ("Detecting High-Stakes Interactions with Activation
    Probes", arXiv 2506.10805) send on those that a probe is unsure of. A centre chosen on the
    cases that are reported flatters. Reference: two tests in a row in Gordis's textbook; the ends are the monitors.

    Args:
        first: ``(n,)``, nan where there is none.
        judge: ``(n,)``, nan where there is none.
        labels: ``(n,)``.
        groups: ``(n,)``, resampled whole.
        centre: First score of which the monitor is least sure; None: the judge reads from the top.
        rule: As in :func:`cascade_scores`.
        metric: One of the order of the scores: AUROC, average precision, true-positive rate at a
            false-positive rate.
        shares: 0 to 1; as many cases as come nearest to each.
        unanswered: As in :func:`cascade_scores`.
        first_cost: Per case.
        judge_cost: Per call.
        draws: Of the bootstrap.
        seed: Of the bootstrap and of the lot among ties.

    Raises:
        ValueError: if the arrays differ in length, are empty, or a share is not from 0 to 1.
    """
    sizes = {len(first), len(judge), len(labels), len(groups)}
    if len(sizes) > 1 or sizes == {0}:
        raise ValueError(f"arrays of {sorted(sizes)} cases, expected as many first and judge scores, labels and groups")
    if any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"shares {tuple(shares)}, expected each from 0 to 1")
    labels, n = np.asarray(labels, bool), len(labels)
    own, its = first_cost or Cost(), judge_cost or Cost()
    points = []
    for calls in dict.fromkeys(round(share * n) for share in shares):
        sent = sent_to_judge(first, calls, centre=centre, seed=seed)
        scores, left = cascade_scores(first, judge, sent, centre=centre, rule=rule, unanswered=unanswered)
        found = bootstrap(statistic_of(metric, scores, labels), groups, draws=draws, seed=seed)
        inside = first[sent & ~np.isnan(first)]
        points.append(
            CascadePoint(
                share=calls / n,
                calls=calls,
                unanswered=left,
                value=Estimate(value=found.value, low=found.low, high=found.high, n=n, positives=int(labels.sum())),
                band=(float(inside.min()), float(inside.max())) if len(inside) else (float("nan"), float("nan")),
                cost=own.plus(its, calls / n),
            )
        )
    return tuple(points)


def share_to_reach(points: Sequence[CascadePoint], value: float) -> float | None:
    """The smallest share of calls on a curve at which the metric is at least ``value``; None if it never is."""
    return min((point.share for point in points if point.value.value >= value), default=None)
