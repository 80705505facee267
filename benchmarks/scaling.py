"""What tagging costs as traces grow and as there are more of them: time a token should stay, memory should too.

    python benchmarks/scaling.py --write benchmarks/README.md --plot docs/scaling.svg
    python benchmarks/scaling.py --lengths 100,400 --counts 2,4 --words 800 --repeats 1   # only to see that it works

Two sweeps through the engine of ``cot-probe tag``, from a JSONL file to a JSONL file: traces of 100 to 100,000
words, as many of each as make about ``--words`` words (at least one); and 10 to 10,000 traces of ``--count-words``
words. Every point is a process of its own, so that its peak memory is its own; the model is loaded and has tagged
a short trace before the clock runs. All points are measured in turn, repeat by repeat. The exponent is the slope
of log seconds (of one trace; of all) over log tokens: 1 is linear. Run it on an idle machine: the load before
the run is stated with the table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import write_between
from pipeline import batch_scorer, mixed_traces, write_traces
from throughput import THREADS, processor

LENGTHS, COUNTS = "words a trace", "traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Something to measure: so many traces of so many words, in the sweep of this name."""

    sweep: str
    traces: int
    words: int

    @property
    def size(self) -> int:
        """What the sweep varies."""
        return self.words if self.sweep == LENGTHS else self.traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A point with what its repeats gave: tokens of text, seconds, greatest memory in bytes."""

    point: Point
    tokens: int
    seconds: tuple[float, ...]
    memory: tuple[int, ...]

    @property
    def microseconds(self) -> tuple[float, ...]:
        """For each token of text, one value a repeat."""
        return tuple(1e6 * value / self.tokens for value in self.seconds)

    @property
    def middle(self) -> float:
        """Microseconds a token."""
        return float(np.median(self.microseconds))

    @property
    def peak(self) -> int:
        """The greatest memory of all repeats, in bytes."""
        return max(self.memory)


def points(args: argparse.Namespace) -> list[Point]:
    """Both sweeps."""
    by_length = [Point(sweep=LENGTHS, traces=max(1, args.words // words), words=words) for words in args.lengths]
    return by_length + [Point(sweep=COUNTS, traces=count, words=args.count_words) for count in args.counts]


def measure(args: argparse.Namespace, point: Point) -> dict[str, Any]:
    """One repeat of one point, in this process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import torch

    torch.set_num_threads(args.threads)
    score, tagger = batch_scorer(args.checkpoint, bf16=args.bf16)
    with tempfile.TemporaryDirectory() as name:
        file = write_traces(mixed_traces(point.traces, [point.words], seed=args.seed), Path(name) / "traces.jsonl")
        results = Path(name) / "results.jsonl"
        tagger.tag("Nobody watches the logs. I will read the file first, then answer openly.")
        begun = time.perf_counter()
        score(file, results)
        seconds = time.perf_counter() - begun
        manifest = json.loads(Path(f"{results}.manifest.json").read_text(encoding="utf-8"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": seconds,
        "memory": peak,
        "tokens": manifest["total"]["tokens"],
        "checkpoint": tagger.checkpoint.signature,
    }


def measured(args: argparse.Namespace, some: Sequence[Point]) -> tuple[list[Measured], str]:
    """All points, in turn, and the signature of the checkpoint."""
    env = os.environ | dict.fromkeys(THREADS, str(args.threads)) | {"HF_HUB_OFFLINE": "1"}
    found: list[list[dict[str, Any]]] = [[] for _ in some]
    for _ in range(args.repeats):
        for at in range(len(some)):
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(at)]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
            found[at].append(json.loads(done.stdout.splitlines()[-1]))
    return [
        Measured(
            point=point,
            tokens=rows[0]["tokens"],
            seconds=tuple(row["seconds"] for row in rows),
            memory=tuple(row["memory"] for row in rows),
        )
        for point, rows in zip(some, found, strict=True)
    ], found[0][0]["checkpoint"]


def exponent(some: Sequence[Measured]) -> float:
    """Slope of log seconds over log tokens: of one trace where lengths vary, of all where their number does."""
    if len(some) < 2:
        return float("nan")
    share = [one.point.traces if one.point.sweep == LENGTHS else 1 for one in some]
    tokens = np.log([one.tokens / part for one, part in zip(some, share, strict=True)])
    seconds = np.log([np.median(one.seconds) / part for one, part in zip(some, share, strict=True)])
    return float(np.polyfit(tokens, seconds, 1)[0])


def table(some: Sequence[Measured]) -> str:
    """The Markdown tables of both sweeps."""
    parts = []
    for sweep in (LENGTHS, COUNTS):
        rows = [one for one in some if one.point.sweep == sweep]
        if not rows:
            continue
        other = COUNTS if sweep == LENGTHS else LENGTHS
        head = (sweep, other, "tokens", "µs a token, median [least, most]", "× the cheapest", "peak memory, MiB")
        lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
        cheapest = min(one.middle for one in rows)
        for one in rows:
            counted = one.point.traces if sweep == LENGTHS else one.point.words
            spread = f"{one.middle:.1f} [{min(one.microseconds):.1f}, {max(one.microseconds):.1f}]"
            lines.append(
                f"| {one.point.size:,} | {counted:,} | {one.tokens:,} | {spread} | {one.middle / cheapest:.2f} "
                f"| {one.peak / 2**20:,.0f} |"
            )
        parts.append("\n".join(lines) + f"\n\nSeconds grow with tokens to the power of {exponent(rows):.3f}.")
    return "\n\n".join(parts)


def draw(some: Sequence[Measured], path: Path) -> None:
    """Time a token and peak memory over length and number; PNG, SVG or PDF by the file's name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "scaling", "font.size": 8}
    sweeps = [sweep for sweep in (LENGTHS, COUNTS) if any(one.point.sweep == sweep for one in some)]
    drawing, frames = plt.subplots(2, len(sweeps), figsize=(3.4 * len(sweeps), 4.2), sharey="row", squeeze=False)
    for sweep, (time_frame, memory_frame) in zip(sweeps, frames.T, strict=True):
        rows = [one for one in some if one.point.sweep == sweep]
        sizes = [one.point.size for one in rows]
        middles = np.array([one.middle for one in rows])
        spread = [
            [one.middle - min(one.microseconds) for one in rows],
            [max(one.microseconds) - one.middle for one in rows],
        ]
        time_frame.errorbar(sizes, middles, yerr=spread, marker="o", color="#1b4f93", capsize=2, linewidth=1.2)
        memory_frame.plot(sizes, [one.peak / 2**20 for one in rows], marker="s", color="#dd6a1f", linewidth=1.2)
        memory_frame.set_xlabel(sweep)
        for frame in (time_frame, memory_frame):
            frame.set_xscale("log")
            frame.grid(color="#d5cfc3", linewidth=0.5)
    frames[0, 0].set_ylim(0, 1.15 * max(max(one.microseconds) for one in some))
    frames[1, 0].set_ylim(0, 1.15 * max(one.peak for one in some) / 2**20)
    frames[0, 0].set_ylabel("µs a token")
    frames[1, 0].set_ylabel("peak memory, MiB")
    drawing.tight_layout()
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 150}
    drawing.savefig(path, **options)
    plt.close(drawing)


def arguments() -> argparse.Namespace:
    """The command line."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=numbers, default=[100, 300, 1000, 3000, 10_000, 30_000, 100_000])
    parser.add_argument("--words", type=int, default=30_000, help="in all, at each length up to this one")
    parser.add_argument("--counts", type=numbers, default=[10, 100, 1000, 10_000], help="numbers of traces")
    parser.add_argument("--count-words", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None, help="draw it here (.png, .svg, .pdf)")
    parser.add_argument("--write", type=Path, default=None, help="put the tables into this page, between its marks")
    parser.add_argument("--measure", type=int, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = arguments()
    some = points(args)
    if args.measure is not None:
        print(json.dumps(measure(args, some[args.measure])))
        return
    load = os.getloadavg()[0]
    found, checkpoint = measured(args, some)
    text = (
        f"{processor()}, {args.threads} thread{'s' * (args.threads > 1)}, {'bf16' if args.bf16 else 'default precision'}; "
        f"checkpoint {checkpoint}; {args.repeats} repeats; load of the machine before the run: {load:.1f}.\n\n"
        + table(found)
    )
    print(text)
    if args.plot is not None:
        draw(found, args.plot)
    if args.write is not None:
        write_between(args.write, "scaling", text)


if __name__ == "__main__":
    main()
