"""One level of a monitor, its scores beside the labels: what the tables of a model card are made from."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability import metrics
from cot_probe.monitorability.label_figures import LEVELS, Labels, Scored
from cot_probe.monitorability.metrics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One level (sentences or traces) of a monitor: scores beside labels.

    Attributes:
        names: the columns, labels or tags.
        scores: ``(n, n_columns)``, probabilities.
        wanted: ``(n, n_columns)``, the adjudicated labels.
        thresholds: ``(n_columns,)``, of its operating point.
        groups: ``(n,)``, what the bootstrap resamples.
        draws: bootstrap draws.
    """

    names: tuple[str, ...]
    scores: NDArray[np.float64]
    wanted: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    groups: tuple[str, ...]
    draws: int


def measured(
    level: str, scored: Scored, limits: dict[str, NDArray[np.float64]], labels: Labels, draws: int
) -> Measured:
    """One level, "sentence" or "trace", of a monitor with its thresholds by level."""
    return Measured(
        names=LEVELS[level],
        scores=getattr(scored, level),
        wanted=getattr(labels, level),
        thresholds=limits[level],
        groups=getattr(labels, f"{level}_groups"),
        draws=draws,
    )


def said(level: Measured, name: str) -> NDArray[np.bool_]:
    """``(n,)``: whether the default operating point gives the label or tag."""
    at = level.names.index(name)
    return np.asarray(level.scores[:, at] >= level.thresholds[at], dtype=np.bool_)


def labelled(level: Measured, name: str) -> NDArray[np.bool_]:
    """``(n,)``: whether people gave the label or tag."""
    return level.wanted[:, level.names.index(name)]


def restricted(level: Measured, chosen: NDArray[np.bool_]) -> Measured:
    """The chosen rows ``(n,)`` only."""
    return dataclasses.replace(
        level,
        scores=level.scores[chosen],
        wanted=level.wanted[chosen],
        groups=tuple(group for group, keep in zip(level.groups, chosen, strict=True) if keep),
    )


def estimated(level: Measured, name: str, metric: metrics.Metric) -> Estimate:
    """A metric of one column with its interval."""
    scores = level.scores[:, level.names.index(name)]
    return metrics.estimate(metric, scores, labelled(level, name), level.groups, draws=level.draws)
