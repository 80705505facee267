"""Distil a first stage from a checkpoint, calibrate it, and print what it loses.

    python training/first_stage.py --checkpoint checkpoints/probe-minilm --real-dir PATH --bf16

Weights are fitted (ridge regression, Hoerl and Kennard 1970) to what the encoder says of the training
split and of the real traces that are marked train, read by people or not: of a sentence, its strongest
score from its threshold; of a window, the same, or as much more as its trace's tag is stronger than the
trace's strongest sentence. There are three sets of
calibration traces: the dev split, the real traces of annotations/real/pool marked dev, and those marked
train, each scored by weights that were fitted without its source (the second set has no new sources, and
on those a first stage errs more). How strong the ridge is, and how much the window as a whole counts, is
chosen by the mean AUROC of windows that need reading. The threshold is the highest that loses at most 0.2
points of recall in each of the three sets, of right trace tags and of the sentences that the encoder tags,
whether right or not. Then the test split and the real traces of annotations/real/dev are looked at, and
nothing is chosen any more.

Reading everything with the encoder takes about half an hour on two cores; ``--cache FOLDER`` keeps it.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from cot_probe.annotations import AnnotatedTrace, load_real, load_split
from cot_probe.checkpoint import default_checkpoint
from cot_probe.first_stage import FirstStage, Missed, first_stage_of, reading_of, runs, save_first_stage
from cot_probe.manifest import CheckpointError, write_manifest
from cot_probe.tagger import Tagger, load_tagger
from margins import Matrix, Read, read, trace_margins

MOST_LOST = 0.002
"""Share of right trace tags, and of tagged sentences, that calibration may lose."""
ALPHAS, MIXES = (20.0, 60.0, 200.0), (0.15, 0.25, 0.35, 0.5)
FOLDS = 5
CLIP = (-6.0, 3.0)
"""Beyond these a score is clear enough: logits from the threshold."""
CANDIDATES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a cascade does to some traces; counts of tags, and of sentences with any tag.

    ``traces`` are the scores of tags from their thresholds under the cascade; of the windows, ``empty``
    are those of traces without a label.
    """

    traces: Matrix
    windows: int
    passed: int
    empty: int
    empty_passed: int
    sentences: int
    sentences_lost: int


def targets(some: Read) -> tuple[list[float], list[float]]:
    """What is to be said of every span, and of every window, in order."""
    strongest, of_traces = some.sentences.max(axis=1), some.traces.max(axis=1)
    spans, whole = [], []
    for at, windows in enumerate(some.windows):
        rows = [[float(strongest[some.starts[at] + span.sentence]) for span in window.spans] for window in windows]
        peak = max((max(row) for row in rows), default=0.0)
        for row in rows:
            spans += row
            whole.append(max(max(row), float(of_traces[at]) - (peak - max(row))))
    return spans, whole


def bags(some: Read, n_buckets: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix, NDArray[np.int64]]:
    """Runs of every span and of every window, as rows of length 1; and the window of each span."""
    parts: list[list[NDArray[Any]]] = [[], []]
    owner_window: list[NDArray[np.int64]] = []
    for number, window in enumerate(window for windows in some.windows for window in windows):
        owners, buckets = runs(window, n_buckets)
        parts[0] += np.split(buckets, np.flatnonzero(np.diff(owners)) + 1)
        parts[1].append(np.unique(buckets))
        owner_window.append(np.full(len(window.spans), number))
    made = []
    for rows in parts:
        ends = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        values = np.concatenate([np.full(len(row), 1 / np.sqrt(len(row))) for row in rows])
        made.append(sparse.csr_matrix((values, np.concatenate(rows), ends), shape=(len(rows), n_buckets)))
    return made[0], made[1], np.concatenate(owner_window)


def in_bytes(weights: Matrix) -> tuple[NDArray[np.int8], float]:
    """Weights in eight bits, and what 1 of them counts; the largest ones in a thousand are cut."""
    unit = float(np.quantile(np.abs(weights[weights != 0]), 0.999)) / 127
    return np.clip(np.round(weights / unit), -127, 127).astype(np.int8), unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What is fitted: runs, and what is wanted of them, of spans (first) and of windows (second).

    ``sources`` says of each row where its trace comes from.
    """

    runs: tuple[sparse.csr_matrix, sparse.csr_matrix]
    wanted: tuple[Matrix, Matrix]
    sources: tuple[NDArray[np.str_], NDArray[np.str_]]

    def without(self, sources: Sequence[str]) -> "Examples":
        """Those of other sources."""
        kept = [np.flatnonzero(~np.isin(some, sources)) for some in self.sources]
        return Examples(
            runs=(self.runs[0][kept[0]], self.runs[1][kept[1]]),
            wanted=(self.wanted[0][kept[0]], self.wanted[1][kept[1]]),
            sources=(self.sources[0][kept[0]], self.sources[1][kept[1]]),
        )


def examples(training: Sequence[Read], n_buckets: int) -> Examples:
    """All spans and windows of the training traces."""
    made = [bags(some, n_buckets) for some in training]
    wanted = [np.clip(np.concatenate([targets(some)[part] for some in training]), *CLIP) for part in (0, 1)]
    of_windows = [
        np.repeat(np.array(some.sources, dtype=str), [len(windows) for windows in some.windows]) for some in training
    ]
    of_spans = [names[window] for names, (_, _, window) in zip(of_windows, made, strict=True)]
    return Examples(
        runs=(sparse.vstack([part[0] for part in made]).tocsr(), sparse.vstack([part[1] for part in made]).tocsr()),
        wanted=(wanted[0], wanted[1]),
        sources=(np.concatenate(of_spans), np.concatenate(of_windows)),
    )


def fit(some: Examples, alpha: float, blank: Mapping[str, Any]) -> list[FirstStage]:
    """A stage for each of the mixes, without a threshold as yet."""
    rarity = np.log(some.runs[0].shape[0] / (1 + np.asarray((some.runs[0] > 0).sum(axis=0)).ravel()))
    # Sentences near or above the threshold are few, and what matters.
    weight = 1 + 4 / (1 + np.exp(-(some.wanted[0] + 1)))
    ridge = [Ridge(alpha=alpha, solver="sag", max_iter=100, random_state=0) for _ in range(2)]
    ridge[0].fit(some.runs[0] @ sparse.diags(rarity), some.wanted[0], sample_weight=weight)
    ridge[1].fit(some.runs[1] @ sparse.diags(rarity), some.wanted[1])
    sentence, window = (in_bytes(one.coef_ * rarity) for one in ridge)
    return [
        FirstStage(
            sentence_weights=sentence[0],
            window_weights=window[0],
            sentence_scale=(1 - mix) * sentence[1],
            window_scale=mix * window[1],
            bias=float((1 - mix) * ridge[0].intercept_ + mix * ridge[1].intercept_),
            threshold=0.0,
            **blank,
        )
        for mix in MIXES
    ]


def search(
    some: Examples, left_out: Read, calibration: Sequence[Read], blank: Mapping[str, Any]
) -> tuple[FirstStage, list[Matrix]]:
    """The best stage, and its scores of the windows of ``calibration`` and of ``left_out``."""
    names = sorted(set(left_out.sources), key=lambda name: hashlib.sha256(name.encode()).digest())
    folds = [names[at::FOLDS] for at in range(FOLDS)]
    owner = np.repeat(np.array(left_out.sources, dtype=str), [len(windows) for windows in left_out.windows])
    needed = [np.array(targets(one)[1]) >= 0 for one in (*calibration, left_out)]
    tried: list[tuple[float, FirstStage, list[Matrix]]] = []
    for alpha in ALPHAS:
        stages = fit(some, alpha, blank)
        apart = [fit(some.without(fold), alpha, blank) for fold in folds]
        for at, stage in enumerate(stages):
            scores = [scores_of(stage, one) for one in calibration]
            new = np.zeros(len(owner))
            for fold, fitted in zip(folds, apart, strict=True):
                here = np.isin(owner, fold)
                new[here] = scores_of(fitted[at], left_out)[here]
            areas = [roc_auc_score(truth, one) for truth, one in zip(needed, [*scores, new], strict=True)]
            tried.append((float(np.mean(areas)), stage, [*scores, new]))
            said = ", ".join(f"{area:.4f}" for area in areas)
            print(f"ridge {alpha:g}, windows as a whole {MIXES[at]:g}: AUROC {said}", flush=True)
    best = max(tried, key=lambda one: one[0])
    return best[1], best[2]


def scores_of(stage: FirstStage, some: Read) -> Matrix:
    """The score of every window, in order."""
    return np.array([stage.score(window) for windows in some.windows for window in windows])


def outcome(tagger: Tagger, some: Read, scores: Matrix, threshold: float, empty_trace: NDArray[np.float32]) -> Outcome:
    """What a threshold does: the trace head joins the sentences that are still read."""
    head = tagger.checkpoint.encoder.trace_head
    logits, passed, empty, empty_passed, lost, begin = some.trace_logits.copy(), 0, 0, 0, 0, 0
    for at, windows in enumerate(some.windows):
        kept = [bool(score >= threshold) for score in scores[begin : begin + len(windows)]]
        begin += len(windows)
        first, last = some.starts[at], some.starts[at + 1]
        reading = reading_of(windows, kept, int(last - first))
        gone = len(windows) - len(reading.windows)
        passed, empty = passed + gone, empty + len(windows) * (not some.right[at].any())
        empty_passed += gone * (not some.right[at].any())
        if not gone:
            continue
        rows = first + reading.read
        tagged = (some.sentences[first:last] >= 0).any(axis=1)
        lost += int(tagged.sum() - (some.sentences[rows] >= 0).any(axis=1).sum())
        if not reading.windows:
            logits[at] = empty_trace
            continue
        with torch.inference_mode():
            parts = (torch.from_numpy(part[rows]) for part in (some.scores, some.values, some.logits))
            logits[at] = head.joined(*parts).numpy()
        if head.length is not None:
            logits[at] += head.length.shift(len(reading.read)) - head.length.shift(reading.n_sentences)
    return Outcome(
        traces=trace_margins(tagger, logits),
        windows=begin,
        passed=passed,
        empty=empty,
        empty_passed=empty_passed,
        sentences=int((some.sentences >= 0).any(axis=1).sum()),
        sentences_lost=lost,
    )


def missed(name: str, some: Read, found: Outcome) -> Missed:
    """The counts that are stored with the stage."""
    before, after = (some.traces >= 0) & some.right, (found.traces >= 0) & some.right
    counts = {"found": before, "lost": before & ~after, "gained": after & ~before}
    return Missed(
        name=name,
        windows=found.windows,
        passed=found.passed,
        **{key: int(value.sum()) for key, value in counts.items()},
    )


def choose(tagger: Tagger, stage: FirstStage, calibration: Sequence[Read], scores: Sequence[Matrix]) -> FirstStage:
    """The stage with the highest threshold that loses little enough of each set; prints the curve."""
    best = float(min(part.min() for part in scores))
    right = [int(some.right.sum()) for some in calibration]
    print(f"\nright labels of traces: {right}; of each set, in turn:\n")
    print("| threshold | windows passed, of traces without a label | right tags lost | tagged sentences lost |")
    print("|---|---|---|---|")
    last: list[int] = []
    for threshold in np.quantile(np.concatenate(scores), np.linspace(0, 0.95, CANDIDATES)).tolist():
        found = [
            outcome(tagger, some, part, threshold, stage.empty_trace)
            for some, part in zip(calibration, scores, strict=True)
        ]
        lost = [missed("", some, one).lost for some, one in zip(calibration, found, strict=True)]
        gone = [one.sentences_lost for one in found]
        if all(a <= MOST_LOST * b for a, b in zip(lost, right, strict=True)) and all(
            one.sentences_lost <= MOST_LOST * one.sentences for one in found
        ):
            best = max(best, threshold)
        if lost + gone != last and sum(lost) <= 0.05 * sum(right):
            shares = ", ".join(f"{100 * one.empty_passed / max(1, one.empty):.1f} %" for one in found)
            tagged = ", ".join(f"{one.sentences_lost} of {one.sentences}" for one in found)
            print(f"| {threshold:.3f} | {shares} | {', '.join(map(str, lost))} | {tagged} |", flush=True)
        last = lost + gone
    return dataclasses.replace(stage, threshold=best)


def empty_logits(stage: FirstStage, calibration: Sequence[Read]) -> dict[str, NDArray[np.float32]]:
    """Logits for what passes: the median over what carries no tag."""
    plain = np.concatenate([some.logits[(some.sentences < 0).all(axis=1)] for some in calibration])
    whole = np.concatenate([some.trace_logits[(some.traces < 0).all(axis=1)] for some in calibration])
    return {
        "empty_sentence": np.median(plain, axis=0).astype(np.float32),
        "empty_kinds": np.zeros_like(stage.empty_kinds),
        "empty_trace": np.median(whole, axis=0).astype(np.float32),
    }


def told(tagger: Tagger, stage: FirstStage, name: str, some: Read) -> Missed:
    """Print what the stage does to some traces, tag by tag."""
    found = outcome(tagger, some, scores_of(stage, some), stage.threshold, stage.empty_trace)
    before, after = some.traces >= 0, found.traces >= 0
    print(
        f"\n{name}: {found.passed} of {found.windows} windows passed ({100 * found.passed / found.windows:.1f} %), of "
        f"traces without a label {found.empty_passed} of {found.empty} ({100 * found.empty_passed / found.empty:.1f} %); "
        f"tagged sentences lost {found.sentences_lost} of {found.sentences}\n"
    )
    print("| tag | recall before | after | right tags lost | gained | wrong tags lost | gained |")
    print("|---|---|---|---|---|---|---|")
    for at, tag in enumerate(tagger.checkpoint.taxonomy.tags):
        true, b, a = some.right[:, at], before[:, at], after[:, at]
        shares = [f"{(true & one).sum()}/{true.sum()}" for one in (b, a)]
        counts = [(part & one).sum() for part in (true, ~true) for one in (b & ~a, a & ~b)]
        print(f"| {tag} | {' | '.join([*shares, *map(str, counts)])} |", flush=True)
    return missed(name, some, found)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="folder (default: the shipped one)")
    parser.add_argument("--out", type=Path, default=None, help="write a copy of it here instead of into it")
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument("--real-dir", type=Path, required=True, help="folder with the texts of annotations/real")
    parser.add_argument("--cache", type=Path, default=None, help="keep what the encoder says here")
    parser.add_argument("--bits", type=int, default=18, help="two tables of 2 to the power of so many bytes")
    parser.add_argument("--bf16", action="store_true", help="read in bfloat16")
    parser.add_argument(
        "--limit", type=int, default=None, help="so many traces of each kind: only to see that it works"
    )
    args = parser.parse_args()
    source = args.checkpoint or default_checkpoint()
    try:
        tagger = load_tagger(source, bf16=args.bf16)
    except CheckpointError as error:
        raise SystemExit(str(error)) from None
    manifest = json.loads((source / "MANIFEST.json").read_text())
    files = ("heads.safetensors", "adapter.safetensors", "config.json")
    key = json.dumps([*(manifest.get(name) for name in files), args.bf16])

    def some(name: str, records: Sequence[AnnotatedTrace]) -> Read:
        return read(tagger, name, records[: args.limit], args.cache, key)

    def real(name: str, split: str) -> list[AnnotatedTrace]:
        found = load_real(args.annotations, name, text_dir=args.real_dir, require_text=True)
        return [record for record in found if record.split == split]

    training = [some("train", load_split(args.annotations, "train"))]
    training += [some("real-train", real("pool", "train")), some("real-unread", real("rest", "train"))]
    calibration = [some("dev", load_split(args.annotations, "dev")), some("real-pool-dev", real("pool", "dev"))]
    taxonomy = tagger.checkpoint.taxonomy
    n_labels = len(taxonomy.labels)
    sizes = {"empty_sentence": n_labels, "empty_kinds": max(1, len(taxonomy.kinds)), "empty_trace": n_labels}
    blank = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    stage, scores = search(examples(training, 1 << args.bits), training[1], calibration, blank)
    stage = dataclasses.replace(stage, **empty_logits(stage, calibration))
    stage = choose(tagger, stage, [*calibration, training[1]], scores)
    print(f"\nthreshold {stage.threshold:.4f}")
    seen = [
        told(tagger, stage, f"calibration ({name})", one)
        for name, one in zip(("dev", "real"), calibration, strict=True)
    ]
    held_out = [("the test split", some("test", load_split(args.annotations, "test")))]
    held_out.append(("real traces not trained on", some("real-dev", real("dev", "dev"))))
    seen = [told(tagger, stage, name, one) for name, one in held_out]
    stage = dataclasses.replace(stage, missed=tuple(seen))
    folder = source if args.out is None else args.out
    if folder != source:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    save_first_stage(folder, stage, hashes=manifest)
    print(f"\n{folder}: digest {write_manifest(folder)[:12]}")
    first_stage_of(tagger.checkpoint, folder, tagger.point)  # refuses what would not load


if __name__ == "__main__":
    main()
