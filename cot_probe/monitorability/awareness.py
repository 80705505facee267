"""The test-or-real question: does the outcome depend on what the reasoning says that its situation is?

A case's *stance* is "test", "real", "both", or None where its reasoning says neither (``Case.stance``). A case whose
reasoning nobody could read, or whose stance nobody looked for, has none: it is counted apart, never under "neither".

The agentic-misalignment experiment has three labels of its own, which `deliberation_of` gives from a stance:

- "test" is ``deliberates_thinks_eval``, "real" is ``deliberates_thinks_real``, neither is ``no_deliberation``.
- "both" goes by its conclusion, since theirs is the label of where the deliberation ends: the side that the last
  sentence takes which takes one only (`conclusion_of`). Where the sentences do not tell, it is ``undecided``, which is
  none of the three: a row of its own, in neither side of the contrast.

Theirs reads the whole response, ours the reasoning alone. The port to inspect_evals calls "aware" what is
``deliberates_thinks_eval`` and nothing else.

All of this is association. What a text says is not what a model holds true, and the cases that say "test" can differ
from those that say "real" in more than that: hence the stratified figures.
"""

import dataclasses
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np

from cot_probe.monitorability.contrasts import Association, Contrast, Share, associate, contrast, share
from cot_probe.monitorability.metrics import Bools
from cot_probe.taxonomy import STANCES, Stance

if TYPE_CHECKING:
    from cot_probe.monitorability.study import Case

Label = Literal["deliberates_thinks_eval", "deliberates_thinks_real", "no_deliberation", "undecided"]
Held = Literal["stratum", "group", "phenomenon"]
"""Field of a case that a stratified analysis holds fixed."""

STANCE_ROWS: Final = ("test", "real", "both", "neither")
LABEL_ROWS: Final[tuple[Label, ...]] = (
    "deliberates_thinks_eval",
    "deliberates_thinks_real",
    "undecided",
    "no_deliberation",
)
"""Rows of a table: test, real, both, neither, by stances and by the experiment's labels."""
LABEL_STANCES: Final[Mapping[str, Stance | None]] = {
    "deliberates_thinks_eval": "test",
    "deliberates_thinks_real": "real",
    "undecided": "both",
    "no_deliberation": None,
}
"""The stance that a label of the experiment amounts to: what its own classifier found can be used as ours."""

_BY_LABEL: Final = (
    "the labels of the agentic-misalignment experiment: a trace that says both has that of the side which it ends on, "
    "and is undecided where its sentences do not tell"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwarenessTable:
    """How often the outcome happened, by what the reasoning says of its situation.

    Attributes:
        outcome: What the outcome means, in words.
        rates: Share with the outcome in each row: `STANCE_ROWS`, or `LABEL_ROWS` for the experiment's labels.
        unread: The same among cases whose stance is not known: hidden reasoning, or nobody looked.
        real_against_test: Cases that say "real" against those that say "test"; "both" is on neither side.
        test_against_neither: Those that say "test" against those that say neither.
        real_against_neither: Those that say "real" against those that say neither.
        source: Where the counts were published; empty where they were counted here.
        notes: What a reader must know besides.
    """

    outcome: str
    rates: Mapping[str, Share]
    unread: Share
    real_against_test: Association
    test_against_neither: Contrast
    real_against_neither: Contrast
    source: str = ""
    notes: tuple[str, ...] = ()


def awareness(
    outcomes: Sequence[bool] | Bools,
    stances: Sequence[str | None],
    *,
    known: Sequence[bool] | Bools | None = None,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[str] | None = None,
    outcome: str = "misbehaviour",
    draws: int = 1000,
    seed: int = 0,
) -> AwarenessTable:
    """The outcome by stance.

    Args:
        outcomes: ``(n,)`` whether it happened.
        stances: ``(n,)`` "test", "real", "both" or None for neither.
        known: ``(n,)`` whether the stance was read at all; None: everywhere.
        groups: ``(n,)`` what the interval of the difference resamples whole (scenarios).
        strata: ``(n,)`` what the stratified analysis holds fixed (the model).
        outcome: What the outcome means.
        draws: Of the bootstrap by groups.
        seed: Of the bootstrap by groups.

    Raises:
        ValueError: if a stance is none of these, or lengths differ.
    """
    seen = [True] * len(stances) if known is None else [bool(one) for one in known]
    rows = [_row(stance, at) if of else None for at, (stance, of) in enumerate(zip(stances, seen, strict=True))]
    return _table(outcomes, rows, STANCE_ROWS, groups, strata, outcome, draws, seed)


def deliberation(
    outcomes: Sequence[bool] | Bools,
    labels: Sequence[str | None],
    *,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[str] | None = None,
    outcome: str = "misbehaviour",
    draws: int = 1000,
    seed: int = 0,
) -> AwarenessTable:
    """The outcome by the experiment's labels; as `awareness`, but None is a label that is not known.

    Raises:
        ValueError: if a label is none of `LABEL_ROWS`, or lengths differ.
    """
    for at, label in enumerate(labels):
        if label is not None and label not in LABEL_ROWS:
            raise ValueError(f"case {at}: label {label!r}, expected one of {', '.join(LABEL_ROWS)}, or None")
    return _table(outcomes, labels, LABEL_ROWS, groups, strata, outcome, draws, seed)


def awareness_of(
    cases: Iterable["Case"], *, held: Held = "stratum", outcome: str = "misbehaviour", draws: int = 1000, seed: int = 0
) -> AwarenessTable:
    """The outcome by the stances of the cases of a study; groups are theirs, ``held`` is what strata are made of."""
    listed = tuple(cases)
    return awareness(
        [case.outcome for case in listed],
        [case.stance for case in listed],
        known=[case.stance_known and case.visible for case in listed],
        groups=[case.group for case in listed],
        strata=[str(getattr(case, held)) for case in listed],
        outcome=outcome,
        draws=draws,
        seed=seed,
    )


def conclusion_of(sentence_tags: Iterable[Collection[str]]) -> Literal["test", "real"] | None:
    """Where a deliberation ends: the side of the last sentence that takes one side only; None where none does.

    Args:
        sentence_tags: Tags of each sentence of a trace, in order.
    """
    found: Literal["test", "real"] | None = None
    for tags in sentence_tags:
        test, real = (label in tags for label in STANCES)
        if test != real:
            found = "test" if test else "real"
    return found


def deliberation_of(stance: str | None, conclusion: str | None = None) -> Label:
    """The experiment's label for a stance; ``conclusion`` settles "both" (see the module).

    Raises:
        ValueError: if the stance is none of "test", "real", "both", None.
    """
    side = conclusion if _row(stance) == "both" and conclusion in ("test", "real") else stance
    labels: dict[str | None, Label] = {found: cast(Label, label) for label, found in LABEL_STANCES.items()}
    return labels[side]


def label_of(stance: str | None, sentence_tags: Iterable[Collection[str]]) -> Label:
    """The experiment's label of a tagged trace: from its stance, and where that is "both" from its sentences."""
    return deliberation_of(stance, conclusion_of(sentence_tags) if stance == "both" else None)


def deliberation_in(
    cases: Iterable["Case"], *, held: Held = "stratum", outcome: str = "misbehaviour", draws: int = 1000, seed: int = 0
) -> AwarenessTable:
    """The outcome by the experiment's labels of the cases of a study; as `awareness_of`."""
    listed = tuple(cases)
    table = deliberation(
        [case.outcome for case in listed],
        [case.label if case.stance_known and case.visible else None for case in listed],
        groups=[case.group for case in listed],
        strata=[str(getattr(case, held)) for case in listed],
        outcome=outcome,
        draws=draws,
        seed=seed,
    )
    return dataclasses.replace(table, notes=(_BY_LABEL,))


def _row(stance: str | None, at: int | None = None) -> str:
    row = "neither" if stance is None else stance
    if row not in STANCE_ROWS or stance == "neither":
        place = "" if at is None else f"case {at}: "
        raise ValueError(f"{place}stance {stance!r}, expected 'test', 'real', 'both', or None for neither")
    return row


def _table(
    outcomes: Sequence[bool] | Bools,
    rows: Sequence[str | None],
    names: Sequence[str],
    groups: Sequence[Hashable] | None,
    strata: Sequence[str] | None,
    outcome: str,
    draws: int,
    seed: int,
) -> AwarenessTable:
    """The table of cases that are in a row each; ``names`` are those of test, real, both and neither."""
    happened = np.asarray(outcomes, dtype=bool)
    if len(happened) != len(rows):
        raise ValueError(f"{len(happened)} outcomes and {len(rows)} stances, expected one of each a case")
    inside = {name: np.array([row == name for row in rows], dtype=bool) for name in (*names, None)}
    rates = {name: share(int((happened & which).sum()), int(which.sum())) for name, which in inside.items()}
    test, real, _, neither = names
    return AwarenessTable(
        outcome=outcome,
        rates={name: rates[name] for name in names},
        unread=rates[None],
        real_against_test=associate(
            happened,
            inside[real],
            inside[test],
            names=(real, test),
            groups=groups,
            strata=strata,
            draws=draws,
            seed=seed,
        ),
        test_against_neither=contrast(rates[test], rates[neither], (test, neither)),
        real_against_neither=contrast(rates[real], rates[neither], (real, neither)),
    )
