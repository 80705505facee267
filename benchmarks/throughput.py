"""Tokens per second on this machine, and what a billion tokens costs: the table of docs/sizing.md.

    python benchmarks/throughput.py --write docs/sizing.md           # 1 and 2 threads, fp32 and bf16
    python benchmarks/throughput.py --device cuda --threads 1        # a GPU
    python benchmarks/throughput.py --price 0.04                     # and a column of money, per core-hour (GPU-hour)
    python benchmarks/throughput.py --traces 4 --repeats 1 --fit-traces 100  # only to see that it works

What is timed goes from traces in memory to scores of every sentence and trace: splitting,
tokenising, the model, calibration. Reading and writing files is not in it. The rivals do the
same work on the same text in the same run, in turn with ours, repeat by repeat:

- *one sentence at a time*: the same checkpoint, a forward pass for each sentence with the
  instructions before it, as a loop over a sentence classifier would do it (on fewer traces);
- *TF-IDF + LR* and *keywords*: the baselines of ``cot_probe.monitorability.baselines``.

The text is made of the sentences of tests/data/examples under their instructions, drawn at
random into traces of ``--trace-words`` words. Every number of threads is a process of its own,
bound to as many cores. Ratios are medians of the repeats' own ratios. Run it on an idle
machine: the load before the run is stated with the table.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import write_between

from cot_probe.sentences import split
from cot_probe.transcripts import Trace, read_path
from cot_probe.transcripts.trace import trace_of

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "tests" / "data" / "examples"
NAIVE, TFIDF, KEYWORDS = "one sentence at a time", "TF-IDF + LR", "keywords"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""The variables that tell libraries how many threads to take."""
BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One row: tokens per second of each repeat."""

    engine: str
    threads: int
    precision: str
    tokens_per_second: tuple[float, ...]

    @property
    def median(self) -> float:
        """Tokens per second."""
        return float(np.median(self.tokens_per_second))

    def times(self, other: "Speed") -> float:
        """How many times as fast as ``other``: the median over repeats of the ratio within each."""
        return float(np.median(np.divide(self.tokens_per_second, other.tokens_per_second)))


def hours_per_billion(tokens_per_second: float, units: int = 1) -> float:
    """Core-hours (or GPU-hours) for a billion tokens, where ``units`` of them together are so fast."""
    return units * BILLION / tokens_per_second / 3600


def example_traces(count: int, words: int, *, seed: int) -> list[Trace]:
    """Traces of ``words`` words, of the examples' sentences in random order, each under an example's instructions."""
    items = [item for path in sorted(EXAMPLES.iterdir()) for item in read_path(path)]
    found = [item for item in items if isinstance(item, Trace) and item.text]
    sentences = [sentence.text.strip() for trace in found for sentence in split(trace.text)]
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        some: list[str] = []
        while sum(len(sentence.split()) for sentence in some) < words:
            some.append(sentences[int(rng.integers(len(sentences)))])
        made.append(trace_of(" ".join(some), id=str(number), context=found[number % len(found)].context))
    return made


def baselines(annotations: Path, limit: int | None) -> dict[str, Callable[[Sequence[Trace]], None]]:
    """The keyword list and TF-IDF, the latter fitted on the training split, as scorers of traces."""
    from cot_probe.annotations import load_split
    from cot_probe.annotations.records import label_matrix, trace_vector
    from cot_probe.monitorability.baselines import TfidfMonitor, keyword_scores

    train = load_split(annotations, "train")[:limit]
    cut = [split(record.text) for record in train]
    matrices = [label_matrix(record, some)[0] for record, some in zip(train, cut, strict=True)]
    by_sentence = TfidfMonitor().fit([s.text for some in cut for s in some], np.concatenate(matrices))
    by_trace = TfidfMonitor().fit([r.text for r in train], np.array([trace_vector(r.trace) for r in train]))

    def tfidf(traces: Sequence[Trace]) -> None:
        by_sentence.scores([sentence.text for trace in traces for sentence in split(trace.text)])
        by_trace.scores([trace.text for trace in traces])

    def keywords(traces: Sequence[Trace]) -> None:
        keyword_scores([sentence.text for trace in traces for sentence in split(trace.text)])
        keyword_scores([trace.text for trace in traces])

    return {TFIDF: tfidf, KEYWORDS: keywords}


def measure(args: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """All rows for one number of threads; the process is bound to as many cores first."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    from cot_probe.tagger import Tagger, load_tagger

    torch.set_num_threads(threads)
    tagger = load_tagger(args.checkpoint, device=args.device)
    in_bf16 = Tagger(tagger.checkpoint, point=tagger.point, bf16=True)
    traces = example_traces(args.traces, args.trace_words, seed=args.seed)
    few = traces[: args.naive_traces]

    def naive(some: Sequence[Trace]) -> None:
        for trace in some:
            for sentence in split(trace.text):
                tagger.logits([trace_of(sentence.text, context=trace.context)])

    scorers: dict[tuple[str, str], tuple[Callable[[Sequence[Trace]], Any], list[Trace]]] = {}
    if "fp32" in args.precisions:
        scorers["cot_probe", "fp32"] = (lambda some: list(tagger.tag_many(some)), traces)
    if "bf16" in args.precisions:
        scorers["cot_probe", "bf16"] = (lambda some: list(in_bf16.tag_many(some)), traces)
    scorers[NAIVE, "fp32"] = (naive, few)
    for name, scorer in baselines(args.annotations, args.fit_traces).items():
        scorers[name, "–"] = (scorer, traces)
    sizes = {trace.id: tagged.n_tokens for trace, tagged in zip(traces, tagger.tag_many(traces), strict=True)}
    speeds: dict[tuple[str, str], list[float]] = {key: [] for key in scorers}
    for repeat in range(-1, args.repeats):  # the first round is to warm up
        for key, (scorer, some) in scorers.items():
            begun = time.perf_counter()
            scorer(some)
            seconds = time.perf_counter() - begun
            if repeat >= 0:
                speeds[key].append(sum(sizes[trace.id] for trace in some) / seconds)
    return [
        {"engine": engine, "threads": threads, "precision": precision, "tokens_per_second": found}
        for (engine, precision), found in speeds.items()
    ] + [{"checkpoint": tagger.checkpoint.signature, "tokens": sum(sizes.values()), "torch": torch.__version__}]


def measured_apart(script: str, counts: Sequence[int], **variables: str) -> tuple[list[Speed], dict[str, Any]]:
    """What ``script --measure N`` finds for each number of threads, in a process each whose libraries take so many.

    The facts are those that the last one states; ``variables`` are added to the environment.
    """
    speeds: list[Speed] = []
    facts: dict[str, Any] = {}
    for threads in counts:
        command = [sys.executable, script, *sys.argv[1:], "--measure", str(threads)]
        env = os.environ | dict.fromkeys(THREADS, str(threads)) | variables
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
        *rows, facts = json.loads(done.stdout.splitlines()[-1])
        speeds += [Speed(**row | {"tokens_per_second": tuple(row["tokens_per_second"])}) for row in rows]
    return speeds, facts


def table(speeds: Sequence[Speed], *, unit: str, price: float | None) -> str:
    """The Markdown table; ``unit`` is what an hour is counted of, ``core`` or ``GPU``."""
    first = speeds[0].threads
    head = ["engine", "threads", "precision", "tokens/s, median [least, most]", f"× {NAIVE}", f"× {first} thread"]
    head += [f"{unit}-hours for 10⁹ tokens"] + ([f"cost at {price:g} a {unit}-hour"] if price is not None else [])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for speed in speeds:
        kin = {s.threads: s for s in speeds if (s.engine, s.precision) == (speed.engine, speed.precision)}
        rival = next(s for s in speeds if s.engine == NAIVE and s.threads == speed.threads)
        hours = hours_per_billion(speed.median, speed.threads if unit == "core" else 1)
        # What needs no GPU has no price in GPU-hours.
        counted = unit == "core" or speed.engine not in {TFIDF, KEYWORDS}
        least, most = min(speed.tokens_per_second), max(speed.tokens_per_second)
        cells = [speed.engine, str(speed.threads), speed.precision]
        cells += [f"{speed.median:,.0f} [{least:,.0f}, {most:,.0f}]", f"{speed.times(rival):.3g}"]
        cells += [f"{speed.median / kin[first].median:.2f}", f"{hours:,.3g}" if counted else "–"]
        cells += [f"{hours * price:,.3g}" if counted else "–"] if price is not None else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """What the model runs on."""
    if device == "cpu":
        return processor()
    import torch

    return f"{torch.cuda.get_device_name()} (and {processor()})"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--annotations", type=Path, default=ROOT / "annotations", help="what TF-IDF is fitted on")
    parser.add_argument("--fit-traces", type=int, default=None, help="fit TF-IDF on so many training traces only")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--traces", type=int, default=12)
    parser.add_argument("--trace-words", type=int, default=1000)
    parser.add_argument("--naive-traces", type=int, default=2, help="so many of them for the naive rival")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--price", type=float, default=None, help="of an hour of one core (GPU), in any currency")
    parser.add_argument("--write", type=Path, default=None, help="put the table into this page, between its marks")
    parser.add_argument("--measure", type=int, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = arguments()
    if args.measure is not None:
        print(json.dumps(measure(args, args.measure)))
        return
    load, unit = os.getloadavg()[0], "core" if args.device == "cpu" else "GPU"
    speeds, facts = measured_apart(__file__, args.threads)
    text = (
        f"{device_name(args.device)}; torch {facts['torch']}; checkpoint {facts['checkpoint']}; {args.traces} traces, "
        f"{facts['tokens']:,} tokens ({args.naive_traces} traces for *{NAIVE}*); {args.repeats} repeats; load of the "
        f"machine before the run: {load:.1f}.\n\n" + table(speeds, unit=unit, price=args.price)
    )
    print(text)
    if args.write is not None:
        write_between(args.write, "throughput", text)


if __name__ == "__main__":
    main()
