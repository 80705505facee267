"""Logits to probabilities, and thresholds to tags.

Calibration is Platt scaling (Platt 1999, "Probabilistic outputs for support vector
machines"), a slope and an offset per column fitted on the dev split. Thresholds are
operating points: each is chosen at a stated false-positive rate on traces of dev and stored with it.
:func:`decide` is the only place where a score is compared with a threshold.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cot_probe.taxonomy import TAXONOMY, Taxonomy

FloatArray = NDArray[np.floating[Any]]
DEFAULT_FPR: Final = 0.05
"""False-positive rate of the default operating point; where it is not stored, see :meth:`Calibration.default`."""
FPRS: Final = (0.001, 0.01, 0.05)
"""False-positive rates, per trace, that operating points are made for where nobody says which."""
SENTENCE_SHARE: Final = 0.1
"""Sentence thresholds are set at this share of the trace false-positive rate: a trace has many sentences."""
_RANK_SLACK: Final = 1e-9
"""Keeps ``0.29 * (99 + 1)`` at 29: rates are decimal numbers, floats are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """``score = sigmoid(slope * logit + offset)``."""

    slope: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Thresholds that tag at most ``fpr`` of the negatives of ``Calibration.population``.

    ``sentences`` and ``traces`` map a label or tag to its threshold on the score.
    """

    fpr: float
    sentences: Mapping[str, float]
    traces: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scalings and operating points of one checkpoint.

    ``sentences`` has a scaling for each label, ``traces`` for each tag of ``taxonomy``, which
    is written with the checkpoint's config, not here. ``fitted_on`` says on what (split, number of
    traces, ``population`` on which the rates hold and its negatives per tag); without a split in it, on traces that a user gave
    (:mod:`cot_probe.recalibrate`).
    """

    sentences: Mapping[str, Scaling]
    traces: Mapping[str, Scaling]
    points: tuple[OperatingPoint, ...]
    fitted_on: Mapping[str, Any]
    taxonomy: Taxonomy = TAXONOMY

    def sentence_scores(self, logits: FloatArray) -> NDArray[np.float64]:
        """``(n, n_labels)`` logits to ``(n, n_labels)`` scores in [0, 1]."""
        columns = [scale(logits[:, at], self.sentences[label]) for at, label in enumerate(self.taxonomy.labels)]
        return np.stack(columns, axis=1)

    def trace_scores(self, logits: FloatArray) -> dict[str, float]:
        """``(n_labels,)`` trace logits to a score for each tag, in the order of the tags."""
        raw = tag_logits(logits[None, :], self.taxonomy)
        return {tag: float(scale(raw[:, at], self.traces[tag])[0]) for at, tag in enumerate(self.taxonomy.tags)}

    def at(self, fpr: float | None = None) -> OperatingPoint:
        """The stored operating point of a false-positive rate (the default one for None).

        Raises:
            ValueError: if the checkpoint has no such point.
        """
        if fpr is None:
            return self.default
        for point in self.points:
            if np.isclose(point.fpr, fpr):
                return point
        have = ", ".join(f"{point.fpr:g}" for point in self.points)
        raise ValueError(
            f"no operating point at false-positive rate {fpr:g}: this checkpoint has {have}. "
            "Choose one of these, or give a threshold on the score."
        )

    @property
    def default(self) -> OperatingPoint:
        """The point at ``DEFAULT_FPR``; where that is not stored, the nearest below it, else the lowest."""
        below = [point for point in self.points if point.fpr <= DEFAULT_FPR or np.isclose(point.fpr, DEFAULT_FPR)]
        if below:
            return max(below, key=lambda point: point.fpr)
        return min(self.points, key=lambda point: point.fpr)

    @property
    def population(self) -> str:
        """The traces on which the stated rates hold, in words."""
        split = self.fitted_on.get("split")
        usual = f"the {split} split" if split else "the traces that the checkpoint was recalibrated on"
        return str(self.fitted_on.get("population", usual))

    def too_few(self, fpr: float) -> bool:
        """Whether these traces, as far as ``fitted_on`` counts them, are too few to hold a rate for every tag."""
        return not all(conformal_rank(count, fpr) for count in self.fitted_on.get("negatives", {}).values())


def blank_calibration(taxonomy: Taxonomy = TAXONOMY) -> Calibration:
    """Identity scalings and no thresholds: for a tagger of which only the logits are wanted."""
    return Calibration(
        sentences={label: Scaling() for label in taxonomy.labels},
        traces={tag: Scaling() for tag in taxonomy.tags},
        points=(OperatingPoint(fpr=DEFAULT_FPR, sentences={}, traces={}),),
        fitted_on={},
        taxonomy=taxonomy,
    )


def tag_logits(logits: FloatArray, taxonomy: Taxonomy = TAXONOMY) -> NDArray[np.float64]:
    """``(n, n_labels)`` trace-label logits to ``(n, n_tags)``, in the order of the tags.

    A union (``eval_awareness``) is the soft maximum of its labels.
    """
    columns = {label: logits[:, at].astype(np.float64) for at, label in enumerate(taxonomy.labels)}
    for union, members in taxonomy.unions.items():
        columns[union] = np.logaddexp.reduce([columns[label] for label in members])
    return np.stack([columns[tag] for tag in taxonomy.tags], axis=1)


def scale(logits: FloatArray, scaling: Scaling) -> NDArray[np.float64]:
    """Apply a scaling; overflow-safe."""
    z = scaling.slope * np.asarray(logits, dtype=np.float64) + scaling.offset
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def fit_scaling(logits: FloatArray, labels: NDArray[np.bool_], *, iterations: int = 100) -> Scaling:
    """Fit slope and offset by penalised maximum likelihood (Newton's method).

    Platt's target smoothing keeps the fit finite when the classes are separable. The slope
    is kept positive: calibration never reverses the order of two scores.

    Raises:
        ValueError: if there is not at least one example of each class.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        raise ValueError(f"calibration needs both classes: found {positives} positive and {negatives} negative")
    x = np.asarray(logits, dtype=np.float64)
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([x, np.ones_like(x)], axis=1)
    theta = np.array([1.0, np.log((positives + 1) / (negatives + 1))])
    prior = np.diag([1e-3, 1e-6])
    for _ in range(iterations):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -50, 50)))
        gradient = design.T @ (p - target) + prior @ (theta - np.array([1.0, 0.0]))
        hessian = (design * (p * (1 - p) + 1e-9)[:, None]).T @ design + prior
        step = np.linalg.solve(hessian, gradient)
        theta = theta - step * min(1.0, 2.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return Scaling(slope=float(max(theta[0], 1e-3)), offset=float(theta[1]))


def conformal_rank(negatives: int, fpr: float) -> int:
    """``k = floor(fpr * (n + 1))``: a threshold just above the ``k``-th largest of ``n`` negatives holds ``fpr``.

    0 where ``n`` negatives are too few to hold the rate.
    """
    return int(np.floor(fpr * (negatives + 1) + _RANK_SLACK))


def threshold_at(negative_scores: FloatArray, fpr: float) -> float:
    """The smallest threshold at which at most ``fpr`` of the negatives are tagged.

    This is the split-conformal quantile (Vovk et al. 2005): the threshold lies just above
    the ``k``-th largest of ``n`` negatives, ``k = floor(fpr * (n + 1))``, so that a new
    exchangeable negative is tagged with probability at most ``fpr``. With too few negatives
    for the rate (``k = 0``) it lies just above the largest seen, which holds for ``1 / (n + 1)``.
    Above a score of 1 lies a threshold that no score reaches.
    """
    ordered = np.sort(np.asarray(negative_scores, dtype=np.float64))[::-1]
    if not len(ordered):
        return 0.5
    rank = max(conformal_rank(len(ordered), fpr), 1)
    return float(np.nextafter(ordered[min(rank, len(ordered)) - 1], 2.0))


def decide(scores: Mapping[str, float], thresholds: Mapping[str, float], order: Sequence[str]) -> tuple[str, ...]:
    """The tags whose score reaches its threshold, in the given order."""
    return tuple(name for name in order if name in thresholds and scores[name] >= thresholds[name])


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain data, its taxonomy left out: that stands in the config."""
    return {name: value for name, value in dataclasses.asdict(calibration).items() if name != "taxonomy"}


def calibration_from_json(raw: Mapping[str, Any], taxonomy: Taxonomy = TAXONOMY) -> Calibration:
    """The reverse of :func:`calibration_to_json`: what JSON has sorted by name, in the taxonomy's order again.

    Raises:
        ValueError: if a label or tag has no scaling.
    """
    return Calibration(
        sentences=_scalings(raw["sentences"], taxonomy.labels),
        traces=_scalings(raw["traces"], taxonomy.tags),
        points=tuple(
            OperatingPoint(
                fpr=point["fpr"],
                sentences={name: point["sentences"][name] for name in taxonomy.labels if name in point["sentences"]},
                traces={name: point["traces"][name] for name in taxonomy.tags if name in point["traces"]},
            )
            for point in raw["points"]
        ),
        fitted_on=raw["fitted_on"],
        taxonomy=taxonomy,
    )


def _scalings(raw: Mapping[str, Any], order: Sequence[str]) -> dict[str, Scaling]:
    for name in order:
        if name not in raw:
            raise ValueError(f"no scaling for {name}, only for {', '.join(raw)}")
    return {name: Scaling(**raw[name]) for name in order}
