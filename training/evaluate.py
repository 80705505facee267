"""Evaluate a checkpoint beside two baselines: test split, and real traces by source.

    python training/evaluate.py --checkpoint checkpoints/probe-minilm --real-dir PATH --write
    python training/evaluate.py --split dev --cards 226-233      # some scenario cards only: harm said plainly

Prints Markdown tables; ``--write`` puts them into the checkpoint's metrics.json and
README.md (the model card). Intervals are 95 % bootstrap, resampled by scenario (real traces:
by source and question). ``cot-probe bench --suite v1`` computes the same figures and tables by the
same functions. The baselines are the keyword list and TF-IDF with logistic regression, trained
on the same training split, their thresholds at the same false-positive rate on the written dev split.

A checkpoint with a taxonomy of its own gets its figures alone: goals, baselines and groups are
those of the built-in labels.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cot_probe.annotations import AnnotatedTrace, AnnotationError, load_real, load_split, taxonomy_in
from cot_probe.checkpoint import default_checkpoint
from cot_probe.manifest import CheckpointError, write_manifest
from cot_probe.monitorability import metrics
from cot_probe.monitorability.card_levels import measured
from cot_probe.monitorability.card_markdown import breakdowns_part, goals_part, hard_negatives_part, stance_share
from cot_probe.monitorability.card_tables import card_tables, tables_json
from cot_probe.monitorability.label_figures import LEVELS, Labels, Scored, labels_of
from cot_probe.monitorability.suite import annotation_hash
from cot_probe.monitorability.suite_monitors import Baselines, thresholds_on_dev
from cot_probe.tagger import Tagger, load_tagger
from cot_probe.taxonomy import TAGS, TAXONOMY, Taxonomy
from figures import limits_of, our_scores, table, thresholds_told, unfamiliar_part
from run_state import HISTORY_FILE

KILOWATTS = 0.03
"""What two cores draw at 15 W each: an assumption, not a measurement."""
OWN_NOTES = {
    "dev": "Dev chose the epoch, the calibration and the thresholds: on new traces expect less than this.",
    "test": "Traces that training, calibration and thresholds have not seen.",
}


def paired(scored: Sequence[Scored], labels: Labels, draws: int, store: dict[str, Any]) -> str:
    """Trace average precision: ours minus each baseline, paired by scenario."""
    lines = ["| tag | against | difference in average precision |", "|---|---|---|"]
    ours = scored[0]
    for at, tag in enumerate(TAGS):
        for other in scored[1:]:
            gap = metrics.paired_difference(
                metrics.average_precision,
                ours.trace[:, at],
                other.trace[:, at],
                labels.trace[:, at],
                labels.trace_groups,
                draws=draws,
            )
            store[f"{tag}/{other.name}"] = dataclasses.asdict(gap)
            lines.append(f"| {tag} | {other.name} | {gap} |")
    return "\n".join(lines)


def evaluate_on(
    title: str,
    tagger: Tagger,
    records: Sequence[AnnotatedTrace],
    dev: Sequence[AnnotatedTrace],
    baselines: Baselines,
    *,
    by_scenario: bool,
    draws: int,
    store: dict[str, Any],
) -> str:
    """All tables for one set of traces, as Markdown."""
    labels = labels_of(records, lambda r: r.group)
    ours = our_scores(tagger, records)
    scored = [ours, *baselines.scores(records)]
    limits = [limits_of(tagger)]
    dev_labels = labels_of(dev, lambda r: r.group)
    limits += [thresholds_on_dev(monitor, dev_labels, tagger.point.fpr) for monitor in baselines.scores(dev)]
    store["n_traces"], store["n_sentences"] = len(records), len(labels.sentence)
    sentence, trace = (measured(level, ours, limits[0], labels, draws) for level in LEVELS)
    tables = card_tables(sentence, trace, records, real=not by_scenario)
    parts = [f"## {title}", "", goals_part(tables, real=not by_scenario)]
    parts += ["### All figures, beside two baselines", ""]
    parts += [table(scored, limits, labels, draws, store.setdefault("figures", {})), ""]
    parts += [paired(scored, labels, draws, store.setdefault("paired", {})), ""]
    parts += [stance_share(tables), "", hard_negatives_part(tables), breakdowns_part(tables)]
    parts += [unfamiliar_part(tagger, records)]
    store |= tables_json(tables)
    return "\n".join(parts)


def own_part(
    split_name: str, tagger: Tagger, records: Sequence[AnnotatedTrace], *, draws: int, store: dict[str, Any]
) -> str:
    """The figures of a checkpoint with a taxonomy of its own, as Markdown."""
    taxonomy = tagger.checkpoint.taxonomy
    labels, ours = labels_of(records, lambda r: r.group), our_scores(tagger, records)
    store["n_traces"], store["n_sentences"] = len(records), len(labels.sentence)
    levels: dict[str, Sequence[str]] = {"sentence": taxonomy.labels, "trace": taxonomy.tags}
    if not store["n_sentences"]:
        del levels["sentence"]
    shown = table([ours], [limits_of(tagger)], labels, draws, store.setdefault("figures", {}), levels)
    return f"## {split_name} split\n\n{OWN_NOTES[split_name]}\n\n{shown}\n"


def own_card(name: str, taxonomy: Taxonomy) -> str:
    """The model card of a checkpoint with a taxonomy of its own, up to the figures."""
    lines = [f"# {name}", "", "A checkpoint of cot_probe with tags of its own. It reads text, not activations.", ""]
    lines += ["| label | a sentence or trace carries it when it |", "|---|---|"]
    lines += [f"| {label} | {taxonomy.definitions[label]} |" for label in taxonomy.labels]
    lines += [f"| {union} | carries {' or '.join(members)} |" for union, members in taxonomy.unions.items()]
    return "\n".join(lines) + "\n\n"


def check_same(tagger: Tagger, annotations: Path) -> None:
    """Refuse annotations of another taxonomy than the checkpoint's."""
    ours, theirs = tagger.checkpoint.taxonomy, taxonomy_in(annotations) or TAXONOMY
    if ours != theirs:
        raise AnnotationError(
            f"{tagger.checkpoint.config.name} has the labels {', '.join(ours.labels)}, {annotations} is labelled with "
            f"{', '.join(theirs.labels)} or defines them otherwise: give the annotations that it was trained on"
        )


def of_cards(records: list[AnnotatedTrace], annotations: Path, cards: str | None) -> list[AnnotatedTrace]:
    """The records whose scenario is of the cards ``FIRST-LAST``; all for None."""
    if cards is None:
        return records
    first, last = (int(part) for part in cards.split("-"))
    rows = [json.loads(line) for line in (annotations / "scenarios.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted = {row["scenario"] for row in rows if first <= row["card"] <= last}
    return [record for record in records if record.group in wanted]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument(
        "--real-dir", type=Path, default=None, help="folder with the texts of annotations/real/dev.jsonl"
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--cards", default=None, help="only scenarios of these cards: FIRST-LAST")
    parser.add_argument("--write", action="store_true", help="write metrics.json and the model card's tables")
    parser.add_argument("--new-card", action="store_true", help="with --write: replace what stands above the tables")
    args = parser.parse_args()
    if args.cards and args.write:
        parser.error("--write is for a whole split: leave --cards out")
    folder = args.checkpoint or default_checkpoint()
    try:
        tagger = load_tagger(folder)
        check_same(tagger, args.annotations)
        chosen = of_cards(load_split(args.annotations, args.split), args.annotations, args.cards)
    except (AnnotationError, CheckpointError) as error:
        raise SystemExit(str(error)) from None
    store: dict[str, Any] = {"annotations": annotation_hash(args.annotations), "draws": args.draws}
    parts = [f"annotation set {store['annotations']}, {thresholds_told(tagger)}\n"]
    taxonomy = tagger.checkpoint.taxonomy
    if taxonomy != TAXONOMY:
        parts.append(own_part(args.split, tagger, chosen, draws=args.draws, store=store.setdefault(args.split, {})))
    else:
        real = [] if args.real_dir is None else load_real(args.annotations, text_dir=args.real_dir, require_text=True)
        parts += built_in_parts(args.split, tagger, args.annotations, chosen, real, draws=args.draws, store=store)
    text = "\n".join(parts)
    print(text)
    if args.write:
        write_results(folder, text, store, taxonomy, anew=args.new_card)


def built_in_parts(
    split_name: str,
    tagger: Tagger,
    annotations: Path,
    chosen: Sequence[AnnotatedTrace],
    real: Sequence[AnnotatedTrace],
    *,
    draws: int,
    store: dict[str, Any],
) -> list[str]:
    """All tables of a checkpoint with the built-in taxonomy: one split, and the real traces where at hand."""
    dev, baselines = load_split(annotations, "dev"), Baselines(load_split(annotations, "train"))
    sets = [(split_name, f"{split_name} split (scenarios not in training)", chosen)]
    if real:
        sets.append(("real", "real traces (annotations/real/dev)", real))
    parts = [
        evaluate_on(
            title,
            tagger,
            records,
            dev,
            baselines,
            by_scenario=key != "real",
            draws=draws,
            store=store.setdefault(key, {}),
        )
        for key, title, records in sets
    ]
    if not real:
        parts.append("real traces: skipped, their texts are not at hand (give --real-dir)\n")
    return parts


def training_minutes(folder: Path) -> float:
    """Wall time of the runs that made the checkpoint, in minutes, from their histories; nan where there are none."""
    history = folder / HISTORY_FILE
    if not history.is_file():
        return float("nan")
    last = json.loads(history.read_text())
    return sum(epoch["seconds"] for run in [*last.get("before", []), last] for epoch in run["epochs"]) / 60


def card_head(folder: Path, taxonomy: Taxonomy, *, anew: bool = False) -> str:
    """The card's fixed text: what stands above the tables already, which people edit, or else (or ``anew``) a new one."""
    card = folder / "README.md"
    before, mark, _ = (card.read_text() if card.is_file() else "").partition("\n# Figures\n")
    if mark and not anew:
        return before + "\n"
    if taxonomy != TAXONOMY:
        return own_card(folder.name, taxonomy)
    minutes = training_minutes(folder)
    blanks = {"{name}": folder.name, "{minutes}": f"{minutes:.0f}", "{kwh}": f"{minutes / 60 * KILOWATTS:.2f}"}
    head = (Path(__file__).parent / "model_card.md").read_text()
    for blank, filled in blanks.items():
        head = head.replace(blank, "an unknown number of" if filled == "nan" else filled)
    return head


def write_results(
    folder: Path, text: str, store: dict[str, Any], taxonomy: Taxonomy = TAXONOMY, *, anew: bool = False
) -> None:
    """metrics.json, and the model card: its fixed text, then the tables."""
    (folder / "metrics.json").write_text(json.dumps(store, indent=1) + "\n")
    head = card_head(folder, taxonomy, anew=anew)
    (folder / "README.md").write_text(f"{head}# Figures\n\nMade by `python training/evaluate.py --write`.\n\n{text}")
    write_manifest(folder)


if __name__ == "__main__":
    main()
