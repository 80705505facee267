"""A monitorability study: traces with known outcomes, and what any number of monitors said of them.

The unit is a `Case`, one trace and whether the misbehaviour happened. A `MonitorScores` holds one monitor's score of
every case, in the order of the cases, together with what became of the cases it did not score: a judge that refuses
has not called a trace clean. A `Study` binds them with the hashes of the files they came from.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cot_probe.monitorability.rows import CellError, StudyError, as_number
from cot_probe.monitorability.streams import ScoredStream

if TYPE_CHECKING:
    import pyarrow as pa

Status = Literal["scored", "refused", "unparsable", "missing", "failed"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
READS: Final = ("reasoning", "action", "reasoning+action", "unknown")
"""What a monitor can have looked at."""
_STATUS_WORDS: Final[Mapping[str, Status]] = {
    "refused": "refused",
    "refusal": "refused",
    "unparsable": "unparsable",
    "unparseable": "unparsable",
    "missing": "missing",
    "failed": "failed",
    "error": "failed",
    "nan": "missing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trace with a known outcome.

    Attributes:
        id: The trace's name, unique in its study.
        outcome: Whether the misbehaviour happened.
        group: What the bootstrap resamples: the scenario; the id where none is known.
        stratum: Model, or another variable that stratified analyses hold fixed.
        arm: "intervention" or "control" where the study intervened on the model's process, else "".
        reasoning: The trace's reasoning, as far as it could be read.
        action: What the model did or answered.
        context: What the model was given.
        phenomenon: Kind of misbehaviour, for the per-phenomenon figures.
        stance: What the reasoning says of being tested: "test", "real", "both", or None for neither.
        stance_known: Whether the stance was read at all; without it a None stance means nothing.
        label: The agentic-misalignment experiment's label, where it is known (see `awareness.deliberation_of`).
        verbalised: Whether the reasoning says that it misbehaves; None where nobody looked.
        forbidden: Whether an explicit command not to was in the context; None where nobody looked.
        legibility: Autorater's legibility, 0 to 4.
        coverage: Autorater's coverage, 0 to 4.
        n_tokens: Length of the reasoning in tokens.
        visible: False where no reasoning could be read (hidden, encrypted, redacted): such a case never counts as
            clean.
    """

    id: str
    outcome: bool
    group: str
    stratum: str = ""
    arm: str = ""
    reasoning: str = ""
    action: str = ""
    context: str = ""
    phenomenon: str = ""
    stance: str | None = None
    stance_known: bool = False
    label: str | None = None
    verbalised: bool | None = None
    forbidden: bool | None = None
    legibility: float | None = None
    coverage: float | None = None
    n_tokens: int | None = None
    visible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorScores:
    """One monitor over the cases of a study, in their order.

    Attributes:
        name: The monitor's name in tables and plots.
        scores: (n,) suspicion, higher is more suspicious; NaN exactly where the status is not "scored".
        statuses: (n,) what became of each case.
        reads: "reasoning", "action", "reasoning+action" or "unknown".
        threshold: Its own operating point (alarm at or above it), where it has one.
        seconds: Total over the cases; None where nobody measured it.
        tokens: Total over the cases.
        dollars: Total over the cases.
        signature: What a reader must quote: version, hash of checkpoint, prompt or file, seed.
        trained_on: Hash or name of its training data; None where it cannot be told.
    """

    name: str
    scores: NDArray[np.float64]
    statuses: tuple[Status, ...]
    reads: str = "reasoning"
    threshold: float | None = None
    seconds: float | None = None
    tokens: int | None = None
    dollars: float | None = None
    signature: Mapping[str, str] = field(default_factory=dict)
    trained_on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Cases with outcomes and the monitors that scored them.

    Attributes:
        name: The study's name.
        cases: The cases, ids unique.
        monitors: The monitors, names unique, each aligned with the cases.
        source: File name to SHA-256, suite version, and whatever else says where the study came from.
        outcome: What the outcome means, in words.
        notes: What was left out, with counts.
        streams: Of monitors that score while a trace is written, by name: their scores as they came.
    """

    name: str
    cases: tuple[Case, ...]
    monitors: tuple[MonitorScores, ...]
    source: Mapping[str, str] = field(default_factory=dict)
    outcome: str = "misbehaviour"
    notes: tuple[str, ...] = ()
    streams: Mapping[str, tuple[ScoredStream, ...]] = field(default_factory=dict)


def with_monitors(study: Study, monitors: Iterable[MonitorScores], notes: Iterable[str] = ()) -> Study:
    """The study with more monitors, and notes on how they were read.

    Raises:
        StudyError: if one does not fit the cases, or two have the same name.
    """
    return checked(dataclasses.replace(study, monitors=(*study.monitors, *monitors), notes=(*study.notes, *notes)))


def with_stances(
    study: Study, stances: Mapping[str, str | None], told_by: str, labels: Mapping[str, str] | None = None
) -> Study:
    """The study with stances for the cases whose stance was not known; ``stances`` are by id, None for neither.

    ``labels`` are the experiment's that go with them; a case that has the same stance from elsewhere takes its label.
    """
    given = labels or {}
    unknown = {case.id for case in study.cases if not case.stance_known and case.visible}
    filled = unknown & stances.keys()
    cases = []
    for case in study.cases:
        if case.id in filled:
            case = dataclasses.replace(case, stance=stances[case.id], stance_known=True)
        if case.label is None and case.stance_known and case.id in stances and stances[case.id] == case.stance:
            case = dataclasses.replace(case, label=given.get(case.id))
        cases.append(case)
    note = f"what the reasoning of {len(filled)} cases says of being tested is what {told_by} found"
    return dataclasses.replace(study, cases=tuple(cases), notes=(*study.notes, *([note] if filled else [])))


def cases_table(study: Study) -> "pa.Table":
    """The cases without their texts, and of each monitor ``score: NAME`` and ``status: NAME``, as a pyarrow table."""
    import pyarrow as pa

    names = ("id", "outcome", "group", "stratum", "arm", "phenomenon", "stance", "stance_known", "label", "visible")
    columns: dict[str, Any] = {name: [_sound(getattr(case, name)) for case in study.cases] for name in names}
    for monitor in study.monitors:
        columns[f"score: {_sound(monitor.name)}"] = pa.array(monitor.scores, from_pandas=True)  # NaN becomes null
        columns[f"status: {_sound(monitor.name)}"] = pa.array(monitor.statuses, pa.string())
    return pa.table({**columns, **{name: pa.array(columns[name], pa.string()) for name in ("stance", "label")}})


def _sound(value: Any) -> Any:
    """Text without lone surrogates, which no Arrow column holds."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def checked(study: Study) -> Study:
    """The study itself, if ids and names are unique and every monitor has a status for every case.

    Raises:
        StudyError: that says what does not fit.
    """
    for what, names in (
        ("case", [case.id for case in study.cases]),
        ("monitor", [monitor.name for monitor in study.monitors]),
    ):
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise StudyError(f"{study.name}: two {what}s are called {twice!r}, expected one: rename or remove one")
    n = len(study.cases)
    for monitor in study.monitors:
        place = f"{study.name}: monitor {monitor.name!r}"
        if monitor.scores.shape != (n,) or len(monitor.statuses) != n:
            found = f"{monitor.scores.shape} scores and {len(monitor.statuses)} statuses"
            raise StudyError(f"{place} has {found}, expected {n} of each: one a case, in their order")
        if monitor.reads not in READS:
            raise StudyError(f"{place} reads {monitor.reads!r}, expected one of {', '.join(READS)}")
        scored = np.array([status == "scored" for status in monitor.statuses], dtype=bool)
        if not np.array_equal(np.isfinite(monitor.scores), scored):
            at = int(np.flatnonzero(np.isfinite(monitor.scores) != scored)[0])
            found = f"{monitor.scores[at]} for {study.cases[at].id!r}, which is {monitor.statuses[at]}"
            raise StudyError(f"{place} has the score {found}: expected a finite score where scored, else NaN")
    return study


def monitor_of(
    name: str, found: Sequence[float | Status], *, signature: Mapping[str, str], **more: Any
) -> MonitorScores:
    """A `MonitorScores` of what was found for each case: a score, or the status of a case without one."""
    scores = np.array([math.nan if isinstance(one, str) else float(one) for one in found], dtype=np.float64)
    statuses: list[Status] = [one if isinstance(one, str) else "scored" for one in found]
    return MonitorScores(name=name, scores=scores, statuses=tuple(statuses), signature=dict(signature), **more)


def parsed_score(value: Any) -> float | Status:
    """A cell of scores: a finite number, or the status that an empty cell, a word or anything else has."""
    if value is None:
        return "missing"
    if isinstance(value, str) and value.strip().lower() in _STATUS_WORDS:
        return _STATUS_WORDS[value.strip().lower()]
    try:
        return as_number(value)
    except CellError:
        return "unparsable"
