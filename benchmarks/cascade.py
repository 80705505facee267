"""What the first stage saves on text that is nearly all empty, and what it loses there.

    python benchmarks/cascade.py                                      # the shipped dev split
    python benchmarks/cascade.py --real-dir PATH                      # real traces, of annotations/real/dev
    python benchmarks/cascade.py --traces 40 --repeats 1              # only to see that it works

Of the traces, 95 in 100 (``--empty``) carry no label and the others at least one, drawn at random from
annotations (again and again where more are wanted than there are; tags lost are counted in each). What
is timed goes from traces in memory to tagged traces. Both ways are timed in the same run, in turn, repeat
by repeat, and the ratio is the median of the repeats' own ratios. Run it on an idle machine: the load
before the run is stated.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
from throughput import processor

from cot_probe.annotations import AnnotatedTrace, load_real, load_split
from cot_probe.first_stage import FirstStageError
from cot_probe.tagger import TaggedTrace, Tagger, load_tagger

NAMES = ("all read", "cascade")


def mixed(records: list[AnnotatedTrace], count: int, empty: float, *, seed: int) -> list[AnnotatedTrace]:
    """So many of the records, the given share of them without a label, in random order."""
    rng = np.random.default_rng(seed)
    n_empty = round(count * empty)
    chosen: list[AnnotatedTrace] = []
    for wanted, labelled in ((n_empty, False), (count - n_empty, True)):
        some = [record for record in records if bool(record.trace) == labelled]
        if not some and wanted:
            raise SystemExit(f"no traces {'with' if labelled else 'without'} a label among these: give others")
        order = np.concatenate([rng.permutation(len(some)) for _ in range(-(-wanted // max(1, len(some))))] or [[]])
        chosen += [some[int(at)] for at in order[:wanted]]
    return [chosen[int(at)] for at in rng.permutation(len(chosen))]


def timed(tagger: Tagger, records: list[AnnotatedTrace]) -> tuple[float, list[TaggedTrace]]:
    """Seconds, and what was found."""
    traces = [record.as_trace() for record in records]
    begun = time.perf_counter()
    found = list(tagger.tag_many(traces))
    return time.perf_counter() - begun, found


def losses(records: list[AnnotatedTrace], whole: list[TaggedTrace], left: list[TaggedTrace], tagger: Tagger) -> str:
    """A table of tags: how many of the right ones each way gives, and of the wrong ones."""
    taxonomy = tagger.checkpoint.taxonomy
    lines = ["| tag | right, all read | cascade | wrong, all read | cascade |", "|---|---|---|---|---|"]
    right = [taxonomy.with_unions(record.trace) for record in records]
    for tag in taxonomy.tags:
        counts = [
            sum(tag in trace.tags and (tag in truth) == wanted for trace, truth in zip(some, right, strict=True))
            for wanted in (True, False)
            for some in (whole, left)
        ]
        lines.append(f"| {tag} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument("--split", default="dev", choices=("train", "dev", "test"), help="of the written traces")
    parser.add_argument("--real-dir", type=Path, default=None, help="texts of annotations/real: real traces instead")
    parser.add_argument("--traces", type=int, default=400)
    parser.add_argument("--empty", type=float, default=0.95, help="share of the traces without a label")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import torch

    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    try:
        taggers = [load_tagger(args.checkpoint, bf16=args.bf16, cascade=cascade) for cascade in (False, True)]
    except FirstStageError as error:
        raise SystemExit(str(error)) from None
    if args.real_dir is None:
        pool, said = load_split(args.annotations, args.split), f"written traces, {args.split} split"
    else:
        pool = load_real(args.annotations, text_dir=args.real_dir, require_text=True)
        said = "real traces"
    records = mixed(pool, args.traces, args.empty, seed=args.seed)
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    found: dict[str, list[TaggedTrace]] = {}
    for tagger in taggers:
        timed(tagger, records[:8])  # kernels are made at the first passes
    for repeat in range(args.repeats):
        order = list(zip(NAMES, taggers, strict=True))
        for name, tagger in order if repeat % 2 == 0 else order[::-1]:
            spent, found[name] = timed(tagger, records)
            seconds[name].append(spent)
    whole, left = (found[name] for name in NAMES)
    tokens = sum(trace.n_tokens for trace in whole)
    ratios = [a / b for a, b in zip(*(seconds[name] for name in NAMES), strict=True)]
    passed, sentences = sum(trace.passed for trace in left), sum(len(trace.sentences) for trace in left)
    print(
        f"{processor()}, {args.threads} threads, {'bf16' if args.bf16 else 'float32'}; {taggers[1].signature}; {said}: "
        f"{len(records)}, of which {100 * args.empty:g} % without a label, {tokens:,} tokens; {args.repeats} repeats; "
        f"load of the machine before the run: {load:.1f}\n"
    )
    print("| way | tokens/s, median |\n|---|---|")
    for name in NAMES:
        print(f"| {name} | {tokens / statistics.median(seconds[name]):,.0f} |")
    print(f"\nratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    print(f"sentences passed: {passed} of {sentences} ({100 * passed / sentences:.1f} %)\n")
    print(losses(records, whole, left, taggers[1]))


if __name__ == "__main__":
    main()
