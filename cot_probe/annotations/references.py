"""Texts of the real traces: fetched from where they are public, checked by hash.

``annotations/real`` holds repository, commit, path and a locator. A locator says in words where in
the file the reasoning stands ("line 9, result.reasoning_trace"); ``LOCATORS`` lists the forms and how each
is read. Some forms leave room (counting from 0 or 1, outer white space): every candidate is tried,
and only a text whose SHA-256 is the recorded one is taken.
"""

import hashlib
import io
import json
import re
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PUBLIC: Final = "https://raw.githubusercontent.com"
MAX_BYTES: Final = 400_000_000
"""No larger file is read, fetched or unpacked: sources are other people's and may change hands."""


class ReferenceError(ValueError):
    """A text that could not be had; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where the text of a real trace stands."""

    id: str
    repo: str
    commit: str
    path: str
    locator: str
    start: int | None
    end: int | None
    sha256: str
    license: str

    @property
    def address(self) -> str:
        """Path of the file below the place of all sources: owner/name/commit/path."""
        return f"{self.repo.split(' (')[0]}/{self.commit}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A reference whose text could not be had."""

    id: str
    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.id}: {self.reason} ({self.address})"


def references(path: Path) -> list[Reference]:
    """The references of a file of ``annotations/real``."""
    out = []
    for line, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            stored = json.loads(raw)
            out.append(
                Reference(
                    repo=stored["source_repo"],
                    **{name: stored[name] for name in ("id", "commit", "path", "locator", "sha256", "license")},
                    **{name: stored.get(name) for name in ("start", "end")},
                )
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ReferenceError(f"{path}:{line}: no reference ({error!r})") from None
    return out


def fetch(
    wanted: Sequence[Reference], source: str = PUBLIC, *, timeout: float = 60.0
) -> Iterator[dict[str, Any] | Missed]:
    """Texts of references, one file at a time, each file read once.

    Args:
        wanted: which texts.
        source: where the files are: an http(s) address or a folder, below which they stand as
            ``owner/name/commit/path``.
        timeout: seconds for one request.

    Yields:
        ``id``, ``sha256`` and ``text`` of each text whose hash is right, else a ``Missed``.
    """
    by_file: dict[str, list[Reference]] = {}
    for reference in wanted:
        by_file.setdefault(reference.address, []).append(reference)
    for address, chosen in by_file.items():
        try:
            data = _read(source, address, timeout)
        except ReferenceError as error:
            yield from (Missed(id=r.id, address=address, reason=str(error)) for r in chosen)
            continue
        document = Document(data)
        for reference in chosen:
            try:
                text = text_at(document, reference)
            except ReferenceError as error:
                yield Missed(id=reference.id, address=address, reason=str(error))
            else:
                yield {"id": reference.id, "sha256": reference.sha256, "text": text}


def _read(source: str, address: str, timeout: float) -> bytes:
    if not source.startswith(("http://", "https://")):
        path = Path(source, address)
        if not path.resolve().is_relative_to(Path(source).resolve()):
            raise ReferenceError("the path leaves the folder of sources")
        if not path.is_file():
            raise ReferenceError(f"no file {path}")
        if path.stat().st_size > MAX_BYTES:
            raise ReferenceError(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")
        return path.read_bytes()
    url = f"{source.rstrip('/')}/{urllib.parse.quote(address)}"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            data: bytes = answer.read(MAX_BYTES + 1)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise ReferenceError(f"{url}: {error}") from None
    if len(data) > MAX_BYTES:
        raise ReferenceError(f"{url}: more than {MAX_BYTES} bytes")
    return data


class Document:
    """A source file, parsed at most once in each way that locators ask for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._members: dict[str, Document] = {}
        self._json: Any = None

    @property
    def text(self) -> str:
        """The file as text."""
        return self._data.decode("utf-8", "replace")

    def line(self, number: int) -> Any:
        """One line of a JSONL file, from 0."""
        lines = self._data.split(b"\n")
        return json.loads(lines[number])

    def json(self) -> Any:
        """The file as JSON; JSON assigned to a JavaScript name is read too."""
        if self._json is None:
            text = self.text
            script = re.match(r"\s*(?:export default|(?:const|var|let|window\.\w+)\s*\w*\s*=)\s*", text)
            self._json = json.loads(text[script.end() :].rstrip().rstrip(";") if script else text)
        return self._json

    def member(self, name: str) -> "Document":
        """A file inside a zip archive; Inspect's ``.eval`` logs are such archives."""
        if name not in self._members:
            with zipfile.ZipFile(io.BytesIO(self._data)) as archive:
                found = [n for n in archive.namelist() if n == name or n.endswith("/" + name)]
                if not found or archive.getinfo(found[0]).file_size > MAX_BYTES:
                    raise KeyError(name)
                self._members[name] = Document(archive.read(found[0]))
        return self._members[name]


def text_at(document: Document, reference: Reference) -> str:
    """The text that a reference means.

    Raises:
        ReferenceError: if the locator's form is unknown, the place is not there, or no candidate
            has the recorded hash.
    """
    read, found = _form(reference.locator)
    try:
        candidates = [text for text in read(document, found) if isinstance(text, str)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ReferenceError(f"nothing at {reference.locator!r} ({type(error).__name__}: {error})") from None
    for whole in candidates:
        for text in (whole, whole.strip()):
            cut = text if reference.start is None else text[reference.start : reference.end]
            for candidate in (cut, cut.strip()):
                if _digest(candidate) == reference.sha256:
                    return candidate
    raise ReferenceError(f"the text at {reference.locator!r} has not the recorded SHA-256 {reference.sha256[:12]}")


def _form(locator: str) -> tuple["Read", "Found"]:
    for pattern, read in LOCATORS:
        found = re.fullmatch(pattern, locator, re.DOTALL)
        if found:
            return read, found
    raise ReferenceError(f"locator {locator!r} has no known form: take the text by hand")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


Found = re.Match[str]
Read = Callable[[Document, Found], Iterable[Any]]


def walk(value: Any, path: str) -> Any:
    """Follow a path such as ``rounds[12].play_history[2].play_thinking`` into parsed JSON."""
    for name, index, quoted in re.findall(r"([\w-]+)|\[(\d+)\]|\[\"([^\"]*)\"\]", path):
        value = value[int(index)] if index else value[quoted or name]
    return value


def _lines(document: Document, found: Found) -> Iterator[Any]:
    """A line of a JSONL file, counted from 0 or 1, then a path."""
    for number in (int(found["n"]), int(found["n"]) - 1):
        try:
            yield document.line(number), found
        except (IndexError, ValueError):
            continue


def _line_path(document: Document, found: Found) -> Iterator[str]:
    for value, _ in _lines(document, found):
        try:
            text = walk(value, found["path"])
        except (KeyError, IndexError, TypeError):
            continue
        tag = found.groupdict().get("tag")
        yield from _inside(text, tag) if tag else [text]


def _line_tokens(document: Document, found: Found) -> Iterator[str]:
    for value, _ in _lines(document, found):
        if isinstance(value.get("tokens"), list):
            yield "".join(value["tokens"])


def _inside(text: str, tag: str) -> Iterator[str]:
    """What stands inside a tag; an end tag may be missing."""
    for match in re.finditer(rf"<{tag}>(.*?)(?:</{tag}>|$)", text, re.DOTALL):
        yield match[1]
    if f"</{tag}>" in text:
        yield text.split(f"</{tag}>")[0]


def _json_path(document: Document, found: Found) -> Iterator[str]:
    yield walk(document.json(), found["path"])


def _list_field(document: Document, found: Found) -> Iterator[str]:
    text = walk(document.json()[int(found["n"])], found["path"])
    tag, before = found.groupdict().get("tag"), found.groupdict().get("before")
    if tag:
        yield from _inside(text, tag)
    elif before:
        yield text.split(before)[0]
    else:
        yield text


def _zip_list(document: Document, found: Found) -> Iterator[str]:
    item = document.member(found["member"]).json()[int(found["n"])]
    for name in found["path"].split("/"):
        if name in item:
            yield item[name]


def _think_call(document: Document, found: Found) -> Iterator[str]:
    call = walk(document.json(), found["path"])
    arguments = call["function"]["arguments"]
    yield (json.loads(arguments) if isinstance(arguments, str) else arguments)["thought"]


def _message(document: Document, found: Found) -> Iterator[str]:
    value = walk(document.json(), found["path"])
    yield from [value] if isinstance(value, str) else (value.get(key) for key in ("content", "thinking", "text"))


def _step_thought(document: Document, found: Found) -> Iterator[str]:
    turns = document.json()
    for turn in turns["turns"] if isinstance(turns, Mapping) else turns:
        if turn.get("step") == int(found["n"]):
            yield turn.get("thought")


def _user_turn(document: Document, found: Found) -> Iterator[str]:
    """All thought blocks after the n-th user message of a SpecStory log, joined."""
    turns = re.split(r"^_\*\*User\b[^\n]*\*\*_\s*$", document.text, flags=re.MULTILINE)
    block = r"<think><details><summary>Thought Process</summary>(.*?)</details></think>"
    for number in (int(found["n"]), int(found["n"]) + 1):
        if number < len(turns):
            thoughts = [thought.strip() for thought in re.findall(block, turns[number], re.DOTALL)]
            yield from ("\n\n".join(thoughts), "\n".join(thoughts))


def _episode(document: Document, found: Found) -> Iterator[str]:
    """The lines "Thought n: …" of an episode of a ReAct log."""
    episodes = document.text.split("Question: ")
    for number in (int(found["n"]), int(found["n"]) + 1):
        if number < len(episodes):
            thoughts = [t.strip() for t in re.findall(r"^Thought \d+: ?(.*)$", episodes[number], re.MULTILINE)]
            yield from ("\n".join(thoughts), "\n\n".join(thoughts))


def _notebook(document: Document, _: Found) -> Iterator[str]:
    cells = ["".join(c["source"]) for c in document.json()["cells"] if c["cell_type"] == "markdown"]
    thoughts = [c.removeprefix("**Thought**:").strip() for c in cells if c.startswith("**Thought**:")]
    yield from ("\n\n".join(thoughts), "\n".join(thoughts))


def _autogpt(document: Document, found: Found) -> Iterator[str]:
    parts = []
    for message in walk(document.json(), found["path"]):
        content = message["content"]
        content = json.loads(content) if isinstance(content, str) else content
        thoughts = content.get("thoughts") if isinstance(content, Mapping) else None
        if isinstance(thoughts, Mapping):
            names = ("text", "reasoning", "plan", "criticism")
            parts.append("\n".join(f"{name}: {thoughts[name]}" for name in names if thoughts.get(name)))
    yield from ("\n\n".join(parts), "\n".join(parts))


def _run_log(document: Document, found: Found) -> Iterator[str]:
    blocks = re.findall(r"STEP (\d+) REASONING TRACES[^\n]*\n(.*?)(?=\n=+\n|\nSTEP \d+ |\Z)", document.text, re.DOTALL)
    number = found.groupdict().get("n")
    chosen = [text.strip().strip("=").strip() for step, text in blocks if number in {None, step}]
    yield from ("\n\n".join(chosen), "\n".join(chosen))


def _think_file(document: Document, _: Found) -> Iterator[str]:
    yield from _inside(document.text, "think")


def _eval_messages(document: Document, found: Found) -> Iterator[str]:
    """Assistant messages of a sample of an Inspect log, joined."""
    parts = []
    for message in document.member(found["member"]).json()["messages"]:
        if message["role"] == "assistant":
            content = message["content"]
            parts.append(content if isinstance(content, str) else "\n".join(c.get("text", "") for c in content))
    yield from ("\n\n".join(parts), "\n".join(parts))


def _eval_event(document: Document, found: Found) -> Iterator[str]:
    """Reasoning parts of a model event of a sample of an Inspect log; attachments resolved."""
    sample = document.member(found["member"]).json()
    attachments = sample.get("attachments") or {}
    events = sample["events"]
    models = [event for event in events if event.get("event") == "model"]
    for event in (events[int(found["n"])], *(models[n : n + 1] for n in (int(found["n"]), int(found["n"]) - 1))):
        for one in event if isinstance(event, list) else [event]:
            choices = (one.get("output") or {}).get("choices") or []
            content = choices[0]["message"]["content"] if choices else []
            parts = [
                attachments.get(str(part[kind]).removeprefix("attachment://"), part[kind])
                for part in (content if isinstance(content, list) else [{"type": "text", "text": content}])
                for kind in ("reasoning", "text")
                if part.get("type") == kind and not part.get("redacted")
            ]
            yield from ("\n\n".join(parts), *parts)


def _thinking_blocks(document: Document, _: Found) -> Iterator[str]:
    parts = []
    for message in document.json()["conversation"]:
        if message.get("role") == "assistant":
            blocks = [block["thinking"] for block in message.get("thinking_blocks") or []]
            parts += blocks or [message["content"]]
    yield from ("\n\n".join(parts), "\n".join(parts))


_INDEX: Final = r"(?P<path>(?:[\w.-]|\[\d+\])+)"
LOCATORS: Final[tuple[tuple[str, Read], ...]] = (
    (r'line (?P<n>\d+): "".join\(tokens\)', _line_tokens),
    (r"line (?P<n>\d+), (?P<path>\w+) inside <(?P<tag>\w+)>", _line_path),
    (r"line (?P<n>\d+)(?:\.|, (?:field )?)(?P<path>[\w.\[\]]+)", _line_path),
    (r"list index (?P<n>\d+), field (?P<path>\w+), inside <(?P<tag>\w+)>", _list_field),
    (r'list index (?P<n>\d+), (?P<path>[\w\[\]]+), text before "(?P<before>[^"]+)"', _list_field),
    (r"list index (?P<n>\d+), field (?P<path>\w+)", _list_field),
    (r"(?P<member>[^,]+\.json), list index (?P<n>\d+), field (?P<path>[\w/]+)", _zip_list),
    (rf"{_INDEX} function think, argument thought", _think_call),
    (r"conversation\[role=assistant\]\.thinking_blocks.*", _thinking_blocks),
    (r"(?P<path>conversation\[\d+\])", _message),
    (r"turns\[step=(?P<n>\d+)\]\.thought", _step_thought),
    (r"user turn (?P<n>\d+): <think>.*", _user_turn),
    (r"episode (?P<n>\d+) .*", _episode),
    (r"notebook markdown cells .*", _notebook),
    (r'(?P<path>(?:\["[^"]*"\])+)\[\*\]\.content -> .*', _autogpt),
    (r"run\.log STEP (?P<n>\d+) REASONING TRACES", _run_log),
    (r"run\.log: every .*", _run_log),
    (r"whole file: text between <think> and </think>", _think_file),
    (r"(?P<member>samples/[^:]+\.json): messages\[role=assistant\]\.content joined", _eval_messages),
    (r"(?P<member>samples/\S+\.json) model event (?P<n>\d+) .*", _eval_event),
    (_INDEX, _json_path),
)
"""Forms of locators (full matches, first wins) and how each is read."""
