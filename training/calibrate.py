"""A trained run to a checkpoint: fit calibration and thresholds on dev, write the folder.

    python training/calibrate.py --run runs/release --out checkpoints/probe-minilm
    python training/calibrate.py --run runs/release --out checkpoints/probe-minilm --adapter-scales 1,0.85,0.7
    python training/calibrate.py --run runs/one runs/two --out checkpoints/probe-minilm    # the mean of their weights

Calibration and thresholds are fitted on the dev split, with ``--real`` also on the real traces
of a file in annotations/real that are marked dev, with ``--passages`` also on those with a passage set in; never on
test or on the real dev file, which is for evaluation. Their list joins that of the training traces in
``trained_on.jsonl``, where the run has one.

**In whose voice the false-positive rate holds.** Where enough real traces are given (at least 100 without each tag), in
theirs, passages among them: the written ones are mostly written to be hard, and thresholds that hold a rate on them
let most real harm pass. The threshold is, of those that tag at most the stated share of the real traces without the
tag, the one with the greatest F1 on all of them, written ones included: where a higher threshold loses nothing, it is
higher. So it is for sentences, at a tenth of the stated rate, for a trace has many.

Of several ``--run`` the weights are averaged, which is worth something where each went on from the one before: at the
end of each the learning rate is zero, so it is stochastic weight averaging with a cyclical rate (Izmailov et al. 2018,
arXiv 1803.05407). Runs from different fresh weights have no mean that means anything.

``--adapter-scales`` tries the adapter at several strengths, from the base (0) to the trained one (1), and keeps the
one with the best mean average precision on the same traces: weights between those before and after fine-tuning
often read unfamiliar text better (Wortsman et al. 2022, arXiv 2109.01903). What is taken off the trace logits of
long traces (long_traces.py) is fitted on the innocent ones among the same traces. Neither sees the passages.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor

from cot_probe.annotations import AnnotatedTrace, label_matrix, load_passages, load_real, load_split, taxonomy_in
from cot_probe.base import load_tokenizer, resolve_base
from cot_probe.calibration import (
    FPRS,
    SENTENCE_SHARE,
    Calibration,
    OperatingPoint,
    Scaling,
    blank_calibration,
    fit_scaling,
    scale,
    tag_logits,
    threshold_at,
)
from cot_probe.checkpoint import Checkpoint, EncoderConfig, save_checkpoint
from cot_probe.encoder import Encoder, LengthCorrection
from cot_probe.familiarity import Familiarity, fit_familiarity
from cot_probe.legible import legible
from cot_probe.monitorability.contamination import TRAINED_ON, read_training, training_lines
from cot_probe.monitorability.label_figures import tag_labels
from cot_probe.monitorability.metrics import average_precision
from cot_probe.monitorability.suite import text_hash
from cot_probe.recalibrate import shortages
from cot_probe.tagger import Tagger
from cot_probe.taxonomy import TAXONOMY, Taxonomy, own_taxonomy
from cot_probe.tokens import BaseTokenizer, known_words
from long_traces import fit_length, innocent, parts_of
from run_state import HISTORY_FILE
from settings import Settings
from train import light_state, load_trained

ENOUGH_REAL: Final = 100
"""With so many real traces without each tag the false-positive rates are those on real traces."""
DEV: Final = "the dev split"
REAL_DEV: Final = "the real calibration traces, with and without a passage of ours"
"""The traces on which the rates hold, in words."""


def split_state(encoder: Encoder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trained weights as half-precision adapters (``<module>.lora_A``) and heads."""
    adapter: dict[str, Tensor] = {}
    for name, module in encoder.body.named_modules():
        if isinstance(module, LoraLayer):
            adapter[f"{name}.lora_A"] = module.lora_A["default"].weight.detach().half()
            adapter[f"{name}.lora_B"] = module.lora_B["default"].weight.detach().half()
    heads = {name: tensor for name, tensor in light_state(encoder).items() if not name.startswith("body.")}
    return adapter, heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Logits beside what is right, over some records.

    Attributes:
        sentence_logits, sentence_labels: ``(n_sentences, n_labels)``.
        owners: ``(n_sentences,)``, the position of the record that a sentence is of.
        trace_logits: ``(n_traces, n_labels)``, nothing taken off for length.
        tag_labels: ``(n_traces, n_tags)``.
        lengths: sentences of each trace.
    """

    sentence_logits: NDArray[np.float32]
    sentence_labels: NDArray[np.bool_]
    owners: NDArray[np.intp]
    trace_logits: NDArray[np.float32]
    tag_labels: NDArray[np.bool_]
    lengths: Sequence[int]

    def corrected(self, length: LengthCorrection | None) -> "Measured":
        """With what a correction takes off the trace logits."""
        if length is None:
            return self
        return replace(self, trace_logits=self.trace_logits - np.stack([length.shift(n) for n in self.lengths]))

    def followed_by(self, other: "Measured") -> "Measured":
        """Both, this one's records first."""
        return Measured(
            sentence_logits=np.concatenate([self.sentence_logits, other.sentence_logits]),
            sentence_labels=np.concatenate([self.sentence_labels, other.sentence_labels]),
            owners=np.concatenate([self.owners, other.owners + len(self.lengths)]),
            trace_logits=np.concatenate([self.trace_logits, other.trace_logits]),
            tag_labels=np.concatenate([self.tag_labels, other.tag_labels]),
            lengths=[*self.lengths, *other.lengths],
        )


def measure(tagger: Tagger, records: list[AnnotatedTrace]) -> Measured:
    """Run the encoder over some records.

    Where the trace alone was labelled its sentences are left out, but for traces that carry
    nothing: none of their sentences does.
    """
    taxonomy = tagger.checkpoint.taxonomy
    width = len(taxonomy.labels)
    sentence_logits, sentence_labels = [np.zeros((0, width), np.float32)], [np.zeros((0, width), np.bool_)]
    trace_logits, wanted, lengths, owners = [], [], [], [np.zeros(0, np.intp)]
    for at in range(0, len(records), 64):
        some = records[at : at + 64]
        sentences, logits = tagger.logits([record.as_trace() for record in some])
        for record, own, raw in zip(some, sentences, logits, strict=True):
            if record.sentences_known or not record.trace:
                sentence_logits.append(raw.sentences)
                sentence_labels.append(label_matrix(record, own)[0])
                owners.append(np.full(len(own), len(lengths)))
            trace_logits.append(raw.trace)
            wanted.append(tag_labels(record))
            lengths.append(len(own))
    return Measured(
        sentence_logits=np.concatenate(sentence_logits),
        sentence_labels=np.concatenate(sentence_labels),
        owners=np.concatenate(owners),
        trace_logits=np.stack(trace_logits),
        tag_labels=np.stack(wanted),
        lengths=lengths,
    )


def threshold_within(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], counted: NDArray[np.bool_], fpr: float
) -> float:
    """The threshold with the greatest F1 among those that hold a false-positive rate, the highest of equal ones.

    It lies midway between the positive that decides and the next score below, where no negative bounds it: on the
    positive itself, a rounding would take it away. A lower rate never has a lower threshold.

    Args:
        scores: ``(n,)``, of every trace or sentence.
        labels: ``(n,)``, which carry the tag.
        counted: ``(n,)``, those on whose negatives the rate holds.
        fpr: the rate.
    """
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    lowest = threshold_at(scores[counted & ~labels], fpr)
    candidates = np.concatenate([[lowest], positives[positives > lowest]])
    found, wrong = (len(some) - np.searchsorted(some, candidates) for some in (positives, negatives))
    f1 = 2 * found / np.maximum(len(positives) + found + wrong, 1)
    chosen = candidates[len(candidates) - 1 - np.argmax(f1[::-1])]
    next_below = max(scores[scores < chosen], default=lowest)
    return float(max(lowest, (chosen + next_below) / 2))


def fit(measured: Measured, origins: Mapping[str, int], taxonomy: Taxonomy) -> Calibration:
    """Fit scalings and thresholds. A label that dev lacks keeps its raw sigmoid.

    Args:
        measured: written traces first, then the real ones.
        origins: how many of each there are, the first of them written.
        taxonomy: what they are labelled with.

    The rates hold on the real traces where at least ``ENOUGH_REAL`` of them lack each tag, else on all.
    """
    sentence_logits, sentence_labels = measured.sentence_logits, measured.sentence_labels
    trace_logits, trace_labels = tag_logits(measured.trace_logits, taxonomy), measured.tag_labels
    n_written, n_traces = next(iter(origins.values())), len(trace_labels)
    in_real = int((~trace_labels[n_written:]).sum(0).min()) >= ENOUGH_REAL
    counted = np.arange(n_traces) >= (n_written if in_real else 0)
    counted_sentences = counted[measured.owners]

    def scaling(logits: NDArray[np.floating], labels: NDArray[np.bool_]) -> Scaling:
        return fit_scaling(logits, labels) if labels.any() and not labels.all() else Scaling()

    sentences = {k: scaling(sentence_logits[:, at], sentence_labels[:, at]) for at, k in enumerate(taxonomy.labels)}
    traces = {k: scaling(trace_logits[:, at], trace_labels[:, at]) for at, k in enumerate(taxonomy.tags)}

    def sentence_threshold(at: int, label: str, fpr: float) -> float:
        scores, right = scale(sentence_logits[:, at], sentences[label]), sentence_labels[:, at]
        return threshold_within(scores, right, counted_sentences, fpr * SENTENCE_SHARE)

    def trace_threshold(at: int, tag: str, fpr: float) -> float:
        return threshold_within(scale(trace_logits[:, at], traces[tag]), trace_labels[:, at], counted, fpr)

    points = tuple(
        OperatingPoint(
            fpr=fpr,
            sentences={label: sentence_threshold(at, label, fpr) for at, label in enumerate(taxonomy.labels)},
            traces={tag: trace_threshold(at, tag, fpr) for at, tag in enumerate(taxonomy.tags)},
        )
        for fpr in FPRS
    )
    negatives = counted[:, None] & ~trace_labels
    about = {
        "split": "dev",
        "population": REAL_DEV if in_real else DEV,
        "traces_by_origin": dict(origins),
        "traces": n_traces,
        "sentences": len(sentence_labels),
        "negatives": {tag: int(negatives[:, at].sum()) for at, tag in enumerate(taxonomy.tags)},
        "positives": {tag: int(trace_labels[:, at].sum()) for at, tag in enumerate(taxonomy.tags)},
    }
    return Calibration(sentences=sentences, traces=traces, points=points, fitted_on=about, taxonomy=taxonomy)


def dev_passages(annotations: Path, text_dir: Path | None) -> list[AnnotatedTrace]:
    """The passages marked dev whose base is at hand."""
    found = load_passages(annotations, text_dir=text_dir, require_text=True)
    return [record for record in found if record.split == "dev"]


def familiar(records: Sequence[AnnotatedTrace], tokenizer: BaseTokenizer) -> Familiarity:
    """The reference for unfamiliar text: the English traces, and real ones whose language nobody noted."""
    known = known_words(tokenizer).__contains__
    english = [legible(record.text, known) for record in records if record.language in {"en", "und"}]
    return fit_familiarity(english, known)


def dev_score(measured: Measured, taxonomy: Taxonomy) -> float:
    """Mean average precision over the labels that occur, of sentences and of tags."""
    levels = (
        (measured.sentence_logits, measured.sentence_labels),
        (tag_logits(measured.trace_logits, taxonomy), measured.tag_labels),
    )
    columns = [
        (logits[:, at], labels[:, at])
        for logits, labels in levels
        for at in range(labels.shape[1])
        if labels[:, at].any()
    ]
    return float(np.mean([average_precision(logits, labels, np.ones(len(labels))) for logits, labels in columns]))


def scale_adapter(encoder: Encoder, by: float) -> None:
    """Set the strength of the trained adapter: 0 is the base alone, 1 as trained."""
    for module in encoder.body.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", by)


def chosen_scale(tagger: Tagger, records: list[AnnotatedTrace], scales: Sequence[float]) -> tuple[float, Measured]:
    """The strength of the adapter with the best dev score, and what was measured at it."""
    measured, score = {}, {}
    for by in scales:
        scale_adapter(tagger.checkpoint.encoder, by)
        measured[by] = measure(tagger, records)
        if len(scales) > 1:
            score[by] = dev_score(measured[by], tagger.checkpoint.taxonomy)
            print(f"adapter at {by:g}: dev score {score[by]:.6f}", flush=True)
    best = max(score, key=lambda by: score[by]) if score else scales[0]
    scale_adapter(tagger.checkpoint.encoder, best)
    return best, measured[best]


def taxonomy_of(run: Path, annotations: Path) -> Taxonomy:
    """The taxonomy that a run was trained with; the annotations must be of the same."""
    trained = own_taxonomy(run) or TAXONOMY
    if trained != (taxonomy_in(annotations) or TAXONOMY):
        raise SystemExit(
            f"{run} was trained with the labels {', '.join(trained.labels)} (its taxonomy.json), {annotations} is of "
            "another taxonomy: give the folder that it was trained on, or prepare and train again"
        )
    return trained


def load_mean(settings: Settings, runs: Sequence[Path], taxonomy: Taxonomy) -> Encoder:
    """The encoder with the mean of the runs' weights, in evaluation mode.

    Raises:
        SystemExit: if the runs have other matrices than the last one.
    """
    encoder = load_trained(settings, runs[-1] / "best.safetensors", taxonomy)
    states = [load_file(run / "best.safetensors") for run in runs]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    for run, shape in zip(runs, shapes, strict=True):
        if shape != shapes[-1]:
            raise SystemExit(f"{run} has other matrices than {runs[-1]}: give runs of the same rank, base and heads")
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[-1]}
    encoder.load_state_dict(mean, strict=False)
    return encoder


def history_of(runs: Sequence[Path]) -> str:
    """The last run's settings and course, absolute folders by their last part only: a card should not name machines.

    Where weights are the mean of several runs, ``mean_of`` has seed and data of each.
    """
    histories = [json.loads((run / HISTORY_FILE).read_text()) for run in runs]
    history = histories[-1]
    if len(runs) > 1:
        history["mean_of"] = [{"seed": one["settings"]["seed"], "data": one.get("data")} for one in histories]
    for name in ("base", "adapted", "begun"):
        named = Path(history["settings"].get(name, ""))
        history["settings"][name] = named.name if named.is_absolute() else str(history["settings"].get(name, ""))
    return json.dumps(history, indent=1) + "\n"


def trained_on(runs: Sequence[Path], records: Sequence[AnnotatedTrace]) -> dict[str, str]:
    """The list of the runs' traces for the checkpoint, if all have one, with those that only calibration saw."""
    paths = [run / TRAINED_ON for run in runs]
    if not all(path.is_file() for path in paths):
        return {}
    listed = dict.fromkeys(line for path in paths for line in path.read_text().splitlines(keepends=True))
    known = {trace.text for path in paths for trace in read_training(path)[0]}
    return {TRAINED_ON: "".join(listed) + training_lines(r for r in records if text_hash(r.text) not in known)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, required=True, nargs="+", help="folder that train.py wrote; of several the mean of weights"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--name", default=None, help="name in results (default: the folder's)")
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument(
        "--real", action="append", default=[], help="also calibrate on dev traces of annotations/real/…"
    )
    parser.add_argument(
        "--passages", action="store_true", help="also calibrate on those of annotations/passages.jsonl marked dev"
    )
    parser.add_argument("--text-dir", type=Path, default=None)
    parser.add_argument("--adapter-scales", default="1", help="strengths of the adapter to choose from, with commas")
    args = parser.parse_args()
    if (args.real or args.passages) and args.text_dir is None:
        parser.error("--real and --passages need --text-dir, the folder with the texts of the real traces")
    settings = Settings(**json.loads((args.run[-1] / HISTORY_FILE).read_text())["settings"])
    taxonomy = [taxonomy_of(run, args.annotations) for run in args.run][-1]
    encoder = load_mean(settings, args.run, taxonomy)
    adapter, heads = split_state(encoder)
    config = EncoderConfig(
        name=args.name or args.out.name,
        base=settings.base,
        layout=settings.layout,
        layers=settings.pooled_layers,
        hidden=settings.hidden,
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
    )
    blank = blank_calibration(taxonomy)
    base = resolve_base(settings.base)
    checkpoint = Checkpoint(
        config=config,
        encoder=encoder,
        tokenizer=load_tokenizer(base),
        calibration=blank,
        digest="uncalibrated",
    )
    real = [
        record
        for name in args.real
        for record in load_real(args.annotations, name, text_dir=args.text_dir, require_text=True)
        if record.split in {"train", "dev"}
    ]
    written, real_dev = load_split(args.annotations, "dev"), [record for record in real if record.split == "dev"]
    composed = dev_passages(args.annotations, args.text_dir) if args.passages else []
    records = [*written, *real_dev]
    tagger = Tagger(checkpoint, point=blank.points[0])
    scale_by, measured = chosen_scale(tagger, records, [float(part) for part in args.adapter_scales.split(",")])
    length = fit_length(encoder, parts_of(tagger, innocent(records)))
    if length is not None:
        taken = ", ".join(f"{label} {slope:g}" for label, slope in zip(taxonomy.labels, length.slopes, strict=True))
        print(f"taken off trace logits for each log of the length over {length.typical:g} sentences: {taken}")
    if composed:
        measured = measured.followed_by(measure(tagger, composed))
    origins = {"written": len(written), "real": len(real_dev), "real with a passage set in": len(composed)}
    calibration = fit(measured.corrected(length), origins, taxonomy)
    reference = familiar([*load_split(args.annotations, "train"), *real], checkpoint.tokenizer)
    extra = {HISTORY_FILE: history_of(args.run)} | trained_on(args.run, [*records, *composed])
    digest = save_checkpoint(
        args.out,
        config=replace(config, lora_alpha=config.lora_alpha * scale_by, length=length),
        adapter=adapter,
        heads=heads,
        calibration=calibration,
        familiarity=reference,
        extra=extra,
    )
    numbers = ", ".join(f"{number} {origin}" for origin, number in origins.items() if number)
    print(f"{args.out}: calibrated on {numbers} traces, rates held on {calibration.population}; digest {digest[:12]}")
    counted = [*real_dev, *composed] if calibration.fitted_on["population"] != DEV else [*records, *composed]
    short = shortages([taxonomy.with_unions(record.trace) for record in counted], FPRS, taxonomy)
    if short:
        print("thresholds that no trace without the tag reaches, for want of such traces:")
        print("\n".join(f"  {shortage}" for shortage in short))


if __name__ == "__main__":
    main()
