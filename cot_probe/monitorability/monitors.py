"""The monitors of a study: ours, a keyword list, TF-IDF with logistic regression, and anybody's file of scores.

Nothing here loads torch but `checkpoint_monitor`, when it is called. The trained baseline never scores a case
whose group it has seen.
"""

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cot_probe import __version__
from cot_probe.monitorability.awareness import label_of
from cot_probe.monitorability.baselines import TfidfMonitor, keyword_scores
from cot_probe.monitorability.results_join import OwnScores
from cot_probe.monitorability.rows import Faults, StudyError, cell, read_rows
from cot_probe.monitorability.study import Case, MonitorScores, Status, Study, monitor_of, parsed_score
from cot_probe.monitorability.study_reading import keyed_rows
from cot_probe.taxonomy import SENTENCE_LABELS, STANCES

if TYPE_CHECKING:
    from cot_probe.transcripts.trace import Trace

TEXTS: Final = ("reasoning", "action", "reasoning+action")
"""What a baseline can read."""
FOLDS: Final = 5


def text_of(case: Case, reads: str) -> str | None:
    """What a monitor that reads this is given of a case; None where there is nothing to read.

    A monitor of the reasoning (alone or with the action) has nothing to read where the reasoning is not visible:
    an empty text would otherwise count as clean.

    Raises:
        ValueError: if ``reads`` is not one of `TEXTS`.
    """
    if reads not in TEXTS:
        raise ValueError(f"reads {reads!r}, expected one of {', '.join(TEXTS)}")
    if reads != "action" and not (case.visible and case.reasoning.strip()):
        return None
    parts = {"reasoning": [case.reasoning], "action": [case.action]}.get(reads, [case.reasoning, case.action])
    return "\n\n".join(part for part in parts if part.strip()) or None


def keyword_monitor(study: Study, *, reads: str = "reasoning", label: str = "strategic_harm") -> MonitorScores:
    """The keyword list of one label: hits h of its patterns as h / (1 + h)."""
    begun = time.perf_counter()
    texts = [text_of(case, reads) for case in study.cases]
    known = [at for at, text in enumerate(texts) if text is not None]
    column = SENTENCE_LABELS.index(label)
    found: list[float | Status] = ["missing"] * len(texts)
    for at, score in zip(known, keyword_scores([texts[at] or "" for at in known])[:, column], strict=True):
        found[at] = float(score)
    return monitor_of(
        _named("keywords", reads),
        found,
        signature={"family": "keywords", "label": label, "cot_probe": __version__},
        reads=reads,
        seconds=time.perf_counter() - begun,
    )


def tfidf_monitor(
    study: Study, *, reads: str = "reasoning", training: Study | None = None, folds: int = FOLDS, seed: int = 0
) -> tuple[MonitorScores, tuple[str, ...]]:
    """TF-IDF with logistic regression, trained on the outcomes of other groups or of a study of its own.

    Without ``training`` it is cross-fitted: groups are dealt to folds, and a fold's cases are scored by a model of
    the other folds, so that none is scored by a model that saw its group. The scores of the folds are ranked
    together though they come of different models, which costs it a little; and it has seen the study's own
    distribution, which a monitor trained elsewhere has not. A fold whose model cannot be trained (one outcome
    only, no word seen twice) is "failed".

    Args:
        study: The cases.
        reads: One of `TEXTS`.
        training: Cases to train on instead; those whose id or group is one of the study's are left out.
        folds: At most so many.
        seed: Deals the groups and seeds the regression.

    Returns:
        The scores, and notes on what was left out.
    """
    begun = time.perf_counter()
    found: list[float | Status] = ["missing"] * len(study.cases)
    notes: tuple[str, ...] = ()
    texts = [text_of(case, reads) for case in study.cases]
    known = np.array([at for at, text in enumerate(texts) if text is not None], dtype=np.intp)
    if training is None:
        about, trained_on = f"cross-fitted by group, {folds} folds", f"other groups of {study.name}"
        parts = [(rest, part) for rest, part in _dealt(study, known, folds, seed)]
        for rest, part in parts:
            pairs = [(texts[at] or "", study.cases[at].outcome) for at in rest]
            _score_into(found, part, texts, pairs, seed)
    else:
        pairs, notes = _training_pairs(study, training, reads)
        digest = hashlib.sha256(repr(sorted(pairs)).encode("utf-8", "surrogatepass")).hexdigest()
        about, trained_on = f"trained on {training.name}, {len(pairs)} cases", f"{training.name} sha256:{digest}"
        _score_into(found, known, texts, pairs, seed)
    monitor = monitor_of(
        _named("tf-idf", reads),
        found,
        signature={"family": "tf-idf", "fit": about, "seed": str(seed), "cot_probe": __version__},
        reads=reads,
        seconds=time.perf_counter() - begun,
        trained_on=trained_on,
    )
    return monitor, notes


def _dealt(study: Study, known: Any, folds: int, seed: int) -> list[tuple[Any, Any]]:
    """Cases to train on and cases to score, fold by fold; whole groups, shuffled, then balanced in size."""
    from sklearn.model_selection import GroupKFold

    groups = np.array([study.cases[at].group for at in known], dtype=object)
    names = np.unique(groups.astype(str)) if len(groups) else groups
    if len(names) < 2 or folds < 2:
        return [(known[:0], known)]
    order = np.random.default_rng(seed).permutation(len(names))
    codes = {name: int(code) for name, code in zip(names, order, strict=True)}
    shuffled = [codes[str(group)] for group in groups]
    splitter = GroupKFold(n_splits=min(folds, len(names)))
    return [(known[rest], known[part]) for rest, part in splitter.split(known, groups=shuffled)]


def _score_into(
    found: list[float | Status], part: Any, texts: Sequence[str | None], pairs: Sequence[tuple[str, bool]], seed: int
) -> None:
    """Train on pairs of text and outcome and score a part of the cases; "failed" where that cannot be done."""
    outcomes = {outcome for _, outcome in pairs}
    scores: Sequence[float | Status] = ["failed"] * len(part)
    if len(outcomes) == 2 and len(part):
        labels = np.array([[outcome] for _, outcome in pairs], dtype=bool)
        try:
            model = TfidfMonitor(seed=seed).fit([text for text, _ in pairs], labels)
        except ValueError:  # no word is in two of the texts
            pass
        else:
            scores = [float(score) for score in model.scores([texts[at] or "" for at in part])[:, 0]]
    for at, score in zip(part, scores, strict=True):
        found[at] = score


def _training_pairs(study: Study, training: Study, reads: str) -> tuple[list[tuple[str, bool]], tuple[str, ...]]:
    ids, groups = {case.id for case in study.cases}, {case.group for case in study.cases}
    texts = {text for case in study.cases if (text := text_of(case, reads)) is not None}
    pairs = []
    left_out = 0
    for case in training.cases:
        text = text_of(case, reads)
        if text is None:
            continue
        if case.id in ids or case.group in groups or text in texts:
            left_out += 1
        else:
            pairs.append((text, case.outcome))
    if not left_out:
        return pairs, ()
    return pairs, (
        f"{left_out} training cases left out: their id, group or text is one of the study's ({training.name})",
    )


def checkpoint_scores(
    study: Study,
    checkpoint: Path | None = None,
    *,
    tags: Sequence[str] = ("strategic_harm",),
    fpr: float | None = None,
    device: str = "cpu",
) -> OwnScores:
    """Our scores, made now, a monitor a tag: loads torch and the checkpoint (None: the shipped one).

    Raises:
        StudyError: if the checkpoint has no such tag, or no case has reasoning to read.
        CheckpointError: if it cannot be loaded.
    """
    from cot_probe.tagger import load_tagger

    readable = [case for case in study.cases if text_of(case, "reasoning") is not None]
    if not readable:
        raise StudyError(f"{study.name}: no case has reasoning to tag: name its column with --reasoning")
    tagger = load_tagger(checkpoint, fpr=fpr, device=device)
    taxonomy, told_by = tagger.checkpoint.taxonomy, tagger.checkpoint.signature
    unknown = next((tag for tag in tags if tag not in taxonomy.tags), None)
    if unknown is not None:
        raise StudyError(f"{told_by}: no tag {unknown!r}: found {', '.join(taxonomy.tags)}. Name one of these.")
    begun = time.perf_counter()
    tagged = {trace.id: trace for trace in tagger.tag_many(_trace(case) for case in readable) if trace.readable}
    seconds = time.perf_counter() - begun
    signature = {"checkpoint": told_by, "fpr": f"{tagger.point.fpr:g}", "device": device, "cot_probe": __version__}
    monitors = [
        monitor_of(
            f"cot_probe {tag}",
            [float(tagged[case.id].scores[tag]) if case.id in tagged else "missing" for case in study.cases],
            signature=signature | {"tag": tag},
            reads="reasoning",
            threshold=tagger.point.traces[tag],
            seconds=seconds,
            tokens=sum(trace.n_tokens for trace in tagged.values()),
        )
        for tag in tags
    ]
    stances = {id: trace.stance for id, trace in tagged.items()} if set(STANCES) <= set(taxonomy.tags) else {}
    labels = {id: label_of(stance, (one.tags for one in tagged[id].sentences)) for id, stance in stances.items()}
    return OwnScores(monitors=tuple(monitors), stances=stances, labels=labels, told_by=told_by)


def _trace(case: Case) -> "Trace":
    from cot_probe.transcripts.trace import trace_of

    return trace_of(case.reasoning, id=case.id, context=case.context)


def scores_monitor(
    study: Study,
    source: str | Path | Any,
    *,
    name: str,
    score: str = "score",
    id: str = "id",
    reads: str = "unknown",
    threshold: float | None = None,
    trained_on: str | None = None,
) -> tuple[MonitorScores, tuple[str, ...]]:
    """Somebody's scores from a file of their own, matched by id, and notes on what did not match.

    Rows whose id is no case's, and cases that no row scores, are counted; of rows that share an id none is taken.

    Raises:
        StudyError: if a column is not there, or no row is of a case.
    """
    rows = read_rows(source)
    rows.require([id, score])
    faults = Faults()
    for rejected in rows.rejected:
        faults.add(f"rows of {name!r} could not be read", rejected)
    given = keyed_rows(rows, id, faults)
    ids = {case.id for case in study.cases}
    for other, (place, _) in given.items():
        if other not in ids:
            faults.add(f"rows of {name!r} are of no case", place, other)
    if ids.isdisjoint(given):
        example = f"{next(iter(given), '')!r} there, {study.cases[0].id!r} in the study" if study.cases else "no case"
        raise StudyError(f"{rows.name}: no id is that of a case ({example}): name the right column")
    found: list[float | Status] = []
    for case in study.cases:
        place, row = given.get(case.id, ("no row", {}))
        value = cell(row, score)
        parsed = parsed_score(value)
        if isinstance(parsed, str):
            faults.add(f"cases that {name!r} did not score: {parsed}", f"{place} for {case.id!r}", value)
        found.append(parsed)
    signature = {"column": score} | ({"file_sha256": rows.sha256} if rows.sha256 else {})
    more: dict[str, Any] = {"reads": reads, "threshold": threshold, "trained_on": trained_on}
    return monitor_of(name, found, signature=signature, **more), faults.notes()


def hybrid_monitor(first: MonitorScores, second: MonitorScores, *, weight: float = 0.5) -> MonitorScores:
    """The weighted mean of two monitors' scores, such as one of the reasoning and one of the action.

    Arnav et al. 2025, "CoT Red-Handed: Stress Testing Chain-of-Thought Monitoring", arXiv 2505.23575: the hybrid of
    a CoT-only and an action-only monitor. Both must score on one scale. A case that one of them did not score has
    the status that this one has.

    Raises:
        ValueError: if they are not of the same cases, or the weight is not in [0, 1].
    """
    if len(first.statuses) != len(second.statuses) or not 0 <= weight <= 1:
        found = f"{len(first.statuses)} and {len(second.statuses)} cases, weight {weight}"
        raise ValueError(f"hybrid of {found}: expected the same cases and a weight from 0 to 1")
    found_scores: list[float | Status] = []
    for at in range(len(first.statuses)):
        unscored = [m.statuses[at] for m in (first, second) if m.statuses[at] != "scored"]
        mean = weight * float(first.scores[at]) + (1 - weight) * float(second.scores[at])
        found_scores.append(unscored[0] if unscored else mean)
    reads = {first.reads, second.reads}
    merged = monitor_of(
        f"{first.name} + {second.name}",
        found_scores,
        signature={"hybrid": f"{weight:g} of {first.name}, {1 - weight:g} of {second.name}"},
        reads="reasoning+action" if reads in ({"reasoning", "action"}, {"reasoning+action"}) else "unknown",
    )
    costs = {
        cost: getattr(first, cost) + getattr(second, cost)
        for cost in ("seconds", "tokens", "dollars")
        if getattr(first, cost) is not None and getattr(second, cost) is not None
    }
    return dataclasses.replace(merged, **costs)


def _named(family: str, reads: str) -> str:
    return f"{family} ({reads})"
