"""Passages set into real traces: our sentences in the voice, and at the place, where a model might have thought them.

Nearly every real training trace is innocent, so a monitor learns that the sound of real reasoning is the sound of
innocence. ``annotations/passages.jsonl`` undoes that with pairs: one variant of a real trace has a harmful,
disobedient or aware passage set in, its twin an innocent one at the same place. A record holds the passages alone,
with the place of each in a base trace that ``annotations/real`` references; the text of the base is not stored.
Labels are those of the composed text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cot_probe.annotations.records import AnnotatedTrace, AnnotationError, lines_of, parse_record, texts_by_hash

PASSAGES: Final = "passages.jsonl"
BASES: Final = ("pool", "rest")
"""The files of ``annotations/real`` whose traces may be bases: those of ``dev`` are for evaluation only."""
PHENOMENON: Final = "passage in a real trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """``text`` in place of the characters ``start`` to ``end`` (half-open) of the base; equal where nothing is dropped."""

    start: int
    end: int
    text: str


def composed(base: str, edits: Sequence[Edit]) -> str:
    """The base with all edits made; their offsets are those of the base.

    Raises:
        ValueError: if edits overlap, are out of order, or leave the text.
    """
    parts, at = [], 0
    for edit in edits:
        if not at <= edit.start <= edit.end <= len(base):
            raise ValueError(f"edit {edit.start}..{edit.end} after {at} in a text of {len(base)} characters")
        parts += [base[at : edit.start], edit.text]
        at = edit.end
    return "".join([*parts, base[at:]])


def load_passages(folder: Path, *, text_dir: Path | None = None, require_text: bool = False) -> list[AnnotatedTrace]:
    """Load the composed traces, for training and calibration.

    Args:
        folder: the annotations folder.
        text_dir: a folder of JSONL files that hold the texts of the bases under ``sha256``; without
            it the records have no text.
        require_text: leave out records whose base was not found.

    Returns:
        Records with the base's scenario and split, and its repository as ``source``.

    Raises:
        AnnotationError: with file and line, at the first record that breaks the format.
    """
    path, bases = folder / PASSAGES, bases_in(folder)
    texts = texts_by_hash(text_dir) if text_dir is not None else {}
    found = [read_passage(raw, str(path), line, bases=bases, texts=texts) for line, raw in lines_of(path)]
    return [record for record in found if record.text or not require_text]


def read_passage(
    raw: bytes | str, path: str, line: int, *, bases: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str]
) -> AnnotatedTrace:
    """One record, composed if the text of its base is at hand.

    Args:
        raw: the line.
        path: named in errors.
        line: named in errors.
        bases: see ``bases_in``.
        texts: see ``texts_by_hash``.

    Raises:
        AnnotationError: naming file, line and fault.
    """
    where = f"{path}:{line}"
    try:
        record = json.loads(raw)
        edits = [Edit(start=edit["start"], end=edit["end"], text=edit["text"]) for edit in record["edits"]]
        base = bases.get(record["base"], {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise AnnotationError(f"{where}: no passage ({error!r}): expected an object with base and edits") from None
    if base.get("split") not in {"train", "dev"}:
        raise AnnotationError(
            f"{where}: base {record['base']!r} is not marked train or dev in {' or '.join(BASES)} of annotations/real: "
            "passages go into traces for training and calibration only"
        )
    if not edits:
        raise AnnotationError(f"{where}: no edits: a passage has at least one")
    original = texts.get(base["sha256"], "")
    told = (texts.get("context:" + base["sha256"], ""), record.get("context", ""))
    try:
        text = composed(original, edits) if original else ""
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{where}: {error}") from None
    inherited = {name: base[name] for name in ("scenario", "split", "source_repo")} | {"phenomenon": PHENOMENON}
    context = "\n".join(part for part in told if part) if original else ""
    return parse_record(json.dumps(record | inherited | {"text": text, "context": context}), path, line)


def bases_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of the real traces that passages may be set into, and of their neighbours, by id."""
    files = [folder / "real" / f"{name}.jsonl" for name in BASES]
    rows = [json.loads(raw) for path in files if path.is_file() for _, raw in lines_of(path)]
    return {row["id"]: row for row in rows}
