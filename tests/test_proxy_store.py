import asyncio
import dataclasses
import json
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cot_probe.proxy.recorder import Recorder
from cot_probe.proxy.store import SCHEMA_VERSION, Store, StoreError, TraceRow, VerdictRow, read_store


def a_trace(id: str = "a", **changes: Any) -> TraceRow:
    row = TraceRow(
        id=id,
        started=1_760_000_000.25,
        seconds=1.5,
        protocol="chat",
        path="/v1/chat/completions",
        status=200,
        stream=True,
        model="probe-1",
        response_id="chatcmpl-7",
        ended="complete",
        reason="stop",
        visibility="full",
        scored=True,
        not_scored="",
        blocks=[{"text": "I wait.", "visibility": "full", "field": "reasoning"}],
        said="Done.",
        calls=[],
        result={"schema": "cot_probe.tagged_trace/2", "tags": []},
    )
    return dataclasses.replace(row, **changes)


def a_verdict(trace: str = "a", **changes: Any) -> VerdictRow:
    row = VerdictRow(
        trace=trace,
        at=1_760_000_001.0,
        tool="write",
        call_id="call_0",
        arguments='{"path": "x"}',
        action="hold",
        scored=True,
        withheld=True,
        verdict={"reasons": ["because"], "scores": {"strategic_harm": 0.9}},
    )
    return dataclasses.replace(row, **changes)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store.sqlite"
    store = Store(path)
    late = a_trace("b", started=1_760_000_009.0, status=None, result=None, scored=False, not_scored="cut off")
    answer = a_verdict("a", tool=None, call_id=None, arguments=None, withheld=False)
    store.add_verdict(a_verdict())
    store.add_trace(late)
    store.add_trace(a_trace())
    store.add_verdict(answer)
    for found in (list(read_store(path)), list(read_store(str(path)))):  # while it is open, too
        assert [one.row for one in found] == [a_trace(), late]
        assert found[0].verdicts == (a_verdict(), answer)
        assert found[1].verdicts == ()
    store.close()
    assert not path.with_name("store.sqlite-wal").exists()
    assert len(list(read_store(path))) == 2


TEXT = st.text(st.characters(), max_size=20)


@settings(max_examples=40, deadline=None)
@example(said="", tool=None, block="\ud800")
@given(said=TEXT, tool=st.none() | TEXT, block=TEXT)
def test_any_text_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory, said: str, tool: str | None, block: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "store.sqlite"
    store = Store(path)
    store.add_trace(a_trace(said=said + "\ud800", blocks=[{"text": block + "\udfff"}]))
    store.add_verdict(a_verdict(tool=tool))
    store.close()
    found = next(read_store(path))
    assert found.row.said == said.encode("utf-8", "backslashreplace").decode() + "\\ud800"
    whole = block + "\udfff"  # two halves that meet come back as the character they stand for
    assert found.row.blocks == [{"text": whole.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")}]
    expected = tool.encode("utf-8", "backslashreplace").decode() if tool is not None else None
    assert found.verdicts[0].tool == expected


@pytest.mark.parametrize("statement", ["UPDATE traces SET said = ''", "DELETE FROM traces", "DELETE FROM verdicts"])
def test_nothing_that_was_written_can_be_changed(tmp_path: Path, statement: str) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.add_trace(a_trace())
    store.add_verdict(a_verdict())
    with sqlite3.connect(tmp_path / "s.sqlite") as database, pytest.raises(sqlite3.Error, match="append-only"):
        database.execute(statement)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_trace(a_trace(said="another of the same name"))
    store.close()
    found = next(read_store(tmp_path / "s.sqlite"))
    assert found.row == a_trace() and found.verdicts == (a_verdict(),)


def test_a_store_is_opened_again_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    for name in ("a", "b", "c"):
        store = Store(path)
        store.add_trace(a_trace(name))
        store.close()
    assert [one.row.id for one in read_store(path)] == ["a", "b", "c"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all, only some text that is long enough to be looked at" * 20)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    newer = tmp_path / "newer.sqlite"
    Store(newer).close()
    with sqlite3.connect(newer) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for path, message in ((text, "cannot be"), (other, "no store of the proxy"), (newer, "expected 1")):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=message):
            Store(path)
        with pytest.raises(StoreError):
            list(read_store(path))
        assert path.read_bytes() == before
    with pytest.raises(StoreError, match="no such file"):
        list(read_store(tmp_path / "none.sqlite"))
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path)


def test_the_columns_are_those_documented(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.add_trace(a_trace(calls=[{"name": "write"}]))
    store.close()
    with sqlite3.connect(tmp_path / "s.sqlite") as database:
        row = database.execute("SELECT id, stream, json_extract(calls, '$[0].name'), result FROM traces").fetchone()
    assert row[:3] == ("a", 1, "write")
    assert json.loads(row[3])["schema"] == "cot_probe.tagged_trace/2"


def test_readers_never_wait_for_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    counts = []

    def read() -> None:
        for _ in range(30):
            counts.append(len(list(read_store(path))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        store.add_trace(a_trace(str(number)))
    reader.join()
    assert counts == sorted(counts)
    assert len(list(read_store(path))) == 100
    store.close()


def test_what_cannot_be_written_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(Store(tmp_path / "s.sqlite"))

    async def write() -> None:
        recorder.verdict(a_verdict())
        await recorder.traces([a_trace(), a_trace(), a_trace("b")])

    asyncio.run(write())
    recorder.close()
    assert recorder.not_stored == 1
    logged = caplog.records[0]
    assert logged.getMessage() == "not stored" and vars(logged)["fields"]["trace"] == "a"
    assert "I wait" not in str(vars(logged))
    assert [one.row.id for one in read_store(tmp_path / "s.sqlite")] == ["a", "b"]


def test_no_store_at_all() -> None:
    recorder = Recorder(None)
    recorder.verdict(a_verdict())
    asyncio.run(recorder.traces([a_trace()]))
    recorder.close()
    assert recorder.not_stored == 0
