"""A first stage before the encoder: windows that clearly carry nothing pass without being encoded.

Off by default; ``load_tagger(cascade=True)`` turns it on. A window's score comes from its own token
ids alone: one weight for each hashed run of one to three tokens (the hashing trick, Weinberger et
al. 2009), summed over each sentence and over the window. The weights are distilled from the encoder
(``training/first_stage.py``): the score says how near the encoder would come to a tag. Windows below
the threshold pass: their sentences get fixed logits, and the trace head reads the sentences of the
other windows only. What passed is counted in every record; what was lost on annotated traces is
stored with the stage and said with every summary. Each window is scored for itself and in whole
numbers, so no score depends on what stands beside it in a batch. Needs no torch.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cot_probe.calibration import OperatingPoint, decide
from cot_probe.familiarity import upper_share
from cot_probe.windows import Window, renumbered

if TYPE_CHECKING:
    from cot_probe.checkpoint import Checkpoint
    from cot_probe.encoder import LengthCorrection, TraceLogits

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

WEIGHTS_FILE: Final = "first_stage.safetensors"
ABOUT_FILE: Final = "first_stage.json"
FORMAT: Final = "cot_probe.first_stage/1"
MADE_FOR: Final = ("adapter.safetensors", "calibration.json", "config.json", "heads.safetensors")
"""Files of the checkpoint that a stage is distilled from: it serves no others."""
LONGEST: Final = 3
"""Runs of one token to so many have a weight."""
_MOST_BYTES: Final = 1_048_576
_MULTIPLIER: Final = 0x100000001B3
_SPREADER: Final = 0x9E3779B97F4A7C15
_SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "sentence_weights": ("buckets",),
    "window_weights": ("buckets",),
    "empty_sentence": ("labels",),
    "empty_kinds": ("kinds",),
    "empty_trace": ("labels",),
}
"""Tensors of the file: their sizes by name, the same name the same size everywhere."""
_NUMBERS: Final = ("sentence_scale", "window_scale", "bias", "threshold")


class FirstStageError(ValueError):
    """A first stage that is missing, damaged, or made for another checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """What the first stage cost on some annotated traces, at the checkpoint's default operating point.

    Attributes:
        name: which traces, in words.
        windows, passed: windows, and how many of them were not encoded.
        found: tags that are right and that the encoder gives when it reads everything.
        lost, gained: of the right tags, those that the cascade no longer gives, and gives besides.
    """

    name: str
    windows: int
    passed: int
    found: int
    lost: int
    gained: int

    def __str__(self) -> str:
        most = 100 * upper_share(self.lost, self.found) if self.found else 100.0
        passed = 100 * self.passed / self.windows if self.windows else 0.0
        return (
            f"{self.lost} of {self.found} right tags lost (at most {most:.1f} %, one-sided 95 %) with {passed:.0f} % of "
            f"the windows passed, on {self.name}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStage:
    """Weights and threshold.

    Attributes:
        sentence_weights, window_weights: ``(n_buckets,)`` int8, of the runs of tokens of a sentence and
            of a window; ``n_buckets`` is a power of two.
        sentence_scale, window_scale: what a weight of 1 counts.
        bias: score of a window of which no run has a weight.
        threshold: windows with a score below it pass.
        empty_sentence, empty_kinds: logits of a sentence that passed, ``(n_labels,)`` and ``(n_kinds,)``.
        empty_trace: those of a trace of which every window passed, ``(n_labels,)``.
        missed: what passing cost on annotated traces, one entry for each set of them.
    """

    sentence_weights: Bytes
    window_weights: Bytes
    sentence_scale: float
    window_scale: float
    bias: float
    threshold: float
    empty_sentence: Floats
    empty_kinds: Floats
    empty_trace: Floats
    missed: tuple[Missed, ...] = ()

    def score(self, window: Window) -> float:
        """About how far the encoder's strongest score would lie from its threshold, in logits: 0 is at it.

        That is the strongest sentence and the window as a whole, each the sum of the weights of its
        different runs over the square root of their number. Neighbours and instructions do not count.
        """
        owners, buckets = runs(window, len(self.sentence_weights))
        sums = np.bincount(owners, weights=self.sentence_weights[buckets])
        sentence = float((sums / np.sqrt(np.bincount(owners))).max())
        distinct = np.unique(buckets)
        total = int(self.window_weights[distinct].sum(dtype=np.int64))
        return self.sentence_scale * sentence + self.window_scale * total / math.sqrt(len(distinct)) + self.bias

    def passes(self, window: Window) -> bool:
        """Whether the window need not be encoded."""
        return self.score(window) < self.threshold


def runs(window: Window, n_buckets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The buckets of the runs of tokens within each span of a window, each bucket once a span.

    Returns:
        Number of the span and bucket, ``(n_runs,)`` each, in the order of the spans.
    """
    first, last = window.spans[0].first, window.spans[-1].last
    ids = np.array(window.ids[first:last], dtype=np.uint64)
    owner = np.repeat(np.arange(len(window.spans)), [span.last - span.first for span in window.spans])
    keys = []
    for length in range(1, min(LONGEST, len(ids)) + 1):
        count = len(ids) - length + 1
        hashed = np.full(count, length, dtype=np.uint64)
        for offset in range(length):
            hashed = (hashed ^ ids[offset : offset + count]) * np.uint64(_MULTIPLIER)
        bucket = (hashed * np.uint64(_SPREADER)) >> np.uint64(65 - n_buckets.bit_length())
        inside = owner[:count] == owner[length - 1 :]
        keys.append(owner[:count][inside] * n_buckets + bucket[inside].astype(np.int64))
    owners, buckets = np.divmod(np.unique(np.concatenate(keys)), n_buckets)
    return owners, buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is left of one trace to encode.

    Attributes:
        windows: those that did not pass; their sentences are numbered among those read.
        read: the sentences that are read, by their number in the trace.
        n_sentences: of the whole trace.
        passed: sentences with tokens that are not read.
    """

    windows: Sequence[Window]
    read: NDArray[np.intp]
    n_sentences: int
    passed: int


def thin(stage: FirstStage, windows: Sequence[Window], n_sentences: int) -> Reading:
    """Leave out the windows of a trace that pass."""
    return reading_of(windows, [not stage.passes(window) for window in windows], n_sentences)


def reading_of(windows: Sequence[Window], kept: Sequence[bool], n_sentences: int) -> Reading:
    """What is left of a trace of which some windows are kept.

    A sentence passes only with all its pieces: where one window with a piece of it is read, so are
    the others. Sentences without tokens belong to no window; they are read with the rest, if any is.
    """
    kept = list(kept)
    # Pieces of one sentence are in windows that follow each other: once forth, once back reaches all.
    for order in (range(1, len(windows)), range(len(windows) - 1, 0, -1)):
        for at in order:
            if windows[at - 1].spans[-1].sentence == windows[at].spans[0].sentence:
                kept[at - 1] = kept[at] = kept[at - 1] or kept[at]
    everything = np.arange(n_sentences)
    if all(kept):
        return Reading(windows=windows, read=everything, n_sentences=n_sentences, passed=0)
    passed = {span.sentence for window, keep in zip(windows, kept, strict=True) if not keep for span in window.spans}
    if not any(kept):
        return Reading(windows=(), read=everything[:0], n_sentences=n_sentences, passed=len(passed))
    read = np.array([number for number in range(n_sentences) if number not in passed], dtype=np.intp)
    place = {int(number): at for at, number in enumerate(read)}
    left = [renumbered(window, place) for window, keep in zip(windows, kept, strict=True) if keep]
    return Reading(windows=left, read=read, n_sentences=n_sentences, passed=len(passed))


def spread(
    stage: FirstStage, logits: "TraceLogits", reading: Reading, length: "LengthCorrection | None"
) -> "TraceLogits":
    """The logits of all sentences of a trace, from those of the sentences that were read.

    ``length`` has been applied for the sentences that were read alone; here it is for all of them.
    """
    if not reading.passed:
        return logits
    sentences = np.tile(stage.empty_sentence, (reading.n_sentences, 1))
    kinds = np.tile(stage.empty_kinds, (reading.n_sentences, 1))
    sentences[reading.read], kinds[reading.read] = logits.sentences, logits.kinds
    trace = logits.trace if len(reading.windows) else stage.empty_trace
    if length is not None and len(reading.windows):
        trace = trace - length.shift(reading.n_sentences) + length.shift(len(reading.read))
    return dataclasses.replace(logits, sentences=sentences, kinds=kinds, trace=trace)


def save_first_stage(folder: Path, stage: FirstStage, *, hashes: Mapping[str, str]) -> None:
    """Write the stage into a checkpoint folder; its manifest has to be written again after this.

    ``hashes`` are those of the manifest.
    """
    tensors = {name: np.asarray(getattr(stage, name)) for name in _SHAPES}
    (folder / WEIGHTS_FILE).write_bytes(save({name: np.ascontiguousarray(part) for name, part in tensors.items()}))
    about = {name: getattr(stage, name) for name in _NUMBERS} | {
        "format": FORMAT,
        "made_for": {name: hashes[name] for name in MADE_FOR if name in hashes},
        "missed": [dataclasses.asdict(missed) for missed in stage.missed],
    }
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def first_stage_of(checkpoint: "Checkpoint", folder: Path, point: OperatingPoint) -> FirstStage:
    """The first stage in a checkpoint's folder.

    Raises:
        FirstStageError: if there is none, if it is damaged, or if ``point`` tags what the stage was not
            calibrated to keep: scores below the thresholds of the default operating point.
    """
    calibration, taxonomy = checkpoint.calibration, checkpoint.taxonomy
    kinds = max(1, len(taxonomy.kinds))
    stage = load_first_stage(folder, labels=len(taxonomy.labels), kinds=kinds)
    default = calibration.default
    lower = [tag for tag in taxonomy.tags if point.traces[tag] < default.traces[tag]]
    lower += [label for label in taxonomy.labels if point.sentences[label] < default.sentences[label]]
    if lower:
        raise FirstStageError(
            f"the thresholds asked for are lower (first for {lower[0]}) than those at a false-positive rate of "
            f"{default.fpr:g}, for which the first stage was calibrated: raise them, or tag without the cascade"
        )
    empty = dict(zip(taxonomy.labels, calibration.sentence_scores(stage.empty_sentence[None])[0].tolist(), strict=True))
    found = decide(empty, default.sentences, taxonomy.labels)
    found += decide(calibration.trace_scores(stage.empty_trace), default.traces, taxonomy.tags)
    if found:
        raise FirstStageError(f"{folder}: the first stage would give what it passes the tag {found[0]}: make it again")
    return stage


def load_first_stage(folder: Path, *, labels: int, kinds: int) -> FirstStage:
    """Read the stage of a checkpoint folder, whose files were checked against its manifest.

    Args:
        folder: the checkpoint's.
        labels: how many the checkpoint gives logits of.
        kinds: the same of harm kinds.

    Raises:
        FirstStageError: if there is none, if it is damaged, or if it was made for other weights.
    """
    path, hashes = folder / WEIGHTS_FILE, json.loads((folder / "MANIFEST.json").read_bytes())
    if not {WEIGHTS_FILE, ABOUT_FILE} <= hashes.keys():
        raise FirstStageError(
            f"{folder} has no first stage ({WEIGHTS_FILE} and {ABOUT_FILE}, listed in its manifest): tag without the "
            "cascade, or make one with training/first_stage.py"
        )
    numbers, missed = _about(folder / ABOUT_FILE, hashes)
    if path.stat().st_size > _MOST_BYTES:
        raise FirstStageError(f"{path} has {path.stat().st_size:,} bytes, at most {_MOST_BYTES:,} are read")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FirstStageError(f"{path} is not readable as safetensors ({error}): fetch the checkpoint again") from None
    if fault := _fault(tensors, {"labels": labels, "kinds": kinds}):
        raise FirstStageError(f"{path}: {fault}. Make the first stage again with training/first_stage.py.")
    fields: dict[str, Any] = {**tensors, **numbers}
    return FirstStage(**fields, missed=missed)


def _about(path: Path, hashes: Mapping[str, str]) -> tuple[dict[str, float], tuple[Missed, ...]]:
    try:
        raw: Any = json.loads(path.read_bytes())
        if raw["format"] != FORMAT:
            raise FirstStageError(f"{path}: format is {raw['format']!r}, this version reads {FORMAT!r}")
        numbers, made_for = {name: float(raw[name]) for name in _NUMBERS}, dict(raw["made_for"])
        missed = tuple(Missed(**some) for some in raw["missed"])
    except FirstStageError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FirstStageError(f"{path} is no description of a first stage ({error!r}): fetch it again") from None
    if odd := [name for name, number in numbers.items() if not math.isfinite(number)]:
        raise FirstStageError(f"{path}: {odd[0]} is {numbers[odd[0]]}, expected a finite number")
    if others := [name for name in MADE_FOR if made_for.get(name) != hashes.get(name)]:
        raise FirstStageError(
            f"{path}: the first stage was made for another {', '.join(others)} than the checkpoint has: tag without "
            "the cascade, or make it again with training/first_stage.py"
        )
    return numbers, missed


def _fault(tensors: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]) -> str | None:
    """What is wrong with the tensors of a file; None if nothing is."""
    if tensors.keys() != _SHAPES.keys():
        return f"found tensors {', '.join(sorted(tensors)) or 'none'}, expected {', '.join(sorted(_SHAPES))}"
    known = dict(sizes)
    for name, shape in _SHAPES.items():
        found, wanted = tensors[name], np.dtype(np.int8 if name.endswith("_weights") else np.float32)
        if found.dtype != wanted or found.ndim != len(shape):
            return f"{name} is {found.dtype} of shape {found.shape}, expected {wanted} of ({', '.join(shape)})"
        for part, size in zip(shape, found.shape, strict=True):
            if known.setdefault(part, size) != size:
                return f"{name} has {size} {part}, expected {known[part]}"
        if not np.isfinite(found).all():
            return f"{name} holds values that are no finite numbers"
    buckets = known["buckets"]
    return None if buckets > 1 and buckets & (buckets - 1) == 0 else f"{buckets} buckets, expected a power of two"
