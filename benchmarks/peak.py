"""How near the encoder comes to what the machine's matrix units can do.

    python benchmarks/peak.py --write benchmarks/README.md
    python benchmarks/peak.py --rounds 1 --tokens 512                 # only to see that it works

The peak is the quickest of a few large matrix products in the same precision, measured in the same
rounds, in turn: not what a data sheet says. The encoder's share counts the multiplications and
additions of its linear layers and of attention alone (2 for each weight and token, 4 for each pair of
tokens, width and layer), so what embeddings, normalisation, softmax and pooling take is time without work.
Batches are as in batch tagging; every window is full, so no padding is counted as work.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pages import write_between
from throughput import processor

from cot_probe.encoder import Encoder, encode
from cot_probe.tagger import Tagger, load_tagger
from cot_probe.windows import Span, Window

SIZES = (1024, 2048, 4096)
"""Rows and columns of the square matrices."""
BATCH_TOKENS = 2_048


def work_of(encoder: Encoder, tokens: int) -> int:
    """Multiplications and additions for one window of so many tokens."""
    config = encoder.body.config
    width, inner = config.hidden_size, config.intermediate_size
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 4 * tokens * tokens * width
    return layer * max(encoder.layers)


def windows_of(tagger: Tagger, tokens: int, count: int) -> list[list[Window]]:
    """Full windows of one sentence each, a trace each."""
    special, words = tagger.special, tagger.token_ids(["Read the log, then restart the job and write to the owner."])[0]
    body = tuple((words * (tokens // len(words) + 1))[: tokens - 2])
    ids = (special.opening, *body, special.separator)
    window = Window(ids=ids, types=(1,) * tokens, spans=(Span(sentence=0, first=1, last=tokens - 1),))
    return [[window] for _ in range(count)]


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def share(tagger: Tagger, dtype: torch.dtype, tokens: int, rounds: int) -> str:
    """One row of the table."""
    encoder, count = tagger.checkpoint.encoder, max(1, BATCH_TOKENS // tokens)
    windows = windows_of(tagger, tokens, count)
    squares = {size: torch.randn(size, size).to(dtype) for size in SIZES}
    peaks, speeds = [], []
    with torch.inference_mode():
        for at in range(rounds + 1):  # the first does not count
            rates = [2 * size**3 / seconds(lambda one=one: one @ one) for size, one in squares.items()]
            spent = seconds(
                lambda: encode(
                    encoder, windows, [1] * count, padding=tagger.special.padding, bf16=dtype == torch.bfloat16
                )
            )
            if at:
                peaks.append(max(rates))
                speeds.append(count * work_of(encoder, tokens) / spent)
    peak, speed = statistics.median(peaks), statistics.median(speeds)
    name = str(dtype).removeprefix("torch.")
    return (
        f"| {torch.get_num_threads()} | {name} | {tokens} | {peak / 1e9:,.0f} | {speed / 1e9:,.0f} | "
        f"{100 * speed / peak:.0f} % | {speed / work_of(encoder, tokens) * tokens:,.0f} |"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512], help="of a window")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path, default=None, help="put the table into this page, between its marks")
    args = parser.parse_args()
    tagger = load_tagger(args.checkpoint)
    lines = [
        f"On {processor()}; medians of {args.rounds} rounds.",
        "",
        "| threads | precision | tokens of a window | peak, GFLOP/s | encoder, GFLOP/s | share | tokens a second |",
        "|---|---|---|---|---|---|---|",
    ]
    for threads in args.threads:
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            for tokens in args.tokens:
                lines.append(share(tagger, dtype, tokens, args.rounds))
                print(lines[-1], flush=True)
    if args.write is not None:
        write_between(args.write, "peak", "\n".join(lines))


if __name__ == "__main__":
    main()
