"""The folder of a run over Ray: which input file is which part, and where what is written.

::

    OUT/part-00000.jsonl            the rows of one input file (.parquet where OUT ends in .parquet)
    OUT/_rejected/part-00000.jsonl  what of it could not be read, if anything
    OUT/_done/part-00000.json       the input, its SHA-256 and its figures; written last: it commits the part
    OUT/_run.json                   settings, and the inputs in the order of their part numbers
    OUT/_manifest.json              at the end: what went in, what came out, what failed
    OUT/_tries/part-00000.json      while it runs: how many workers have begun the file
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cot_probe.journal import BatchError, Settings, check_same
from cot_probe.storage import Folder, StoredFile, files_at
from cot_probe.transcripts import Rejection

SCALE_SCHEMA: Final = "cot_probe.scale/1"
_PART: Final = re.compile(r"part-\d{5,}\.(?:jsonl|parquet)")
MANIFEST: Final = "_manifest.json"
RUN: Final = "_run.json"
DONE: Final = "_done"
REJECTED: Final = "_rejected"
TRIES: Final = "_tries"
"""Names in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One input file and its number, which names what it becomes."""

    number: int
    file: StoredFile

    @property
    def stem(self) -> str:
        """``part-00000``."""
        return f"part-{self.number:05}"


def input_parts(paths: Iterable[str]) -> tuple[list[Part], list[Rejection]]:
    """The files that ``paths`` name, in order and numbered, and the paths that name none.

    Raises:
        BatchError: if a file is named twice, or a URL cannot be opened.
    """
    parts: list[Part] = []
    missing = []
    for path in paths:
        found = files_at(path)
        if not found:
            missing.append(Rejection(path=path, reason="no such file, and no file matches it as a glob pattern"))
        parts += [Part(number=number, file=file) for number, file in enumerate(found, start=len(parts))]
    twice = [place for place, count in Counter(part.file.place for part in parts).items() if count > 1]
    if twice:
        raise BatchError(f"{twice[0]} is among the inputs twice: name each file, or the folder that holds it, once")
    return parts, missing


def planned(folder: Folder, inputs: Sequence[Part], settings: Settings, *, restart: bool = False) -> list[Part]:
    """Number the inputs as the earlier run into this folder did, new ones after them, and write that down.

    Raises:
        BatchError: if that run had other settings, or inputs that are not among these.
    """
    inside = next((part.file.name for part in inputs if part.file.place.startswith(folder.url + "/")), None)
    if inside is not None:
        raise BatchError(f"{inside} lies in the output folder: give an output outside the inputs")
    if restart:
        for name in folder.names():
            if _PART.fullmatch(name) or name in {MANIFEST, RUN, DONE, REJECTED}:
                folder.remove(name)
    head = {
        "schema": SCALE_SCHEMA,
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "inputs": [part.file.name for part in inputs],
    }
    earlier = folder.read(RUN)
    if earlier is not None:
        check_same(earlier | {"inputs": head["inputs"]}, head)
    elif any(map(_PART.fullmatch, folder.names())):
        raise BatchError(f"{folder.url} holds parts, but not of a run of this kind: give another output folder")
    before = earlier["inputs"] if earlier else []
    gone = sorted(set(before) - set(head["inputs"]))
    if gone:
        raise BatchError(
            f"{folder.url} holds parts of {len(gone)} inputs that are not among these (first: {gone[0]}): "
            "name them too, or begin anew with --restart"
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*before, *head["inputs"]]))}
    folder.remove(TRIES)
    folder.make(["", DONE, REJECTED, TRIES])
    folder.write(RUN, head | {"inputs": list(numbers)})
    return [dataclasses.replace(part, number=numbers[part.file.name]) for part in inputs]
