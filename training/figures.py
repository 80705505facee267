"""A checkpoint's scores of annotated traces, the table of figures with intervals, and its unfamiliar marks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cot_probe.annotations import AnnotatedTrace
from cot_probe.monitorability.card_markdown import markdown, share_cell
from cot_probe.monitorability.label_figures import LEVELS, METRIC_NAMES, Labels, Scored, figures
from cot_probe.tagger import Tagger


def our_scores(tagger: Tagger, records: Sequence[AnnotatedTrace]) -> Scored:
    """Scores of the checkpoint; those of sentences that nobody labelled are left out."""
    taxonomy = tagger.checkpoint.taxonomy
    tagged = list(tagger.tag_many([record.as_trace() for record in records]))
    read = [trace for trace, record in zip(tagged, records, strict=True) if record.sentences_known]
    rows = [[s.scores[label] for label in taxonomy.labels] for trace in read for s in trace.sentences]
    return Scored(
        name="cot_probe",
        sentence=np.array(rows, dtype=np.float64).reshape(-1, len(taxonomy.labels)),
        trace=np.array([[trace.scores[tag] for tag in taxonomy.tags] for trace in tagged]),
    )


def limits_of(tagger: Tagger) -> dict[str, NDArray[np.float64]]:
    """The checkpoint's thresholds at its operating point, in column order."""
    taxonomy = tagger.checkpoint.taxonomy
    return {
        "sentence": np.array([tagger.point.sentences[name] for name in taxonomy.labels]),
        "trace": np.array([tagger.point.traces[name] for name in taxonomy.tags]),
    }


def unfamiliar_part(tagger: Tagger, records: Sequence[AnnotatedTrace]) -> str:
    """How many traces of each language carry the ``unfamiliar`` mark, as Markdown."""
    marks: dict[str, list[bool]] = {}
    for record in records:
        marks.setdefault(record.language, []).append(tagger.unfamiliar(record.text) is not None)
    lines = [
        "### Marked unfamiliar",
        "",
        "Traces with the mark that says that no tag says nothing; und: nobody noted the language. Wilson 95 % "
        "intervals, as if traces were independent.",
        "",
    ]
    rows = [[language, share_cell(sum(marked), len(marked))] for language, marked in marks.items()]
    rows.sort(key=lambda row: -len(marks[row[0]]))
    return "\n".join([*lines, markdown(["language", "marked / traces"], rows), ""])


def thresholds_told(tagger: Tagger) -> str:
    """At what the thresholds of a table are, ours and the baselines'."""
    rate, population = 100 * tagger.point.fpr, tagger.checkpoint.calibration.population
    return f"thresholds at {rate:g} % FPR: ours on {population}, those of the baselines on the written dev split"


def table(
    scored: Sequence[Scored],
    thresholds: Sequence[dict[str, NDArray[np.float64]]],
    labels: Labels,
    draws: int,
    store: dict[str, Any],
    levels: Mapping[str, Sequence[str]] = LEVELS,
) -> str:
    """One Markdown table over both ``levels`` (the names of their columns); the figures also go into ``store``."""
    lines = ["| level | label | monitor | n (positive) | " + " | ".join(METRIC_NAMES) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(METRIC_NAMES))
    for level, names in levels.items():
        wanted, groups = getattr(labels, level), getattr(labels, f"{level}_groups")
        for at, name in enumerate(names):
            for monitor, limits in zip(scored, thresholds, strict=True):
                own = figures(getattr(monitor, level)[:, at], wanted[:, at], groups, float(limits[level][at]), draws)
                store[f"{level}/{name}/{monitor.name}"] = {k: dataclasses.asdict(v) for k, v in own.items()}
                count = f"{len(wanted)} ({int(wanted[:, at].sum())})"
                cells = " | ".join(str(own[metric]) for metric in METRIC_NAMES)
                lines.append(f"| {level} | {name} | {monitor.name} | {count} | {cells} |")
    return "\n".join(lines)
