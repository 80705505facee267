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

from cot_probe.annotations.records import (
    AnnotatedTrace,
    AnnotationError,
    lines_of,
    parse_record,
    taxonomy_in,
    texts_by_hash,
)

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
    """Load the composed traces: those of train for training, those of dev for calibration and ``training/pairs.py``.

    Args:
        folder: the annotations folder.
        text_dir: a folder of JSONL files that hold the texts of the bases under ``sha256``; without
            it the records have no text.
        require_text: leave out records whose base was not found.

    Returns:
        Records with the base's scenario and split, and its repository as ``source``.

    Raises:
        AnnotationError: if the folder has none or a taxonomy of its own, else with file and line, at the
            first record that breaks the format.
    """
    path = folder / PASSAGES
    if not path.is_file():
        raise AnnotationError(f"{path} does not exist: give the annotations folder of a clone")
    if taxonomy_in(folder) is not None:
        raise AnnotationError(f"{path}: passages are labelled with the built-in taxonomy, {folder} has one of its own")
    bases = bases_in(folder)
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
        base = bases.get(record["base"], {})
        edits = [_edit(number, edit) for number, edit in enumerate(record["edits"])]
        _in_order(edits)
    except (KeyError, TypeError) as error:
        raise AnnotationError(f"{where}: no passage ({error!r}): expected an object with base and edits") from None
    except ValueError as error:  # JSON and UTF-8 too
        raise AnnotationError(f"{where}: {error}") from None
    if base.get("split") not in {"train", "dev"}:
        raise AnnotationError(
            f"{where}: base {record['base']!r} is not marked train or dev in {' or '.join(BASES)} of annotations/real: "
            "passages go into traces for training and calibration only"
        )
    told = record.get("context", "")
    if not isinstance(told, str):
        raise AnnotationError(f"{where}: context is {told!r}, expected what is added to what the model was told")
    original = texts.get(base["sha256"], "")
    try:
        text = composed(original, edits) if original else ""
    except ValueError as error:
        raise AnnotationError(f"{where}: {error}: these edits are of another text") from None
    parts = (texts.get("context:" + base["sha256"], ""), told)
    inherited = {name: base[name] for name in ("scenario", "split", "source_repo")} | {"phenomenon": PHENOMENON}
    context = "\n".join(part for part in parts if part) if original else ""
    return parse_record(json.dumps(record | inherited | {"text": text, "context": context}), path, line)


def bases_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of the real traces that passages may be set into, and of their neighbours, by id.

    A faulty line is left out (``check`` names it), and a passage that needs it is then refused.
    """
    files = [folder / "real" / f"{name}.jsonl" for name in BASES]
    found = {}
    for raw in (raw for path in files if path.is_file() for _, raw in lines_of(path)):
        try:
            row = json.loads(raw)
        except ValueError:
            continue
        if isinstance(row, dict) and {"id", "scenario", "split", "source_repo", "sha256"} <= set(row):
            found[row["id"]] = row
    return found


def _edit(number: int, raw: Mapping[str, Any]) -> Edit:
    edit = Edit(start=raw["start"], end=raw["end"], text=raw["text"])
    if not (type(edit.start) is type(edit.end) is int and isinstance(edit.text, str)):
        raise ValueError(f"edits[{number}] is {dict(raw)}, expected whole numbers start and end, and a text")
    return edit


def _in_order(edits: Sequence[Edit]) -> None:
    """Refuse edits that no text could take."""
    if not edits:
        raise ValueError("no edits: a passage has at least one")
    at = 0
    for number, edit in enumerate(edits):
        if not at <= edit.start <= edit.end:
            raise ValueError(f"edits[{number}] is {edit.start}..{edit.end}, expected start <= end, from {at} on")
        at = edit.end
