"""Fresh heads on the sentence vectors of a trained encoder: losses and shapes compared in minutes, over seeds.

    python training/heads.py --data RUN/data --run RUN --seeds 3 --cache RUN/vectors.pt
    python training/heads.py --data RUN/data --run RUN --only focal,asymmetric

The adapters stay as they are: every trace is read once, without augmentation, and heads are trained on its sentence
vectors alone. Vectors of the training split have seen their labels, so the figures compare heads with one another
and are not those of a training. A difference below the spread over seeds is none.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict, load_from_disk
from torch import Tensor, nn

from augment import plain
from batches import Targets, make_batch
from cot_probe.annotations import load_split
from cot_probe.annotations.records import reading_matrix
from cot_probe.base import load_tokenizer, resolve_base, special_tokens
from cot_probe.encoder import Encoder
from cot_probe.monitorability.metrics import average_precision
from cot_probe.sentences import split
from cot_probe.taxonomy import TAXONOMY
from run_state import HISTORY_FILE
from settings import Settings
from train import load_trained, loss_of, position_weights

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Sentence logits, what is wanted ``(n_sentences, n_labels)`` and weights of positives to one loss each."""
TRACES_A_STEP = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """One trace: vectors ``(n_sentences, d)``, token counts, what is wanted, and the mean over its readers."""

    vectors: Tensor
    counts: Tensor
    targets: Targets
    said: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is tried: a sentence loss (None: the release's), the share of the readers' mean in the labels, a shape."""

    loss: Loss | None = None
    readers: float = 0.0
    settings: Mapping[str, Any]


def plain_loss(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy; positives weigh what they are."""
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def weighted_loss(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy with weights of positives, as in the release."""
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")


def focal_loss(logits: Tensor, wanted: Tensor, weights: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002) with the same weights of positives."""
    scores = torch.sigmoid(logits)
    surprise = wanted * (1 - scores) + (1 - wanted) * scores
    return surprise**gamma * weighted_loss(logits, wanted, weights)


def asymmetric_loss(
    logits: Tensor, wanted: Tensor, weights: Tensor, *, gamma: float = 4.0, shift: float = 0.05
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119): easy negatives count for nothing."""
    scores = torch.sigmoid(logits)
    shifted = (scores - shift).clamp(min=0)
    positive = wanted * nn.functional.logsigmoid(logits)
    negative = (1 - wanted) * torch.log1p(-shifted.clamp(max=1 - 1e-6)) * shifted**gamma
    return -(positive + negative)


VARIANTS: Mapping[str, Variant] = {
    "release": Variant(settings={}),
    "positives not weighted": Variant(loss=plain_loss, settings={}),
    "focal": Variant(loss=focal_loss, settings={}),
    "asymmetric": Variant(loss=asymmetric_loss, settings={}),
    "half the readers' mean": Variant(loss=weighted_loss, readers=0.5, settings={}),
    "hidden 64": Variant(settings={"hidden": 64}),
    "hidden 512": Variant(settings={"hidden": 512}),
    "dropout 0.3": Variant(settings={"dropout": 0.3}),
    "without harm kinds": Variant(settings={"kind_weight": 0.0}),
    "traces weigh 3": Variant(settings={"trace_weight": 3.0}),
}


def vectors_of(
    encoder: Encoder, rows: Sequence[dict[str, Any]], settings: Settings, said: Mapping[str, Tensor]
) -> list[Vectors]:
    """Read every row once."""
    special, found = special_tokens(load_tokenizer(resolve_base(settings.base))), []
    with torch.inference_mode():
        for row in rows:
            if not any(row["sentences"]):
                continue
            batches, lengths, targets = make_batch([plain(row)], settings.layout, special)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
                vectors, counts = encoder.vectors(batches, sum(lengths))
            mean = said.get(row["id"], targets.labels)
            found.append(Vectors(vectors=vectors.float(), counts=counts, targets=targets, said=mean))
    return [replace(one, vectors=one.vectors.clone(), counts=one.counts.clone()) for one in found]


def means_of_readers(annotations: Path) -> dict[str, Tensor]:
    """For each written training trace the mean over its readers, ``(n_sentences, n_labels)``."""
    means = {}
    for record in load_split(annotations, "train"):
        sentences = split(record.text)
        readings = [reading_matrix(reading, sentences) for reading in record.readings]
        if readings:
            means[record.id] = torch.from_numpy(np.mean(readings, axis=0)).float()
    return means


def joined(some: Sequence[Vectors], readers: float) -> tuple[Tensor, Tensor, list[int], Targets]:
    """Several traces as one step takes them."""
    targets = {
        name: torch.cat([getattr(one.targets, name) for one in some])
        for name in ("kinds", "trace", "known", "known_sentences")
    }
    labels = torch.cat([(1 - readers) * one.targets.labels + readers * one.said for one in some])
    lengths = [len(one.vectors) for one in some]
    vectors, counts = (torch.cat([getattr(one, name) for one in some]) for name in ("vectors", "counts"))
    return vectors, counts, lengths, Targets(labels=labels, **targets)


def fitted(
    train: Sequence[Vectors], variant: Variant, settings: Settings, weights: tuple[Tensor, Tensor], seed: int
) -> Encoder:
    """Heads of one variant, trained."""
    settings = replace(settings, **variant.settings)
    torch.manual_seed(seed)
    width = train[0].vectors.shape[1] // len(settings.pooled_layers)
    heads = Encoder(
        nn.Identity(), width=width, layers=settings.pooled_layers, hidden=settings.hidden, dropout=settings.dropout
    ).train()
    optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.head_rate, weight_decay=settings.weight_decay)
    rng, steps = np.random.default_rng(seed), settings.epochs * -(-len(train) // TRACES_A_STEP)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    for _ in range(settings.epochs):
        order = rng.permutation(len(train))
        for begin in range(0, len(train), TRACES_A_STEP):
            group = [train[at] for at in order[begin : begin + TRACES_A_STEP]]
            vectors, counts, lengths, targets = joined(group, variant.readers)
            logits = heads.read(vectors, counts, lengths)
            if variant.loss is None:
                loss = loss_of(logits, targets, weights, settings)
            else:
                seen = targets.known_sentences
                own = variant.loss(logits[0][seen], targets.labels[seen], weights[0]).mean() * logits[0].shape[1]
                others = replace(targets, known_sentences=torch.zeros_like(seen))
                loss = (own if seen.any() else 0.0) + loss_of(logits, others, weights, settings)
            loss.backward()
            nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return heads.eval()


def precisions(heads: Encoder, dev: Sequence[Vectors]) -> tuple[float, float]:
    """Mean average precision over labels, of sentences and of traces."""
    with torch.inference_mode():
        logits = [heads.read(one.vectors, one.counts, [len(one.vectors)]) for one in dev]
    means = []
    for said, wanted in (
        (torch.cat([part[0] for part in logits]), torch.cat([one.targets.labels for one in dev])),
        (torch.cat([part[2] for part in logits]), torch.cat([one.targets.trace for one in dev])),
    ):
        columns = zip(said.T.numpy(), wanted.T.numpy() > 0.5, strict=True)
        means.append(float(np.nanmean([average_precision(one, true, np.ones(len(one))) for one, true in columns])))
    return means[0], means[1]


def read_all(
    run: Path, data: Path, annotations: Path, settings: Settings, cache: Path | None
) -> tuple[list[Vectors], list[Vectors]]:
    """Vectors of train and dev, from the cache where there is one (made by this script, of the same run)."""
    encoder, prepared = load_trained(settings, run / "best.safetensors"), load_from_disk(str(data))
    assert isinstance(prepared, DatasetDict)
    said = means_of_readers(annotations)
    parts = {name: prepared[name].to_list() for name in ("train", "dev")}
    stored = torch.load(cache, weights_only=True) if cache is not None and cache.is_file() else None
    found = {}
    for name, rows in parts.items():
        if stored is None:
            found[name] = vectors_of(encoder, rows, settings, said)
            continue
        special = special_tokens(load_tokenizer(resolve_base(settings.base)))
        kept = [row for row in rows if any(row["sentences"])]
        found[name] = [
            Vectors(vectors=vectors, counts=counts, targets=targets, said=said.get(row["id"], targets.labels))
            for row, (vectors, counts) in zip(kept, stored[name], strict=True)
            for targets in [make_batch([plain(row)], settings.layout, special)[2]]
        ]
    if cache is not None and stored is None:
        torch.save({name: [(one.vectors, one.counts) for one in part] for name, part in found.items()}, cache)
    return found["train"], found["dev"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of features, as prepare.py writes it")
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="variants, with commas; all if empty")
    parser.add_argument("--cache", type=Path, default=None, help="file to keep the vectors in")
    args = parser.parse_args()
    settings = Settings(**json.loads((args.run / HISTORY_FILE).read_text())["settings"])
    train, dev = read_all(args.run, args.data, args.annotations, settings, args.cache)
    rows = load_from_disk(str(args.data))["train"].to_list()
    weights = position_weights(rows, settings)
    print(f"{len(train)} training and {len(dev)} dev traces, {len(TAXONOMY.labels)} labels, {args.seeds} seeds\n")
    print("| heads | sentences | traces | mean of both | spread over seeds |\n|---|---|---|---|---|", flush=True)
    for name in [part for part in args.only.split(",") if part] or VARIANTS:
        found = [precisions(fitted(train, VARIANTS[name], settings, weights, seed), dev) for seed in range(args.seeds)]
        both = [(sentence + trace) / 2 for sentence, trace in found]
        sentences, traces = (statistics.mean(part) for part in zip(*found, strict=True))
        spread = statistics.stdev(both) if len(both) > 1 else float("nan")
        print(f"| {name} | {sentences:.3f} | {traces:.3f} | {statistics.mean(both):.3f} | {spread:.3f} |", flush=True)


if __name__ == "__main__":
    main()
