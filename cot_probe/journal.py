"""What a batch writes down to be able to go on: its journal, the state of its inputs, its settings.

A journal is JSON lines: first the head (schema, settings, inputs), then one line for each
commit with the place reached and the files finished since the commit before. A line that
a kill cut short does not count.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cot_probe.tagger import TaggedTrace

JOURNAL_SCHEMA: Final = "cot_probe.journal/1"


class BatchError(RuntimeError):
    """The batch cannot start or go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the rows depend on besides the inputs: a run is resumed only under the same."""

    checkpoint: str
    fpr: float | None
    thresholds: Mapping[str, float]
    tags: tuple[str, ...]
    labels: tuple[str, ...]
    bf16: bool = False
    backend: str = "torch"
    format: str | None = None
    column: str | None = None
    all_sentences: bool = True
    context: bool = True


@dataclass(slots=True)
class Tally:
    """What was seen in a file, or in all."""

    traces: int = 0
    sentences: int = 0
    tokens: int = 0
    unfamiliar: int = 0
    rejected: int = 0
    passed: int = 0
    tags: Counter[str] = field(default_factory=Counter)
    visibility: Counter[str] = field(default_factory=Counter)

    def add(self, tagged: "TaggedTrace") -> None:
        """Count one trace."""
        self.traces += 1
        self.sentences += len(tagged.sentences)
        self.tokens += tagged.n_tokens
        self.unfamiliar += tagged.unfamiliar is not None
        self.passed += tagged.passed
        self.tags.update(tagged.tags)
        self.visibility[tagged.visibility] += 1

    def merge(self, other: "Tally") -> None:
        """Count all that ``other`` counted."""
        for name in ("traces", "sentences", "tokens", "unfamiliar", "rejected", "passed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.tags.update(other.tags)
        self.visibility.update(other.visibility)

    @property
    def coverage(self) -> float | None:
        """Share of the traces whose reasoning could be read, in full or as a summary; None without traces."""
        return (self.visibility["full"] + self.visibility["summary"]) / self.traces if self.traces else None

    def as_dict(self) -> dict[str, Any]:
        """For the journal and the manifest."""
        plain = {name: getattr(self, name) for name in ("traces", "sentences", "tokens", "unfamiliar", "rejected")}
        plain |= {"passed": self.passed} if self.passed else {}
        return plain | {"tags": dict(sorted(self.tags.items())), "visibility": dict(sorted(self.visibility.items()))}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Tally":
        """Read what :meth:`as_dict` wrote."""
        counts = {name: int(record[name]) for name in ("traces", "sentences", "tokens", "unfamiliar", "rejected")}
        counts["passed"] = int(record.get("passed", 0))
        return cls(**counts, tags=Counter(record["tags"]), visibility=Counter(record["visibility"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """A file as it stood on the disk: told apart by size and time of change, at the end by content."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState | None":
        """The state of a file now; None where there is none to read."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(size=found.st_size, changed_ns=found.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a run has come: the file and the items read of it, and the sizes of what is written."""

    file: int = 0
    items: int = 0
    rows: int = 0
    bytes: int = 0
    rejected_bytes: int = 0


def beside(output: Path, ending: str) -> Path:
    """A file that belongs to ``output``: ``beside(out, "journal")`` is ``OUT.journal``."""
    return output.with_name(f"{output.name}.{ending}")


def json_line(record: Mapping[str, object]) -> bytes:
    """One JSON record as a line; lone surrogates, which UTF-8 cannot hold, are escaped."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode("ascii") + b"\n"


def journal_lines(path: Path) -> list[bytes]:
    """The whole lines of a journal; a last one that a kill cut short is not one."""
    lines = path.read_bytes().split(b"\n")[:-1]
    whole: list[bytes] = []
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            break
        whole.append(line + b"\n")
    return whole


def open_at(path: Path, size: int) -> IO[bytes]:
    """Open for writing at ``size``: what stands behind was never committed."""
    stream = path.open("r+b" if path.exists() else "w+b")
    stream.seek(0, os.SEEK_END)
    if stream.tell() < size:
        stream.close()
        raise BatchError(f"{path} is shorter than its journal says: it was changed. Begin anew with --restart")
    stream.truncate(size)
    stream.seek(size)
    return stream


def append(stream: IO[bytes], lines: Sequence[bytes]) -> None:
    """Write lines so that they are on the disk when this returns."""
    if lines:
        stream.write(b"".join(lines))
        stream.flush()
        os.fsync(stream.fileno())


def promote(partial: Path, final: Path) -> None:
    """Give a file its final name; nothing happens where that was done before."""
    if partial.exists():
        os.replace(partial, final)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = beside(path, "partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def sha256_of(path: Path) -> str | None:
    """Hash of a file's content; None where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def check_same(found: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another schema, other settings or other inputs.

    Raises:
        BatchError: that says what differs.
    """
    if found.get("schema") != head["schema"]:
        raise BatchError(
            f"the earlier run was written as {found.get('schema')}, this version writes {head['schema']}: "
            "begin anew with --restart"
        )
    for key, value in head["settings"].items():
        if found["settings"].get(key) != value:
            raise BatchError(
                f"the earlier run had {key} {found['settings'].get(key)}, this one has {value}: "
                "run it with the same, or begin anew with --restart"
            )
    if found["inputs"] != head["inputs"]:
        new, gone = set(head["inputs"]) - set(found["inputs"]), set(found["inputs"]) - set(head["inputs"])
        first = min(new or gone, default="their order")
        raise BatchError(
            f"the inputs have changed since the earlier run: {len(new)} new, {len(gone)} gone (first: {first}). "
            "Begin anew with --restart, or give the new ones an output of their own"
        )


def check_unchanged(entry: Mapping[str, Any]) -> None:
    """Size and time of change as they were; where only the time differs, the content decides."""
    path = Path(entry["path"])
    now, then = FileState.of(path), entry["state"] and FileState(**entry["state"])
    same = now == then or (
        now is not None and then is not None and now.size == then.size and sha256_of(path) == entry["sha256"]
    )
    if not same:
        raise BatchError(f"{path} has changed since the earlier run read it: begin anew with --restart")
