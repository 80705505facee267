"""Whether a suite run gives the numbers of a checkpoint's model card, and where it does not."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cot_probe.monitorability.metrics import Estimate
from cot_probe.monitorability.suite import REAL, WRITTEN, Suite, SuiteError, annotation_hash
from cot_probe.monitorability.suite_results import SuiteResult, estimate_of

CARD: Final = "metrics.json"
OURS: Final = "cot_probe"
"""What cards call the checkpoint that they are of."""
_CARD_PARTS: Final = {"test": WRITTEN, "real": REAL}
_BESIDE: Final = {"goals": "goals", "hard_negatives": "hard negatives", "breakdowns": "kinds of trace"}
"""Tables of a card that the suite does not have, and how they are called there."""
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
    """Hold every number of a card's main tables, and of its paired differences, against a run.

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
        if raw.get("draws") != result.draws and place[-1] in ("low", "high"):
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
    for key in _CARD_PARTS:
        for table, words in _BESIDE.items():
            if count := _leaves(raw.get(key, {}).get(table)):
                why = f"tables of {words}: training/evaluate.py prints these"
                passed_over[why] = passed_over.get(why, 0) + count
    differences.sort(key=lambda one: -_gap(one.card, one.found))
    return CardCheck(
        path=card,
        compared=compared,
        exact=exact,
        differences=tuple(differences),
        passed_over=passed_over,
        notes=tuple(notes),
    )


def _leaves(raw: Any) -> int:
    """How many numbers there are in plain data."""
    if isinstance(raw, dict | list):
        return sum(_leaves(one) for one in (raw.values() if isinstance(raw, dict) else raw))
    return int(isinstance(raw, int | float) and not isinstance(raw, bool))


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


def _found_numbers(result: SuiteResult) -> Iterable[tuple[Place, float]]:
    for monitor in result.monitors:
        for part, some in monitor.parts.items():
            for (level, label), metrics in some.figures.items():
                for metric, estimate in metrics.items():
                    yield from _numbers((part, level, label, monitor.name, metric), estimate)
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
