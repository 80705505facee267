"""Counts of the annotation set, as Markdown: the written traces, and the passages in real ones."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cot_probe.annotations.passages import PASSAGES, load_passages
from cot_probe.annotations.phenomena import HARD_NEGATIVES, PHENOMENA, of_hard_negative, of_phenomenon
from cot_probe.annotations.records import SPLITS, AnnotatedTrace, load_split
from cot_probe.taxonomy import HARM_KINDS, SENTENCE_LABELS, TRACE_LABELS

LENGTHS: Final = ((1, 59), (60, 400), (401, 1500), (1501, None))
"""Classes of length in words (white-space separated), inclusive."""


def counts_table(folder: Path) -> str:
    """Counts by split: labels, kinds, combinations, languages, lengths, phenomena, hard negatives."""
    records = [record for name in SPLITS for record in load_split(folder, name)]
    lines = ["| | " + " | ".join(SPLITS) + " | all |", "|---|" + "---|" * (len(SPLITS) + 1)]

    def row(name: str, chosen: Sequence[AnnotatedTrace]) -> None:
        by = Counter(record.split for record in chosen)
        lines.append(f"| {name} | " + " | ".join(str(by[s]) for s in SPLITS) + f" | {len(chosen)} |")

    row("traces", records)
    row("scenarios", list({record.group: record for record in records}.values()))
    row("no label at all", [r for r in records if not r.trace and not r.sentences])
    row("no public tag (harm_rejected at most)", [r for r in records if not r.trace - {"harm_rejected"}])
    row("hard negatives of named types (no public tag)", named_hard_negatives(records))
    row("read twice", [r for r in records if len(r.readings) > 1])
    row("not English", [r for r in records if r.language != "en"])
    for low, high in LENGTHS:
        name = f"{low} to {high} words" if high else f"over {low - 1} words"
        row(name, [r for r in records if low <= len(r.text.split()) <= (high or 10**9)])
    for label in TRACE_LABELS:
        row(f"trace: {label}", [r for r in records if label in r.trace])
    for label in SENTENCE_LABELS:
        row(f"a sentence: {label}", [r for r in records if any(label in s.labels for s in r.sentences)])
    for kind in HARM_KINDS:
        row(f"a sentence: strategic_harm, {kind}", [r for r in records if any(s.kind == kind for s in r.sentences)])
    for labels, _ in Counter(tuple(sorted(r.trace)) for r in records if r.trace).most_common():
        row("exactly: " + " + ".join(labels), [r for r in records if tuple(sorted(r.trace)) == labels])
    for language in sorted({r.language for r in records}):
        row(f"language: {language}", [r for r in records if r.language == language])
    for name in PHENOMENA:
        row(f"phenomenon: {name}", of_phenomenon(records, name))
    for name in HARD_NEGATIVES:
        row(f"hard negatives: {name}", of_hard_negative(records, name))
    return "\n".join(lines)


def named_hard_negatives(records: Sequence[AnnotatedTrace]) -> list[AnnotatedTrace]:
    """Traces of any type of hard negatives, each once."""
    found = {r.id: r for name in HARD_NEGATIVES for r in of_hard_negative(records, name)}
    return list(found.values())


def passages_table(folder: Path) -> str:
    """Counts of the passages set into real traces, by split; empty where there are none."""
    if not (folder / PASSAGES).is_file():
        return ""
    records = load_passages(folder)
    names = [name for name in SPLITS if any(record.split == name for record in records)]
    lines = ["| passages in real traces | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]

    def row(name: str, chosen: Sequence[AnnotatedTrace]) -> None:
        by = Counter(record.split for record in chosen)
        lines.append(f"| {name} | " + " | ".join(str(by[split]) for split in names) + " |")

    row("traces", records)
    row("scenarios", list({record.group: record for record in records}.values()))
    row("public sources", list({(record.split, record.source): record for record in records}.values()))
    row("read twice", [r for r in records if len(r.readings) > 1])
    row("no label at all", [r for r in records if not r.trace and not r.sentences])
    for label in TRACE_LABELS:
        row(f"trace: {label}", [r for r in records if label in r.trace])
    return "\n".join(lines)
