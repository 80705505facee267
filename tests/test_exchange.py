"""Label Studio round trips with its own SDK, and texts by reference over a real HTTP server."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface
from typer.testing import CliRunner

from cot_probe.annotations import AnnotatedTrace, AnnotationError, load, load_split, parse_record
from cot_probe.annotations.label_studio import labelling_config, read_tasks, record_line, record_of, task_of
from cot_probe.annotations.references import (
    LOCATORS,
    PUBLIC,
    Document,
    Missed,
    Reference,
    ReferenceError,
    fetch,
    references,
    text_at,
    walk,
)
from cot_probe.cli import app

FOLDER = ROOT / "annotations"


@pytest.fixture(scope="module")
def records() -> list[AnnotatedTrace]:
    return load_split(FOLDER, "dev")


def test_label_studio_accepts_configuration_and_tasks(records: list[AnnotatedTrace]) -> None:
    interface = LabelInterface(labelling_config())
    interface.validate()
    for record in records[:40]:
        task = task_of(record)
        assert interface.validate_task({"data": task["data"]}, validate_regions_only=False)
        for annotation in task["annotations"]:
            assert interface.validate_annotation(annotation), record.id
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction | {"score": 0.0}), record.id


def test_export_and_import_give_the_same_records(records: list[AnnotatedTrace], tmp_path: Path) -> None:
    tasks, back, config = tmp_path / "tasks.json", tmp_path / "back.jsonl", tmp_path / "config.xml"
    done = CliRunner().invoke(
        app, ["annotations", "export", str(FOLDER), "--split", "dev", "-o", str(tasks), "--config", str(config)]
    )
    assert done.exit_code == 0 and config.read_text() == labelling_config()
    done = CliRunner().invoke(app, ["annotations", "import", str(tasks), "-o", str(back)])
    assert done.exit_code == 0, done.output
    again = [parse_record(line, "back", at) for at, line in enumerate(back.read_text().splitlines(), start=1)]
    assert again == records
    original = (FOLDER / "data/dev.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in back.read_text().splitlines()] == [json.loads(line) for line in original]


def _utf16(text: str, at: int) -> int:
    return len(text[:at].encode("utf-16-le")) // 2


RECORD: dict[str, Any] = {
    "id": "a-1",
    "scenario": "a",
    "phenomenon": "blackmail",
    "split": "train",
    "language": "en",
    "text": "🙂 Read it. 💼 I lie. Done.",
    "sentences": [{"start": 13, "end": 19, "labels": ["strategic_harm", "command_disobedience"], "kind": "deception"}],
    "trace": ["strategic_harm"],
    "annotators": [],
}


def task(**changes: Any) -> dict[str, Any]:
    return task_of(parse_record(json.dumps(RECORD | changes), "f", 1))


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab. 🙂é漢\n", min_size=3, max_size=40), st.data())
def test_offsets_of_both_kinds_come_back_as_code_points(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    if not text[start:end].strip():
        return
    core = text[start:end]
    first, last = start + len(core) - len(core.lstrip()), end - (len(core) - len(core.rstrip()))
    made = task(text=text, sentences=[{"start": first, "end": last, "labels": ["states_test"]}], trace=["states_test"])
    for region in made["annotations"][0]["result"]:
        if "start" in region["value"]:
            region["value"] |= {"start": _utf16(text, first), "end": _utf16(text, last)}
    (span,) = record_of(made).sentences
    assert text[span.start : span.end].split() == text[first:last].split()


def test_people_who_differ_need_a_decision() -> None:
    both = task()
    (final,) = both["annotations"]
    empty = {"result": [], "completed_by": {"email": "b@example.org"}}
    both["annotations"] = [final | {"ground_truth": False, "completed_by": {"email": "a@example.org"}}, empty]
    with pytest.raises(AnnotationError, match="differ and none is marked"):
        record_of(both)
    both["annotations"][0]["ground_truth"] = True
    record = record_of(both)
    assert [r.annotator for r in record.readings] == ["b@example.org"]
    assert record.sentences[0].kind == "deception"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["annotations"][0]["result"][0]["value"].update(start=1, end=4), "but the text there is"),
        (lambda t: t["annotations"][0]["result"][0]["value"].update(labels=["villainy"]), "villainy"),
        (lambda t: t["annotations"][0]["result"][0].update(from_name="mood"), "control 'mood'"),
        (lambda t: t.update(annotations=[]), "nobody has labelled"),
        (lambda t: t["data"].pop("scenario"), "data lacks scenario"),
        (lambda t: t["data"].pop("text"), "data.text is missing"),
    ],
)
def test_faulty_tasks_are_refused_by_name_and_the_others_kept(change: Any, reason: str, tmp_path: Path) -> None:
    bad = task()
    change(bad)
    (tmp_path / "t.json").write_text(json.dumps([bad, task(id="a-2"), "no task"]))
    found, refused = read_tasks(tmp_path / "t.json")
    assert [record.id for record in found] == ["a-2"]
    assert len(refused) == 2 and reason in str(refused[0])
    done = CliRunner().invoke(app, ["annotations", "import", str(tmp_path / "t.json"), "-o", str(tmp_path / "o")])
    assert done.exit_code == 1 and "2 tasks refused" in done.output
    assert json.loads((tmp_path / "o").read_text()) == json.loads(record_line(found[0]))


def test_load_gives_a_data_set() -> None:
    data = load(FOLDER)
    assert {name: len(part) for name, part in data.items()} == {
        name: len(load_split(FOLDER, name)) for name in ("train", "dev", "test")
    }
    row = next(row for row in data["test"] if row["sentences"])
    span = row["sentences"][0]
    assert row["text"][span["start"] : span["end"]] == span["text"] and span["labels"]
    real = load(FOLDER, real=True)
    assert "train" in real and "dev" in real and not any(real["dev"]["text"])
    with pytest.raises(AnnotationError, match=r"expected a folder with data/train\.jsonl"):
        load(FOLDER / "nowhere")


# Texts by reference.

TEXT = "Okay, so the user wants the sum.\n\nLet me add."


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _archive(**members: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in members.items():
            archive.writestr(name.replace("__", "/") + ".json", json.dumps(value))
    return stream.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _model_event(text: str) -> dict[str, Any]:
    return {
        "event": "model",
        "output": {"choices": [{"message": {"content": [{"type": "reasoning", "reasoning": text}]}}]},
    }


PLACES: list[tuple[str, bytes]] = [
    ("line 1.thinking", _json({"thinking": "no"}) + b"\n" + _json({"thinking": TEXT})),
    ("line 1.thinking", _json({"thinking": TEXT})),
    ("line 1, field cot", _json({"cot": TEXT}) + b"\n" + _json({"cot": "no"})),
    ("line 0, result.reasoning_trace", _json({"result": {"reasoning_trace": f"{TEXT}\n"}})),
    ("line 0, messages[1].content.thought", _json({"messages": [0, {"content": {"thought": TEXT}}]})),
    ('line 0: "".join(tokens)', _json({"tokens": [TEXT[:7], TEXT[7:]]})),
    ("line 0, raw_response inside <scratchpad>", _json({"raw_response": f"<scratchpad>\n{TEXT}</scratchpad> 3"})),
    ("[1].thinking", _json([0, {"thinking": TEXT}])),
    ("results.base_responses[1]", _json({"results": {"base_responses": ["", TEXT]}})),
    ("rounds[0].play_history[1].play_thinking", _json({"rounds": [{"play_history": [0, {"play_thinking": TEXT}]}]})),
    ("events[0].content", _json({"events": [{"content": TEXT}]})),
    ("conversation[0]", _json({"conversation": [{"content": TEXT}]})),
    ("list index 1, field thinking", _json([0, {"thinking": TEXT}])),
    ("list index 0, field response, inside <think>", _json([{"response": f"<think>{TEXT}</think>Yes"}])),
    ('list index 0, ys[0], text before "Passage:"', _json([{"ys": [f"{TEXT}\nPassage: no"]}])),
    ("a_5shots.json, list index 0, field model_outputs/generated_text", _archive(a_5shots=[{"generated_text": TEXT}])),
    (
        "[0].traj[0].tool_calls[0] function think, argument thought",
        _json([{"traj": [{"tool_calls": [{"function": {"arguments": json.dumps({"thought": TEXT})}}]}]}]),
    ),
    ("turns[step=4].thought", b"export default " + _json({"turns": [{"step": 4, "thought": TEXT}]}) + b";"),
    (
        "user turn 1: <think><details><summary>Thought Process</summary> blocks joined",
        b"# log\n\n_**User (2026)**_\n\nHi\n\n<think><details><summary>Thought Process</summary>\n"
        + b"</details></think>\n<think><details><summary>Thought Process</summary>\n".join(TEXT.encode().split(b"\n\n"))
        + b"\n</details></think>\n",
    ),
    (
        'episode 1 (split on "Question: "), lines Thought n',
        b"Question: a\nThought 1: no\nQuestion: b\nThought 1: "
        + TEXT.encode().replace(b"\n\n", b"\nAction 1: x\nThought 2: "),
    ),
    (
        'notebook markdown cells starting "**Thought**:" joined',
        _json({"cells": [{"cell_type": "markdown", "source": [f"**Thought**: {p}"]} for p in TEXT.split("\n\n")]}),
    ),
    ("whole file: text between <think> and </think>", f"a <think>{TEXT}</think> b".encode()),
    (
        "samples/1_epoch_1.json: messages[role=assistant].content joined",
        _archive(
            samples__1_epoch_1={"messages": [{"role": "assistant", "content": part} for part in TEXT.split("\n\n")]}
        ),
    ),
    (
        "samples/1_epoch_1.json model event 1 (attachments resolved; encrypted reasoning parts skipped)",
        _archive(
            samples__1_epoch_1={
                "events": [{"event": "info"}, _model_event("attachment://k")],
                "attachments": {"k": TEXT},
            }
        ),
    ),
]


def reference(locator: str, text: str = TEXT, **changes: Any) -> Reference:
    plain = {"id": "r", "repo": "o/n", "commit": "c", "path": "p", "start": None, "end": None, "license": "MIT"}
    return Reference(**(plain | {"locator": locator, "sha256": sha(text)} | changes))


@pytest.mark.parametrize(("locator", "data"), PLACES)
def test_locators_are_read(locator: str, data: bytes) -> None:
    assert text_at(Document(data), reference(locator)) == TEXT


def test_offsets_cut_and_a_wrong_text_is_refused() -> None:
    data = _json([{"thinking": TEXT}])
    assert text_at(Document(data), reference("[0].thinking", TEXT[6:20], start=6, end=20)) == TEXT[6:20]
    with pytest.raises(ReferenceError, match="has not the recorded SHA-256"):
        text_at(Document(data), reference("[0].thinking", "another text"))
    with pytest.raises(ReferenceError, match="nothing at"):
        text_at(Document(data), reference("[7].thinking"))
    with pytest.raises(ReferenceError, match="no known form"):
        text_at(Document(data), reference("somewhere, in the middle!"))


def test_every_shipped_locator_has_a_form() -> None:
    import re

    for path in sorted((FOLDER / "real").glob("*.jsonl")):
        for one in references(path):
            assert any(re.fullmatch(pattern, one.locator, re.DOTALL) for pattern, _ in LOCATORS), one.locator


def test_paths() -> None:
    assert walk({"a b": [{"c-d": 3}]}, '["a b"][0].c-d') == 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", tmp_path
        running.shutdown()


def test_fetch_over_http_and_from_a_folder(server: tuple[str, Path]) -> None:
    address, folder = server
    (folder / "o/n/c").mkdir(parents=True)
    (folder / "o/n/c/p").write_bytes(_json([{"thinking": TEXT}]))
    wanted = [
        reference("[0].thinking"),
        reference("[0].thinking", "x", id="bad"),
        reference("[0]", id="gone", path="q"),
    ]
    for source in (address, str(folder)):
        got = list(fetch(wanted, source))
        assert got[0] == {"id": "r", "sha256": sha(TEXT), "text": TEXT}
        assert [type(item) for item in got[1:]] == [Missed, Missed]
        assert "SHA-256" in str(got[1]) and "gone" in str(got[2])
    (outside,) = fetch([reference("[0]", path="../../../../etc/passwd")], str(folder))
    assert isinstance(outside, Missed) and "leaves the folder" in outside.reason


def test_fetch_command_makes_texts_that_loading_takes(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    stored = RECORD | {"source_repo": "o/n", "commit": "c", "path": "p", "locator": "[0].thinking", "license": "MIT"}
    stored |= {"sha256": sha(TEXT), "split": "dev", "sentences": [], "trace": []}
    stored.pop("text")
    (tmp_path / "real/dev.jsonl").write_text(json.dumps(stored) + "\n")
    (tmp_path / "src/o/n/c").mkdir(parents=True)
    (tmp_path / "src/o/n/c/p").write_bytes(_json([{"thinking": TEXT}]))
    out = tmp_path / "texts"
    arguments = ["annotations", "fetch", str(tmp_path), "-o", str(out), "--from", str(tmp_path / "src")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "1 of 1 texts" in done.output
    assert load(tmp_path, real=True, text_dir=out)["dev"]["text"] == [TEXT]
    assert PUBLIC.startswith("https://")
