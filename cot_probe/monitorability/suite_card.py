"""Whether a suite run gives the numbers of a checkpoint's model card, and where it does not."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cot_probe.monitorability.card_tables import tables_json
from cot_probe.monitorability.metrics import Estimate
from cot_probe.monitorability.suite import REAL, WRITTEN, Suite, SuiteError, annotation_hash
from cot_probe.monitorability.suite_results import SuiteResult, estimate_of

OURS: Final = "cot_probe"
"""What cards call the checkpoint that they are of."""
_CARD_PARTS: Final = {"test": WRITTEN, "real": REAL}
_OPTIONAL: Final = ("auroc", "average_precision", "readers")
"""Figures that a row of a table may lack."""
_KEYS: Final = ("figure", "label", "type", "group", "tag")
"""What tells one row of a table from another."""
_NO_DRAWS: Final = "hard_negatives"
"""The table whose intervals are Wilson's: they do not depend on how often the bootstrap drew."""
PRINTED: Final = 0.0005
"""Half a unit of the last digit that cards print: a difference up to here is none that a reader could see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A number of the card that came out otherwise: where it stands, what the card says, what was found."""

    place: str
    card: float
    found: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCheck:
    """The numbers of a card held against a run.

    Attributes:
        path: The card's file.
        compared: How many numbers were: values, ends of intervals and counts.
        exact: Of these, how many are the same to nine digits.
        differences: Those that differ in a digit that cards print, largest difference first.
        passed_over: Numbers of the card's tables that this run does not give, by reason.
        notes: What else differs between the card's run and this one.
    """

    path: Path
    compared: int
    exact: int
    differences: tuple[Difference, ...]
    passed_over: Mapping[str, int]
    notes: tuple[str, ...]


def against_card(result: SuiteResult, card: Path, suite: Suite, annotations: Path) -> CardCheck:
    """Hold every number of a card against a run: figures, paired differences, goals, hard negatives, kinds of trace.

    Raises:
        SuiteError: if the card's file is none.
    """
    try:
        raw = json.loads(card.read_bytes())
        wanted = dict(_card_numbers(raw))
        notes = list(_notes(raw, result, suite, annotations))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SuiteError(f"{card}: not the figures of a model card ({error!r}): evaluate the checkpoint anew") from None
    found = dict(_found_numbers(result))
    compared, exact = 0, 0
    differences: list[Difference] = []
    passed_over: dict[str, int] = {}
    for place, number in wanted.items():
        if raw.get("draws") != result.draws and place[-1] in ("low", "high") and place[1] != _NO_DRAWS:
            why = f"interval of {raw.get('draws')} draws, here {result.draws}"
            passed_over[why] = passed_over.get(why, 0) + 1
            continue
        if place not in found:
            why = f"{place[0]}: not measured here"
            passed_over[why] = passed_over.get(why, 0) + 1
            continue
        compared += 1
        gap = _gap(number, found[place])
        exact += gap <= 1e-9
        if gap > PRINTED:
            differences.append(Difference(place=" ".join(place), card=number, found=found[place]))
    differences.sort(key=lambda one: -_gap(one.card, one.found))
    return CardCheck(
        path=card,
        compared=compared,
        exact=exact,
        differences=tuple(differences),
        passed_over=passed_over,
        notes=tuple(notes),
    )


def _gap(one: float, other: float) -> float:
    """How far two numbers lie apart; two that cannot be computed agree."""
    if math.isnan(one) or math.isnan(other):
        return 0.0 if math.isnan(one) and math.isnan(other) else math.inf
    return abs(one - other)


Place = tuple[str, ...]


def _card_numbers(raw: Mapping[str, Any]) -> Iterable[tuple[Place, float]]:
    for key, part in _CARD_PARTS.items():
        for row, metrics in raw.get(key, {}).get("figures", {}).items():
            level, label, monitor = row.split("/", 2)
            for metric, estimate in metrics.items():
                yield from _numbers((part, level, label, monitor, metric), estimate_of(estimate))
        for row, estimate in raw.get(key, {}).get("paired", {}).items():
            tag, monitor = row.split("/", 1)
            yield from _numbers((part, "trace", tag, f"difference from {monitor}", "AP"), estimate_of(estimate))
        yield from _table_numbers(part, raw.get(key, {}))
        for size in ("n_traces", "n_sentences"):
            if size in raw.get(key, {}):
                yield (part, size), float(raw[key][size])


def _table_numbers(part: str, raw: Mapping[str, Any]) -> Iterable[tuple[Place, float]]:
    """The numbers of a part's tables as metrics.json has them."""
    tables: dict[Place, Any] = {(name,): raw.get(name, []) for name in ("goals", "hard_negatives")}
    tables |= {("breakdowns", kind): rows for kind, rows in raw.get("breakdowns", {}).items()}
    for table, rows in tables.items():
        for row in rows:
            keys = tuple(str(row[key]) for key in _KEYS if key in row)
            yield from _leaves((part, *table, *keys), row)


def _leaves(place: Place, raw: Mapping[str, Any]) -> Iterable[tuple[Place, float]]:
    """Every number of a row; what cannot be computed is nan, as is the value of a figure that a row lacks."""
    for name, value in raw.items():
        if isinstance(value, Mapping):
            yield from _leaves((*place, name), value)
        elif value is None:
            yield (*place, name, "value") if name in _OPTIONAL else (*place, name), math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*place, name), float(value)


def _found_numbers(result: SuiteResult) -> Iterable[tuple[Place, float]]:
    for monitor in result.monitors:
        for part, some in monitor.parts.items():
            for (level, label), metrics in some.figures.items():
                for metric, estimate in metrics.items():
                    yield from _numbers((part, level, label, monitor.name, metric), estimate)
            if monitor.name == OURS:
                yield (part, "n_traces"), float(result.sizes[part][0])
                yield (part, "n_sentences"), float(result.sizes[part][1])
                if some.tables is not None:
                    yield from _table_numbers(part, tables_json(some.tables))
    for pair in (pair for pair in result.pairs if pair.first == OURS):
        yield from _numbers((pair.part, "trace", pair.tag, f"difference from {pair.second}", "AP"), pair.difference)


def _numbers(place: Place, estimate: Estimate) -> Iterable[tuple[Place, float]]:
    for name in ("value", "low", "high", "n", "positives"):
        yield (*place, name), float(getattr(estimate, name))


def _notes(raw: Mapping[str, Any], result: SuiteResult, suite: Suite, annotations: Path) -> Iterable[str]:
    then, now = str(raw["annotations"]), annotation_hash(annotations)
    if then != now:
        known = suite.earlier.get(then, "how the two differ in the suite's traces is not recorded")
        yield f"the card was measured on annotation set {then}, this is {now}: {known}"
    for key, part in _CARD_PARTS.items():
        n_then, n_now = raw.get(key, {}).get("n_sentences"), result.sizes[part][1]
        if n_then is not None and n_then != n_now:
            yield f"{part}: the card counts {n_then} sentences, {n_now} are at hand here"


def card_lines(check: CardCheck, *, most: int = 20) -> list[str]:
    """What the comparison found, in lines to print."""
    same = check.compared - len(check.differences)
    lines = [
        f"model card {check.path}: {same} of {check.compared} numbers as printed there ({check.exact} of them to nine "
        "digits)"
    ]
    lines += [f"  not compared: {count} numbers, {why}" for why, count in check.passed_over.items()]
    lines += [f"  {note}" for note in check.notes]
    lines += [f"  {one.place}: card {one.card:.4f}, here {one.found:.4f}" for one in check.differences[:most]]
    if len(check.differences) > most:
        lines.append(f"  … and {len(check.differences) - most} more numbers that differ")
    return lines
