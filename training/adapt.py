"""Continued masked-language training of the adapter on reasoning text, before the labels come in.

    python training/adapt.py --data runs/release/data --out runs/release
    python training/train.py --data runs/release/data --out runs/release --adapted runs/release/adapted.safetensors

The base is a sentence-embedding model: its last layers have learnt to forget single words.
Here the same LoRA matrices that train.py goes on with learn to fill in masked words of
reasoning traces (Gururangan et al. 2020, "Don't stop pretraining"), with the word embeddings
as output matrix and a small transform, which is thrown away. Labels are not looked at; only
rows of the training split are read.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from torch import Tensor, nn

from cot_probe.base import body_width, load_tokenizer, resolve_base, special_tokens
from cot_probe.windows import SpecialTokens
from settings import Settings
from train import build_encoder

MASKED = 0.15
"""Share of the tokens that are to be filled in (Devlin et al. 2019): 8 in 10 masked, 1 random, 1 kept."""


class Transform(nn.Module):
    """State of a token ``(n, d)`` to what is compared with every word embedding ``(n, d)``."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """Logits ``(n, n_words)``."""
        out: Tensor = self.body(states) @ embeddings.T + self.bias
        return out


def windows_of(rows: Sequence[dict[str, Any]], special: SpecialTokens, length: int) -> list[list[int]]:
    """The reasoning of all rows, each cut into windows of at most ``length`` tokens."""
    windows = []
    for row in rows:
        flat = [token for ids in row["sentences"] for token in ids]
        for begin in range(0, len(flat), length - 2):
            part = flat[begin : begin + length - 2]
            if len(part) >= 16:
                windows.append([special.opening, *part, special.separator])
    return windows


def masked(
    ids: Tensor, mask_id: int, vocabulary: int, free: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hide some tokens of ``ids`` where ``free``; gives the new ids and which positions count."""
    draw = torch.rand(ids.shape, generator=generator)
    counts = (draw < MASKED) & free
    out = ids.clone()
    out[counts & (draw < 0.8 * MASKED)] = mask_id
    random = counts & (draw >= 0.9 * MASKED)
    out[random] = torch.randint(0, vocabulary, (int(random.sum()),), generator=generator)
    return out, counts


def batches(windows: list[list[int]], tokens: int, rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """Windows of like lengths together, in random order, at most ``tokens`` padded tokens each."""
    order = sorted(windows, key=lambda window: len(window) * rng.uniform(0.9, 1.1))
    groups: list[list[list[int]]] = [[]]
    for window in order:
        longest = max([len(window), *map(len, groups[-1])])
        if groups[-1] and longest * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(window)
    for at in rng.permutation(len(groups)):
        yield groups[at]


def adapt(rows: Sequence[dict[str, Any]], settings: Settings, *, epochs: int, rate: float) -> dict[str, Tensor]:
    """Train; returns the adapter's matrices by name."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    base = resolve_base(settings.base)
    tokenizer = load_tokenizer(base)
    special = special_tokens(tokenizer)
    encoder = build_encoder(settings)
    embeddings = encoder.body.get_input_embeddings().weight.detach()  # type: ignore[operator, union-attr]
    transform = Transform(body_width(base), len(embeddings))
    adapters = [p for name, p in encoder.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(
        [{"params": adapters, "lr": rate}, {"params": transform.parameters(), "lr": 2 * rate}], weight_decay=0.01
    )
    windows = windows_of(rows, special, settings.max_tokens)
    steps = epochs * sum(1 for _ in batches(windows, settings.batch_tokens, np.random.default_rng(0)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * max(0.02, 1 - step / steps)
    )
    encoder.train()
    begun, total, count = time.monotonic(), 0.0, 0
    for _ in range(epochs):
        for group in batches(windows, settings.batch_tokens, rng):
            loss = _loss(
                encoder.body, transform, embeddings, group, special, tokenizer.special["mask"], settings, generator
            )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([*adapters, *transform.parameters()], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total, count = total + float(loss.detach()), count + 1
            if count % 50 == 0:
                pace = (time.monotonic() - begun) / count
                print(f"batch {count}/~{steps} loss of the last 50 {total / 50:.4f} {pace:.2f} s/batch", flush=True)
                total = 0.0
    return {name: p.detach().clone() for name, p in encoder.named_parameters() if "lora_" in name}


def _loss(
    body: nn.Module,
    transform: Transform,
    embeddings: Tensor,
    group: list[list[int]],
    special: SpecialTokens,
    mask_id: int,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    longest = max(map(len, group))
    ids = torch.tensor([window + [special.padding] * (longest - len(window)) for window in group])
    seen = torch.tensor([[1] * len(window) + [0] * (longest - len(window)) for window in group])
    free = (seen == 1) & (ids != special.opening) & (ids != special.separator)
    hidden, counts = masked(ids, mask_id, len(embeddings), free, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16):
        states = body(input_ids=hidden, attention_mask=seen, output_hidden_states=True).hidden_states[-1][counts]
        logits = transform(states, embeddings)
    return nn.functional.cross_entropy(logits.float(), ids[counts])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="features of prepare.py; more folders with --also")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="base-minilm-l6")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--lora-rank", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    settings = Settings(
        base=args.base,
        seed=args.seed,
        lora_rank=args.lora_rank,
        lora_alpha=2.0 * args.lora_rank,
        max_tokens=args.max_tokens,
        bf16=args.bf16,
    )
    rows = load_from_disk(str(args.data))["train"].to_list()  # type: ignore[index, union-attr]
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(adapt(rows, settings, epochs=args.epochs, rate=args.rate), args.out / "adapted.safetensors")
    print(f"adapted on {len(rows)} traces: {args.out / 'adapted.safetensors'}")


if __name__ == "__main__":
    main()
