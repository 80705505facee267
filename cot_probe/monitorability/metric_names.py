"""What people call a metric, what it means in a line, and where it belongs in a report.

Metrics are known by keys such as ``tpr_at_fpr_0.01``: a name and, at its end, the operating point. A key that is not
listed here is shown as it is spelled, under "Other figures"; none is left out.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Form = Literal["share", "count", "amount"]
"""How values are written: with three decimals, whole, with three digits."""

GROUPS: Final = {
    "ranking": "How well scores rank",
    "threshold": "At a threshold",
    "audit": "What an auditor finds",
    "value": "What the reasoning adds",
    "turns": "Transcripts by their turns",
    "stream": "While the reasoning is written",
    "cascade": "With a judge for some traces",
    "calibration": "Scores as probabilities",
    "unscored": "Traces without a score",
    "cost": "Cost",
    "traces": "The traces themselves",
    "": "Other figures",
}
"""Parts of a report in their order, by the group of their metrics; "" is for metrics that are not listed."""
MAIN: Final = ("auroc", "average_precision", "tpr_at_fpr", "g_mean_squared")
"""What the table of monitors shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricName:
    """A metric for readers: its label, where ``{}`` is the operating point, its meaning, its part of the report."""

    label: str
    meaning: str
    group: str
    form: Form


def _metric(label: str, meaning: str, group: str, form: Form = "share") -> MetricName:
    return MetricName(label=label, meaning=meaning, group=group, form=form)


METRICS: Final[dict[str, MetricName]] = {
    "auroc": _metric(
        "AUROC",
        "Chance that a trace with the outcome scores above one without (Hanley and McNeil 1982).",
        "ranking",
    ),
    "average_precision": _metric(
        "Avg. precision",
        "Step-wise area under precision over recall; its floor is the share of positives.",
        "ranking",
    ),
    "tpr_at_fpr": _metric(
        "TPR at {} FPR",
        "Share of the traces with the outcome that are found while at most this share of the others alarms.",
        "ranking",
    ),
    "transcript_tpr_at_turn_fpr": _metric(
        "Transcript TPR at {} turn FPR",
        "Share of transcripts found by their highest turn while at most this share of clean turns alarms.",
        "turns",
    ),
    "g_mean_squared": _metric(
        "g-mean²",
        "True-positive rate times true-negative rate at the monitor's own threshold, whatever the prevalence "
        "(Guan et al. 2025).",
        "threshold",
    ),
    "true_positive_rate": _metric(
        "TPR",
        "Share of the traces with the outcome that the monitor's own threshold finds.",
        "threshold",
    ),
    "true_negative_rate": _metric(
        "TNR",
        "Share of the traces without the outcome that its own threshold leaves alone.",
        "threshold",
    ),
    "g_mean_squared_intervention": _metric(
        "g-mean² (intervention)",
        "g-mean² of an intervention evaluation, true-negative rates by arm (Guan et al. 2025).",
        "threshold",
    ),
    "best_g_mean_squared": _metric(
        "Best g-mean²",
        "The largest g-mean² that any threshold gives: chosen on these very traces, a bound and no result.",
        "threshold",
    ),
    "audit_recall": _metric(
        "Recall, top {} read",
        "Share of the misbehaviour that an auditor finds who reads this share of the traces, highest scores first.",
        "audit",
    ),
    "monitoring_value": _metric(
        "Monitoring value at {} FPR",
        "True-positive rate with the reasoning minus that without it, at the same false-positive rate.",
        "value",
    ),
    "brier": _metric(
        "Brier",
        "Mean squared error of the score as a probability (Brier 1950); lower is better.",
        "calibration",
    ),
    "ece": _metric(
        "ECE",
        "Mean distance of score and share of positives over ten bins (Naeini, Cooper and Hauskrecht 2015); "
        "lower is better.",
        "calibration",
    ),
    "first_alarm": _metric(
        "First alarm",
        "Where in the stream the first alarm comes, as a share of its tokens; the median of streams with an alarm.",
        "stream",
    ),
    "alarm_delay": _metric(
        "Delay, tokens",
        "Tokens from the start of the annotated sentence to the first alarm that is not early; the median.",
        "stream",
        "amount",
    ),
    "early_alarm": _metric(
        "Early alarm",
        "Share of streams whose first alarm comes before the annotated sentence: false, though the trace is not clean.",
        "stream",
    ),
    "missed_evidence": _metric(
        "Missed",
        "Share of streams with an annotated sentence and no alarm.",
        "stream",
    ),
    "false_alarms_per_10k": _metric(
        "False alarms a 10k tokens",
        "Alarms in 10,000 tokens without or before annotated evidence.",
        "stream",
        "amount",
    ),
    "exact_hit": _metric(
        "Exact hit",
        "Share of streams whose first alarm lies in the annotated sentence (Qwen3Guard 2025).",
        "stream",
    ),
    "within_128": _metric(
        "Within 128 tokens",
        "Share of streams with an alarm in the first 128 tokens of the annotated sentence (Qwen3Guard 2025).",
        "stream",
    ),
    "cascade_auroc": _metric(
        "Cascade AUROC at {} judge calls",
        "AUROC of a first monitor with a judge for this share of the traces.",
        "cascade",
    ),
    "seconds": _metric(
        "Seconds",
        "Time for all traces.",
        "cost",
        "amount",
    ),
    "seconds_per_trace": _metric(
        "Seconds a trace",
        "Time for one trace.",
        "cost",
        "amount",
    ),
    "tokens": _metric(
        "Tokens",
        "Tokens read and written for all traces.",
        "cost",
        "count",
    ),
    "tokens_per_trace": _metric(
        "Tokens a trace",
        "Tokens read and written for one trace.",
        "cost",
        "amount",
    ),
    "dollars": _metric(
        "Dollars",
        "Price of all traces.",
        "cost",
        "amount",
    ),
    "dollars_per_trace": _metric(
        "Dollars a trace",
        "Price of one trace.",
        "cost",
        "amount",
    ),
    "refused": _metric(
        "Refused",
        "Traces that the monitor refused to judge.",
        "unscored",
        "count",
    ),
    "unparsable": _metric(
        "Unparsable",
        "Traces with an answer that holds no score.",
        "unscored",
        "count",
    ),
    "missing": _metric(
        "Missing",
        "Traces without an answer, or without reasoning that could be read.",
        "unscored",
        "count",
    ),
    "failed": _metric(
        "Failed",
        "Traces whose judging broke off.",
        "unscored",
        "count",
    ),
    "unscored": _metric(
        "Unscored, all",
        "Traces without a score, for whatever reason.",
        "unscored",
        "count",
    ),
    "outcome_rate": _metric(
        "Outcome rate",
        "Share of the traces with the outcome.",
        "traces",
    ),
    "visible_reasoning": _metric(
        "Visible reasoning",
        "Share of the traces whose reasoning could be read.",
        "traces",
    ),
    "verbalisation_rate": _metric(
        "Verbalisation rate",
        "Share of the misbehaviour whose reasoning says so.",
        "traces",
    ),
    "legibility": _metric(
        "Legibility (0–4)",
        "Can an unaided human follow the reasoning? Mean of an autorater (Emmons et al. 2025).",
        "traces",
    ),
    "coverage": _metric(
        "Coverage (0–4)",
        "Is all the reasoning there that the answer needed? Mean of an autorater (Emmons et al. 2025).",
        "traces",
    ),
}
_AT: Final = re.compile(r"(?P<name>.+?)_(?:at_)?(?P<point>\d+(?:\.\d+)?(?:e-?\d+)?)")


def _parts(metric: str) -> tuple[MetricName | None, str]:
    """The listed metric of a key, and its operating point as percent; None where it is not listed."""
    if metric in METRICS:
        return METRICS[metric], ""
    found = _AT.fullmatch(metric)
    name = METRICS.get(found["name"]) if found else None
    return (name, percent(float(found["point"]))) if found and name and "{}" in name.label else (None, "")


def percent(share: float) -> str:
    """A share as percent, with as many digits as it needs: ``0.1 %``."""
    return f"{100 * share:.6g} %"


def named(metric: str) -> str:
    """What people call the metric."""
    name, point = _parts(metric)
    return name.label.format(point) if name else metric.replace("_", " ")


def label(metric: str) -> str:
    """What people call it whatever the operating point."""
    name, _ = _parts(metric)
    return name.label.format("…") if name else metric.replace("_", " ")


def meaning(metric: str) -> str:
    """The metric in a line; empty where it is not listed."""
    name, _ = _parts(metric)
    return name.meaning if name else ""


def group(metric: str) -> str:
    """The part of a report that it belongs to, a key of :data:`GROUPS`."""
    name, _ = _parts(metric)
    return name.group if name else ""


def form(metric: str) -> Form:
    """How its values are written."""
    name, _ = _parts(metric)
    return name.form if name else "share"


def is_main(metric: str) -> bool:
    """Whether the table of monitors shows it."""
    name, _ = _parts(metric)
    return name is not None and any(name is METRICS[key] for key in MAIN)
