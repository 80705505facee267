"""Monitors measured on a published suite: for each label of traces and of sentences the figures of a model card."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cot_probe import __version__
from cot_probe.annotations.phenomena import report_name
from cot_probe.monitorability.bench_options import Unscored, applied, both_applied, probabilities
from cot_probe.monitorability.card_levels import measured
from cot_probe.monitorability.card_tables import CardTables, card_tables, tables_json
from cot_probe.monitorability.contamination import Training
from cot_probe.monitorability.label_figures import LEVELS, METRIC_NAMES, Scored, figures
from cot_probe.monitorability.metrics import Estimate, average_precision, paired_difference
from cot_probe.monitorability.study import Case, MonitorScores, Study
from cot_probe.monitorability.submission import Column, Submission, columns
from cot_probe.monitorability.suite import REAL, Part, Suite, SuiteError
from cot_probe.taxonomy import DEFINITIONS, TAGS, stance_of

SCHEMA: Final = "cot_probe.suite_result/1"
PLACES: Final = 6
"""Decimal places of the figures in files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A monitor that is to be measured: its answers, what is known of its training, what was wrong with its file."""

    submission: Submission
    training: Training
    faults: tuple[str, ...] = ()
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFigures:
    """One monitor on one part.

    Attributes:
        figures: Level and label to metric to estimate; only what can be measured (no F1 without a threshold, no
            calibration error of scores that are no probabilities).
        unscored: Level to status to how many of its traces or sentences have no score for some label.
        complete: Whether every text of the part was at hand, or the monitor answered every trace all the same.
        tables: Goals, hard negatives and kinds of trace, of a monitor that scores every label of every sentence and
            trace as probabilities and has a threshold for each; else None.
        no_tables: Why there are none, "" where there are.
    """

    figures: Mapping[Column, Mapping[str, Estimate]]
    unscored: Mapping[str, Mapping[str, int]]
    complete: bool
    tables: CardTables | None = None
    no_tables: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One monitor on a suite, by part; parts on which it has no answer are left out."""

    entrant: Entrant
    parts: Mapping[str, PartFigures]

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self.entrant.submission.monitor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Average precision of a tag over the traces of a part: the first monitor's minus another's, paired by scenario."""

    part: str
    tag: str
    first: str
    second: str
    difference: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """What was measured.

    Attributes:
        suite: Name of the suite.
        suite_sha256: Its digest.
        sizes: Part to the number of its traces, of its sentences at hand, and of its scenarios.
        monitors: In the order that they were given.
        pairs: The first monitor against each other one.
        draws: Of the bootstrap over scenarios.
        unscored: What a trace or sentence without a score counts as.
        notes: What a reader must know besides.
    """

    suite: str
    suite_sha256: str
    sizes: Mapping[str, tuple[int, int, int]]
    monitors: tuple[Measured, ...]
    pairs: tuple[Pair, ...]
    draws: int
    unscored: Unscored
    notes: tuple[str, ...]


def measure(
    suite: Suite,
    parts: Mapping[str, Part],
    entrants: Sequence[Entrant],
    *,
    draws: int = 1000,
    unscored: Unscored = "alarm",
    progress: Callable[[str], None] | None = None,
) -> SuiteResult:
    """Measure monitors on a suite.

    Raises:
        SuiteError: if two have the same name.
    """
    names = Counter(entrant.submission.monitor for entrant in entrants)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise SuiteError(f"two monitors are called {twice!r}: rename one (--scores NAME=FILE), or use --no-baselines")
    tell = progress or (lambda _: None)
    monitors = []
    for entrant in entrants:
        tell(entrant.submission.monitor)
        found = {name: _part_figures(entrant.submission, part, draws, unscored) for name, part in parts.items()}
        monitors.append(Measured(entrant=entrant, parts={name: some for name, some in found.items() if some.figures}))
    tell("monitors in pairs")
    return SuiteResult(
        suite=suite.name,
        suite_sha256=suite.digest,
        sizes={name: _size(part) for name, part in parts.items()},
        monitors=tuple(monitors),
        pairs=tuple(pair for part in parts.values() for pair in _pairs(entrants, part, draws, unscored)),
        draws=draws,
        unscored=unscored,
        notes=tuple(note for part in parts.values() for note in part.notes),
    )


def _size(part: Part) -> tuple[int, int, int]:
    return len(part.records), len(part.labels.sentence), len(set(part.labels.trace_groups))


def _study(part: Part, column: Column, monitors: Sequence[MonitorScores]) -> Study:
    """One label of traces or sentences as a study."""
    level, label = column
    wanted = getattr(part.labels, level)[:, LEVELS[level].index(label)].tolist()
    groups = getattr(part.labels, f"{level}_groups")
    cases = tuple(
        Case(id=str(at), outcome=outcome, group=group)
        for at, (outcome, group) in enumerate(zip(wanted, groups, strict=True))
    )
    return Study(name=f"{part.name} {level} {label}", cases=cases, monitors=tuple(monitors))


def _part_figures(submission: Submission, part: Part, draws: int, unscored: Unscored) -> PartFigures:
    own = columns(submission, part)
    found = {column: _figures(_study(part, column, [scores]), draws, unscored) for column, scores in own.items()}
    answered = all(record.id in submission.answers for record in part.records)
    why = _no_tables(own, part)
    return PartFigures(
        figures={column: some for column, some in found.items() if some},
        unscored={level: counts for level in LEVELS if (counts := _unscored(own, level))},
        complete=answered,
        tables=None if why else _tables(submission.monitor, own, part, draws),
        no_tables=why,
    )


def _no_tables(own: Mapping[Column, MonitorScores], part: Part) -> str:
    """What a monitor lacks for tables that need its every score; "" if nothing."""
    if not part.whole:
        return "not every text is at hand"
    for level, names in LEVELS.items():
        for name in names:
            scores = own.get((level, name))
            if scores is None:
                return f"{level} {name} is not scored"
            if scores.threshold is None:
                return f"{level} {name} has no threshold"
            if any(status != "scored" for status in scores.statuses):
                return f"{level} {name} is not scored everywhere"
            if not ((scores.scores >= 0) & (scores.scores <= 1)).all():
                return f"{level} {name} has scores that are no probabilities"
    return ""


def _tables(name: str, own: Mapping[Column, MonitorScores], part: Part, draws: int) -> CardTables:
    """The tables that a card has beside its figures."""
    by_level = {
        level: np.stack([own[level, label].scores for label in labels], axis=1) for level, labels in LEVELS.items()
    }
    scored = Scored(name=name, sentence=by_level["sentence"], trace=by_level["trace"])
    limits = {
        level: np.array([own[level, label].threshold for label in labels], dtype=np.float64)
        for level, labels in LEVELS.items()
    }
    sentence, trace = (measured(level, scored, limits, part.labels, draws) for level in LEVELS)
    return card_tables(sentence, trace, part.records, real=part.name == REAL)


def _unscored(own: Mapping[Column, MonitorScores], level: str) -> dict[str, int]:
    """How many rows of a level have no score for one of its labels, by the status of the first such label."""
    statuses = zip(*(scores.statuses for (of, _), scores in own.items() if of == level), strict=True)
    without = (next((one for one in row if one != "scored"), None) for row in statuses)
    return dict(Counter(status for status in without if status is not None))


def _figures(study: Study, draws: int, unscored: Unscored) -> dict[str, Estimate]:
    """The card's metrics of one monitor on one label."""
    (monitor,) = study.monitors
    taken = applied(study, monitor, unscored)
    if not len(taken.scores):
        return {}
    limit = monitor.threshold
    names = [name for name in METRIC_NAMES if name != "ECE" and (name != "F1" or limit is not None)]
    found = figures(taken.scores, taken.labels, taken.groups, math.nan if limit is None else limit, draws, names)
    scored = probabilities(study, monitor)
    if scored is not None:
        found |= figures(scored.scores, scored.labels, scored.groups, math.nan, draws, ["ECE"])
    return found


def _pairs(entrants: Sequence[Entrant], part: Part, draws: int, unscored: Unscored) -> list[Pair]:
    """The first monitor that answers this part against each other one, tag by tag."""
    given = [(entrant.submission.monitor, columns(entrant.submission, part)) for entrant in entrants]
    given = [(name, own) for name, own in given if own]
    pairs = []
    for name, own in given[1:]:
        first, ours = given[0]
        for column in (column for column in ours if column[0] == "trace" and column in own):
            study = _study(part, column, [ours[column], own[column]])
            one, other, labels, groups = both_applied(study, ours[column], own[column], unscored)
            gap = paired_difference(average_precision, one, other, labels, groups, draws=draws)
            pairs.append(Pair(part=part.name, tag=column[1], first=first, second=name, difference=gap))
    return pairs


def trace_study(suite: Suite, part: Part, tag: str, entrants: Sequence[Entrant]) -> Study:
    """The traces of a part with one tag as the outcome: what `bench` makes its reports of.

    Phenomena are those of the scenarios, for real traces their sources; the stance is the one that people gave.
    """
    at = TAGS.index(tag)
    cases = tuple(
        Case(
            id=record.id,
            outcome=bool(outcome),
            group=record.group,
            phenomenon=record.source or report_name(record.phenomenon),
            stance=stance_of(set(record.trace)),
            stance_known=True,
        )
        for record, outcome in zip(part.records, part.labels.trace[:, at], strict=True)
    )
    monitors = []
    for entrant in entrants:
        scores = columns(entrant.submission, part).get(("trace", tag))
        if scores is not None:
            told = f"{entrant.training.statement} ({entrant.training.verdict}: {entrant.training.told_by})"
            signature = {"version": entrant.submission.version, **entrant.submission.signature}
            monitors.append(dataclasses.replace(scores, signature=signature, trained_on=told))
    return Study(
        name=f"suite {suite.name}, {part.name} traces, {tag}",
        cases=cases,
        monitors=tuple(monitors),
        source={f"suite {suite.name}": suite.digest},
        outcome=f"{tag}: {DEFINITIONS[tag]}",
        notes=part.notes,
    )


def result_json(result: SuiteResult) -> dict[str, Any]:
    """A result as plain JSON data; what cannot be computed is null."""
    return {
        "schema": SCHEMA,
        "suite": result.suite,
        "suite_sha256": result.suite_sha256,
        "cot_probe": __version__,
        "draws": result.draws,
        "unscored": result.unscored,
        "intervals": "95 %, percentile bootstrap over scenarios",
        "sizes": {
            name: dict(zip(("traces", "sentences", "scenarios"), size, strict=True))
            for name, size in result.sizes.items()
        },
        "monitors": [_with_tables(monitor) for monitor in result.monitors],
        "pairs": [dataclasses.asdict(pair) | {"difference": estimate_json(pair.difference)} for pair in result.pairs],
        "notes": list(result.notes),
    }


def _with_tables(monitor: Measured) -> dict[str, Any]:
    """One monitor's figures, and beside those of each part its tables as a card's metrics.json has them."""
    plain = monitor_json(monitor)
    for name, part in monitor.parts.items():
        if part.tables is not None:
            plain["parts"][name] |= tables_json(part.tables)
    return plain


def monitor_json(monitor: Measured) -> dict[str, Any]:
    """One monitor's figures, with what must be quoted beside them."""
    submission = monitor.entrant.submission
    return {
        "monitor": submission.monitor,
        "version": submission.version,
        "reads": submission.reads,
        "training": dataclasses.asdict(monitor.entrant.training),
        "signature": dict(submission.signature),
        **dict(submission.costs),
        "faults": list(monitor.entrant.faults),
        "parts": {
            name: {
                "unscored": {level: dict(counts) for level, counts in part.unscored.items()},
                "figures": {
                    f"{level}/{label}": {metric: estimate_json(one) for metric, one in some.items()}
                    for (level, label), some in part.figures.items()
                },
            }
            for name, part in monitor.parts.items()
        },
    }


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate as plain data."""
    plain = dataclasses.asdict(estimate)
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in plain.items()}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, PLACES)


def estimate_of(raw: Mapping[str, Any]) -> Estimate:
    """The reverse of `estimate_json`; also reads the NaN of a card's metrics.json.

    Raises:
        KeyError: if a field is missing.
        TypeError: if one is no number.
    """
    low, high, value = (math.nan if raw[name] is None else float(raw[name]) for name in ("low", "high", "value"))
    return Estimate(value=value, low=low, high=high, n=int(raw["n"]), positives=int(raw["positives"]))
