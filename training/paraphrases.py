"""Training traces beside the same in other words (``annotations/robustness/train_*.jsonl``)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import DatasetDict

from augment import Example, plain
from cot_probe.base import load_tokenizer
from cot_probe.tokens import token_reader

Pair = tuple[Example, Example]
"""A trace and its paraphrase, sentence by sentence."""


@dataclass(frozen=True, slots=True)
class Tellings:
    """Pairs that are learnt from, and those that are measured."""

    learnt: Sequence[Pair] = ()
    held_out: Sequence[Pair] = ()


def paraphrase_pairs(path: Path, data: DatasetDict, base: str) -> list[Pair]:
    """Each paraphrase beside its original, both without changes, in the order of the file.

    Raises:
        SystemExit: where one has no original in the training split, or another number of sentences.
    """
    ids_of, rows = token_reader(load_tokenizer(base)), {row["id"]: row for row in data["train"].to_list()}
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        said = json.loads(line)
        row = rows.get(said["of"])
        if row is None or len(row["sentences"]) != len(said["sentences"]):
            found = "no training trace" if row is None else f"a training trace of {len(row['sentences'])} sentences"
            raise SystemExit(f"{path}:{number}: {len(said['sentences'])} sentences of {said['of']!r}, which is {found}")
        original = plain(row)
        pairs.append((original, replace(original, sentences=ids_of(said["sentences"]))))
    return pairs


def tellings(paths: Sequence[Path], data: DatasetDict, base: str) -> Tellings:
    """The last quarter of the first file is held out, all else is to learn from."""
    if not paths:
        return Tellings()
    first, *more = (paraphrase_pairs(path, data, base) for path in paths)
    at = len(first) * 3 // 4
    return Tellings(learnt=[*first[:at], *(pair for pairs in more for pair in pairs)], held_out=first[at:])
