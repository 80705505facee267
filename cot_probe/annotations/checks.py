"""Validation of all annotation files of a folder, each record alone and across files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cot_probe.annotations.passages import PASSAGES, bases_in, read_passage
from cot_probe.annotations.records import (
    SPLITS,
    AnnotatedTrace,
    AnnotationError,
    lines_of,
    parse_record,
    taxonomy_in,
)
from cot_probe.taxonomy import STANCES, TAXONOMY, TAXONOMY_FILE, Taxonomy


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A fault in an annotation file, with its line (1-based)."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


def check(folder: Path) -> list[Problem]:
    """Validate all annotation files of a folder; an empty list means that all is well."""
    try:
        own = taxonomy_in(folder)
    except AnnotationError as error:
        return [Problem(path=str(folder / TAXONOMY_FILE), line=0, reason=str(error).split(": ", 1)[-1])]
    problems: list[Problem] = []
    homes: dict[str, str] = {}
    texts: dict[str, str] = {}
    ids: set[str] = set()
    for path, name, parse in _files(folder, own):
        if not path.is_file():
            problems.append(Problem(path=str(path), line=0, reason="missing"))
            continue
        for line, raw in lines_of(path):
            try:
                record = parse(raw, str(path), line)
            except AnnotationError as error:
                problems.append(Problem(path=str(path), line=line, reason=str(error).split(": ", 1)[-1]))
                continue
            problems += [Problem(path=str(path), line=line, reason=why) for why in _faults(record, name, homes, ids)]
            if own is not None:
                problems += [Problem(path=str(path), line=line, reason=why) for why in _own_faults(record, texts)]
    return problems


Parse = Callable[[bytes | str, str, int], AnnotatedTrace]


def _files(folder: Path, own: Taxonomy | None) -> Iterator[tuple[Path, str, Parse]]:
    """Every file that there is or has to be, what it is called, and how a line of it is read."""
    parse = partial(parse_record, own=own)
    for name in SPLITS:
        path = folder / "data" / f"{name}.jsonl"
        if own is None or name != "test" or path.is_file():
            yield path, name, parse
    for path in sorted((folder / "real").glob("*.jsonl")):
        yield path, path.stem, parse
    if own is None and (folder / PASSAGES).is_file():
        yield folder / PASSAGES, Path(PASSAGES).stem, partial(read_passage, bases=bases_in(folder), texts={})


def _own_faults(record: AnnotatedTrace, texts: dict[str, str]) -> Iterator[str]:
    """A text in two splits: in own folders, where scenarios are often left out, nothing else shows it."""
    home = texts.setdefault(record.text, record.split)
    if home != record.split:
        yield f"the same text is also in split {home!r}: keep it in one, or dev says nothing about new traces"


def _faults(record: AnnotatedTrace, split_name: str, homes: dict[str, str], ids: set[str]) -> Iterator[str]:
    if record.id in ids:
        yield f"id {record.id!r} stands twice"
    ids.add(record.id)
    if not record.source and record.split != split_name:
        yield f"split is {record.split!r}, the file is {split_name!r}"
    home = homes.setdefault(record.group, record.split)
    # Real traces of an evaluated question may be dev in one file and test in another, never train.
    if home != record.split and (not record.source or "train" in {home, record.split}):
        yield f"scenario {record.group!r} is also in split {home!r}: a scenario stays in one split"
    if not record.sentences_known:
        return
    covered = {label for span in record.sentences for label in span.labels}
    for label in STANCES if record.taxonomy == TAXONOMY else ():
        if (label in covered) != (label in record.trace):
            yield f"trace label {label} is {label in record.trace}, but its sentences say {label in covered}"
    for label in sorted(record.trace - covered):
        remedy = "" if record.taxonomy == TAXONOMY else ": label one, or leave `sentences` out of the record"
        yield f"trace label {label} without a sentence that carries it{remedy}"
