"""The monitors that a model card and the published suite show side by side: ours, a keyword list, TF-IDF.

Nothing here loads torch but `checkpoint_submission`, when it is called.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cot_probe import __version__
from cot_probe.annotations import AnnotatedTrace, load_split
from cot_probe.calibration import SENTENCE_SHARE, threshold_at
from cot_probe.first_stage import ABOUT_FILE, WEIGHTS_FILE
from cot_probe.monitorability.baselines import TfidfMonitor, keyword_scores
from cot_probe.monitorability.contamination import (
    TRAINED_ON,
    Training,
    annotated_training,
    checked_training,
    listed_training,
    training_of,
)
from cot_probe.monitorability.label_figures import Cut, Labels, Scored, Scores, cut_now, labels_of
from cot_probe.monitorability.submission import Answer, ScoredSpan, Submission
from cot_probe.monitorability.suite import Part, Suite, SuiteError
from cot_probe.taxonomy import SENTENCE_LABELS, TAGS, TAXONOMY, TRACE_LABELS

if TYPE_CHECKING:
    from cot_probe.tagger import TaggedTrace, Tagger

TFIDF: Final = "TF-IDF + LR"
KEYWORDS: Final = "keywords"
OURS: Final = "cot_probe"
DEFAULT_FPR: Final = 0.05
"""At which the baselines' thresholds are set, on dev, where ours are not there to follow."""
_NOT_SCORES: Final = ("README.md", "metrics.json", "history.json", TRAINED_ON, WEIGHTS_FILE, ABOUT_FILE)
"""Files of a checkpoint that change no score: without a cascade the first stage does not either."""


def with_awareness(scores: Scores) -> Scores:
    """Trace-label columns to tag columns; a baseline's ``eval_awareness`` is its larger stance."""
    by = {label: scores[:, at] for at, label in enumerate(TRACE_LABELS)}
    by["eval_awareness"] = np.maximum(by["states_test"], by["states_real"])
    return np.stack([by[tag] for tag in TAGS], axis=1)


def texts_of(records: Sequence[AnnotatedTrace], cut: Cut = cut_now) -> tuple[list[str], list[str]]:
    """Sentence texts and trace texts."""
    return [sentence.text for record in records for sentence in cut(record)], [record.text for record in records]


class Baselines:
    """Keyword list and TF-IDF, the latter fitted on the training split."""

    def __init__(self, train: Sequence[AnnotatedTrace]) -> None:
        sentences, traces = texts_of(train)
        labels = labels_of(train, lambda record: record.group)
        columns = [TAGS.index(label) for label in TRACE_LABELS]
        self._sentence = TfidfMonitor().fit(sentences, labels.sentence)
        self._trace = TfidfMonitor().fit(traces, labels.trace[:, columns])

    def scores(self, records: Sequence[AnnotatedTrace], cut: Cut = cut_now) -> list[Scored]:
        """Scores of both baselines."""
        sentences, traces = texts_of(records, cut)
        return [
            Scored(
                name=TFIDF,
                sentence=self._sentence.scores(sentences),
                trace=with_awareness(self._trace.scores(traces)),
            ),
            Scored(name=KEYWORDS, sentence=keyword_scores(sentences), trace=with_awareness(keyword_scores(traces))),
        ]


def thresholds_on_dev(dev: Scored, labels: Labels, fpr: float) -> dict[str, NDArray[np.float64]]:
    """A baseline's thresholds, at the same false-positive rate on the written dev split."""
    out = {}
    for level, share in (("sentence", SENTENCE_SHARE), ("trace", 1.0)):
        scores, wanted = getattr(dev, level), getattr(labels, level)
        out[level] = np.array([threshold_at(scores[~wanted[:, at], at], fpr * share) for at in range(scores.shape[1])])
    return out


def baseline_submissions(
    suite: Suite, parts: Sequence[Part], folder: Path, *, fpr: float = DEFAULT_FPR
) -> list[tuple[Submission, Training]]:
    """Keyword list and TF-IDF on the traces whose text is at hand.

    Raises:
        SeenError: if the training split holds traces of the suite.
        AnnotationError: if train or dev are faulty.
    """
    train, dev = load_split(folder, "train"), load_split(folder, "dev")
    told_by = checked_training(
        suite,
        training_of([*train, *dev]),
        monitor=TFIDF,
        told_by=f"its {len(train)} training and {len(dev)} dev traces",
    )
    begun = time.perf_counter()
    both = Baselines(train)
    dev_labels = labels_of(dev, lambda record: record.group)
    on_dev = [thresholds_on_dev(one, dev_labels, fpr) for one in both.scores(dev)]
    readable = [(r, units) for part in parts for r, units in zip(part.records, part.units, strict=True) if r.text]
    cuts = {record.id: units for record, units in readable}
    records = [record for record, _ in readable]
    scored = both.scores(records, lambda record: cuts[record.id])
    seconds = time.perf_counter() - begun
    fitted = hashlib.sha256("".join(trace.text for trace in training_of(train)).encode()).hexdigest()[:12]
    about = {TFIDF: f"training texts {fitted}", KEYWORDS: f"cot_probe {__version__}"}
    said = {
        TFIDF: Training(
            statement=f"annotations/data/train.jsonl, {len(train)} traces; thresholds on dev",
            verdict="not seen",
            told_by=told_by,
        ),
        KEYWORDS: Training(statement="none: a list of patterns", verdict="not trained", told_by="nothing to train"),
    }
    return [
        (
            Submission(
                suite=suite.name,
                suite_sha256=suite.digest,
                monitor=one.name,
                version=about[one.name],
                reads="reasoning",
                training_data=said[one.name].statement,
                answers=_answers_of(one, records, [cuts[record.id] for record in records]),
                thresholds=_named_limits(limits),
                signature={"thresholds": f"at {100 * fpr:g} % FPR on dev"},
                costs={"seconds": round(seconds, 1)} if one.name == TFIDF else {},
            ),
            said[one.name],
        )
        for one, limits in zip(scored, on_dev, strict=True)
    ]


def _named_limits(limits: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    names = {"trace": TAGS, "sentence": SENTENCE_LABELS}
    return {level: dict(zip(names[level], map(float, row), strict=True)) for level, row in limits.items()}


def _answers_of(scored: Scored, records: Sequence[AnnotatedTrace], units: Sequence[Sequence[Any]]) -> dict[str, Answer]:
    """Columns of scores as answers, a trace each."""
    answers = {}
    at = 0
    for record, own, row in zip(records, units, scored.trace.tolist(), strict=True):
        rows = scored.sentence[at : at + len(own)].tolist()
        at += len(own)
        spans = tuple(
            ScoredSpan(start=unit.start, end=unit.end, scores=dict(zip(SENTENCE_LABELS, some, strict=True)))
            for unit, some in zip(own, rows, strict=True)
        )
        answers[record.id] = Answer(scores=dict(zip(TAGS, row, strict=True)), spans=spans)
    return answers


# Ours


def checkpoint_submission(
    suite: Suite,
    parts: Sequence[Part],
    folder: Path,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Submission:
    """Our scores of the traces whose text is at hand, made now: loads torch.

    Args:
        suite: The suite.
        parts: Its parts.
        folder: The checkpoint.
        device: A torch device.
        progress: Told how many traces of how many are done.

    Raises:
        SuiteError: if the checkpoint has a taxonomy of its own.
        CheckpointError: if it cannot be loaded.
    """
    from cot_probe.tagger import load_tagger

    tagger = load_tagger(folder, device=device)
    if tagger.checkpoint.taxonomy != TAXONOMY:
        raise SuiteError(f"{folder} has a taxonomy of its own, suite {suite.name} is of the built-in labels")
    records = [record for part in parts for record in part.readable]
    begun = time.perf_counter()
    answers: dict[str, Answer] = {}
    tokens = 0
    for tagged in tagger.tag_many([record.as_trace() for record in records]):
        answers[tagged.id] = _tagged_answer(tagged)
        tokens += tagged.n_tokens
        if progress is not None:
            progress(len(answers), len(records))
    seconds = time.perf_counter() - begun
    return Submission(
        suite=suite.name,
        suite_sha256=suite.digest,
        monitor=OURS,
        version=f"{tagger.checkpoint.config.name}, weights {weights_digest(folder)}",
        reads="reasoning+context",
        training_data=f"as the model card of {tagger.checkpoint.config.name} says",
        answers=answers,
        thresholds=_limits(tagger),
        signature={
            "checkpoint": tagger.checkpoint.signature,
            "thresholds": f"at {100 * tagger.point.fpr:g} % FPR on {tagger.checkpoint.calibration.population}",
            "device": device,
            "cot_probe": __version__,
        },
        costs={"seconds": round(seconds, 1), "tokens": float(tokens)},
    )


def _tagged_answer(tagged: "TaggedTrace") -> Answer:
    if not tagged.readable:
        return Answer(status="missing")
    return Answer(
        scores={tag: float(score) for tag, score in tagged.scores.items()},
        spans=tuple(
            ScoredSpan(start=one.start, end=one.end, scores={k: float(v) for k, v in one.scores.items()})
            for one in tagged.sentences
        ),
    )


def operating_fpr(folder: Path) -> float:
    """The false-positive rate that a checkpoint tags at by default: what baselines are shown at beside it.

    Raises:
        CheckpointError: if the checkpoint is none.
    """
    from cot_probe.checkpoint import checkpoint_calibration

    return checkpoint_calibration(folder).at().fpr


def _limits(tagger: "Tagger") -> dict[str, dict[str, float]]:
    return {"trace": dict(tagger.point.traces), "sentence": dict(tagger.point.sentences)}


def weights_digest(folder: Path) -> str:
    """A hash of the files of a checkpoint that its scores depend on, its base's name among them, but no card."""
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    kept = sorted((name, str(digest)) for name, digest in manifest.items() if name not in _NOT_SCORES)
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:12]


def checkpoint_training(
    suite: Suite, checkpoint: Path, annotations: Path, *, shipped: bool, listed: Path | None = None
) -> Training:
    """What can be told of a checkpoint's training: from a list given or in its folder, else, if shipped, from its card.

    The card of a shipped checkpoint says that it was trained on the annotations' own training traces: these are
    checked, as they are now.

    Raises:
        SeenError: if a trace of the suite is among them.
        SuiteError: if a list cannot be read.
    """
    statement = "as its model card says"
    own = checkpoint / TRAINED_ON
    path = listed or (own if own.is_file() else None)
    if path is not None or not shipped:
        return listed_training(suite, path, monitor=OURS, statement=statement)
    traces, told_by = annotated_training(annotations)
    told_by = checked_training(suite, traces, monitor=OURS, told_by=told_by)
    return Training(
        statement=statement,
        verdict="not seen",
        told_by=f"{told_by}, which its card says it had; the checkpoint holds no list of its own",
    )
