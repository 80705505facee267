"""Fit the trace head once more, alone, on the sentence vectors of the trained encoder.

    python training/fit_trace_head.py --run runs/release

In joint training the trace head sees each trace a few times only, while the vectors under it
still move. Here the vectors are computed once (with and without the instructions) and the
head is trained on them until dev says stop: minutes on a CPU. The result replaces the trace
head in the run's ``best.safetensors`` if it is better on dev, and is reported either way.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_from_disk
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from augment import plain
from cot_probe.checkpoint import load_tokenizer, resolve_base, special_tokens
from cot_probe.encoder import Encoder, TraceHead
from cot_probe.monitorability.metrics import average_precision
from cot_probe.taxonomy import TRACE_LABELS
from train import Settings, load_trained, make_batch, position_weights

Item = tuple[Tensor, Tensor, Tensor]
"""Normed sentence vectors ``(n, d)``, sentence logits ``(n, n_labels)``, labels ``(n_labels,)``."""


def items_of(encoder: Encoder, rows: Sequence[dict[str, Any]], settings: Settings) -> list[Item]:
    """Vectors and logits of some rows, in evaluation mode."""
    special = special_tokens(load_tokenizer(resolve_base(settings.base)))
    out = []
    with torch.inference_mode():
        for row in rows:
            if not any(row["sentences"]):
                continue
            batches, lengths, targets = make_batch([plain(row)], settings.layout, special)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
                vectors, _ = encoder.vectors(batches, sum(lengths))
            vectors = encoder.normed(vectors.float())
            out.append((vectors.clone(), encoder.sentence_head(vectors)[0].clone(), targets.trace[0].clone()))
    return out


def dev_score(head: TraceHead, items: Sequence[Item]) -> dict[str, float]:
    """Average precision per label, and their mean."""
    head.eval()
    with torch.inference_mode():
        said = torch.stack([head(vectors, logits) for vectors, logits, _ in items]).numpy()
    head.train()
    true = torch.stack([labels for _, _, labels in items]).numpy() > 0.5
    ones = np.ones(len(items))
    out = {label: round(average_precision(said[:, at], true[:, at], ones), 4) for at, label in enumerate(TRACE_LABELS)}
    return out | {"score": round(float(np.nanmean(list(out.values()))), 4)}


def fit(
    head: TraceHead,
    items: Sequence[Item],
    dev: Sequence[Item],
    weights: Tensor,
    *,
    epochs: int,
    rate: float,
    decay: float,
    blur: float,
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train; return the best state on dev and its figures (the state given counts as epoch -1)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay)
    best, figures = {k: v.clone() for k, v in head.state_dict().items()}, dev_score(head, dev)
    print("before", figures)
    for epoch in range(epochs):
        order = rng.permutation(len(items))
        for begin in range(0, len(order), 16):
            losses = []
            for at in order[begin : begin + 16]:
                vectors, logits, labels = items[at]
                # The encoder knows its training traces too well: blurred logits are trusted less.
                noisy = logits + blur * torch.randn_like(logits)
                dropped = nn.functional.dropout(vectors, 0.3)
                losses.append(
                    nn.functional.binary_cross_entropy_with_logits(head(dropped, noisy), labels, pos_weight=weights)
                )
            torch.stack(losses).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        now = dev_score(head, dev)
        print(epoch, now, flush=True)
        if now["score"] > figures["score"]:
            best, figures = {k: v.clone() for k, v in head.state_dict().items()}, now
    return best, figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--blur", type=float, default=1.5, help="standard deviation of the noise on sentence logits")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = Settings(**json.loads((args.run / "history.json").read_text())["settings"])
    data = load_from_disk(str(args.run / "data"))
    encoder = load_trained(settings, args.run / "best.safetensors")
    rows = data["train"].to_list()
    bare = [row | {"context": []} for row in rows if row["context"] and any(row["trace"])]
    items = items_of(encoder, rows + bare, settings)
    dev = items_of(encoder, data["dev"].to_list(), settings)
    weights = position_weights(rows, settings)[1]
    state, figures = fit(
        encoder.trace_head, items, dev, weights, epochs=args.epochs, rate=args.rate, decay=args.decay,
        blur=args.blur, seed=args.seed,
    )  # fmt: skip
    kept = load_file(args.run / "best.safetensors") | {f"trace_head.{name}": tensor for name, tensor in state.items()}
    save_file(kept, args.run / "best.safetensors")
    print("kept", figures)


if __name__ == "__main__":
    main()
