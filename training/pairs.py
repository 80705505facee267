"""Passages in real traces: does a checkpoint tell the variant that carries something from its innocent twin?

    python training/pairs.py --real-dir PATH
    python training/pairs.py --real-dir PATH --checkpoint OTHER --split train

The traces of ``annotations/passages.jsonl``, by default those of dev: nothing is trained on them, but calibrate.py fits
scalings and thresholds on them, so that F1 and calibration errors here are of fitted traces. The order of scores (AUROC,
average precision, pairs) has seen their bases only, by which calibrate.py chooses the adapter's strength and what
length takes off. Twins share the base and the
place, often most of the words, and differ in what the passage means; figures and baselines as in evaluate.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cot_probe.annotations import AnnotatedTrace, load_passages, load_split
from cot_probe.checkpoint import default_checkpoint
from cot_probe.monitorability.label_figures import Scored, labels_of
from cot_probe.monitorability.metrics import wilson
from cot_probe.monitorability.suite_monitors import Baselines, thresholds_on_dev
from cot_probe.tagger import load_tagger
from cot_probe.taxonomy import TAGS, TAXONOMY
from figures import limits_of, our_scores, table, thresholds_told


def twins(records: Sequence[AnnotatedTrace], tag: str) -> list[tuple[int, int]]:
    """Positions of the variant that carries a tag and of the twin that does not, for each pair of such."""
    by_base: dict[str, list[int]] = {}
    for at, record in enumerate(records):
        by_base.setdefault(record.id.rpartition("-")[0], []).append(at)
    carries = [tag in TAXONOMY.with_unions(record.trace) for record in records]
    pairs = (some for some in by_base.values() if len(some) == 2)
    return [(a, b) if carries[a] else (b, a) for a, b in pairs if carries[a] != carries[b]]


def pairs_table(records: Sequence[AnnotatedTrace], scored: Sequence[Scored]) -> str:
    """Share of the pairs in which the variant that carries the tag has the higher score, Wilson intervals."""
    lines = ["| tag | monitor | pairs in the right order |", "|---|---|---|"]
    for at, tag in enumerate(TAGS):
        pairs = twins(records, tag)
        for monitor in scored if pairs else ():
            right = sum(bool(monitor.trace[a, at] > monitor.trace[b, at]) for a, b in pairs)
            low, high = wilson(right, len(pairs))
            lines.append(f"| {tag} | {monitor.name} | {right} of {len(pairs)} [{low:.3f}, {high:.3f}] |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument("--real-dir", type=Path, required=True, help="folder with the texts of the bases")
    parser.add_argument("--split", default="dev", choices=("train", "dev"))
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws")
    args = parser.parse_args()
    every = load_passages(args.annotations, text_dir=args.real_dir, require_text=True)
    records = [record for record in every if record.split == args.split]
    if not records:
        raise SystemExit(f"none of {len(every)} passages with text at hand is of {args.split}: see {args.real_dir}")
    tagger = load_tagger(args.checkpoint or default_checkpoint())
    baselines = Baselines(load_split(args.annotations, "train"))
    scored = [our_scores(tagger, records), *baselines.scores(records)]
    dev = load_split(args.annotations, "dev")
    dev_labels = labels_of(dev, lambda r: r.group)
    limits = [limits_of(tagger)]
    limits += [thresholds_on_dev(monitor, dev_labels, tagger.point.fpr) for monitor in baselines.scores(dev)]
    print(f"{len(records)} traces, {thresholds_told(tagger)}\n")
    labels = labels_of(records, lambda r: r.group)
    print(table(scored, limits, labels, args.draws, {}, {"trace": TAGS}), "\n")
    print(pairs_table(records, scored))


if __name__ == "__main__":
    main()
