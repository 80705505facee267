"""Streams of the service, over HTTP and over sockets, on a real uvicorn over loopback."""

import asyncio
import concurrent.futures
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_runs import PATIENCE_S, TEXT, Served, error_of, events_of, frames, in_background, opened, until
from service_runs import client as client
from service_runs import served as served

from cot_probe.alerts import Event
from cot_probe.monitor import Closing, Monitor
from cot_probe.serving import schemas
from cot_probe.serving.events import Entry, EventLog
from cot_probe.serving.threads import Threads
from cot_probe.tagger import TaggedTrace, Tagger

# Parts


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.just("read"), st.integers(1, 7)), max_size=25),
    st.integers(1, 10),
    st.integers(40, 400),
    st.integers(0, 30),
)
def test_a_reader_at_any_pace_sees_every_event_or_is_told_how_many_it_missed(
    steps: list[Any], most: int, most_chars: int, after: int
) -> None:
    async def play() -> tuple[list[int], int, int]:
        log = EventLog(events=most, chars=most_chars)
        follow = log.follow(after, heartbeat_s=0, wait_s=None)
        seen: list[int] = []
        missed, begun = 0, None

        async def read() -> bool:
            """Take one thing; whether there was any."""
            nonlocal missed, begun
            if begun is None:
                begun = after if after <= log.last else 0
            entry = await anext(follow, None)
            if isinstance(entry, Entry):
                assert json.loads(entry.data)["n"] == entry.number
                seen.append(entry.number)
            elif entry is not None:
                missed += entry
            return entry is not None

        for step in steps:
            if step == "read":
                await read()
            else:
                for _ in range(step):
                    log.append({"event": "x", "n": log.last + 1})
        log.close()
        while await read() or await read():
            pass
        return seen, missed, log.last - (begun or 0)

    seen, missed, expected = asyncio.run(play())
    assert seen == sorted(set(seen)) and len(seen) + missed == expected


def test_a_log_tells_a_reader_who_waits() -> None:
    async def play() -> list[Any]:
        log = EventLog(events=3, chars=10_000)
        told: list[Any] = []

        async def read() -> None:
            async for entry in log.follow(0, heartbeat_s=0.01, wait_s=None):
                told.append(entry.number if isinstance(entry, Entry) else entry)

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        for _ in range(5):
            log.append({"event": "x"})
        await asyncio.sleep(0.05)
        log.close()
        await task
        return [one for one in told if one is not None]

    assert asyncio.run(play()) == [2, 3, 4, 5]


# Streams over HTTP


def pieces_of(text: str, size: int = 9) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def same_as_batch(result: dict[str, Any], batch: TaggedTrace) -> None:
    expected = batch.as_dict(context=False)
    assert result["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    for one, other in zip(result["sentences"], expected["sentences"], strict=True):
        assert (one["start"], one["end"], one["text"]) == (other["start"], other["end"], other["text"])
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    assert result["n_tokens"] == expected["n_tokens"]


def followed(client: httpx.Client, id: str, *, after: int) -> str:
    """What is told of all streams, until one of them is closed."""
    told = ""
    with client.stream("GET", "/v1/events", params={"after": after}) as answer:
        for line in answer.iter_lines():
            told += f"{line}\n"
            if line.startswith("data: ") and (event := json.loads(line[6:]))["stream"] == id:
                if event["event"] == "closed":
                    return f"{told}\n"
    raise AssertionError("the events ended before the stream was closed")


def test_a_stream_over_http_from_end_to_end(served: Served, client: httpx.Client, toy_tagger: Tagger) -> None:
    before = client.get("/v1/streams").json()["last_event"]
    id = opened(client, name="night shift", context="Keep the log.", metadata={"model": "m"})
    following = in_background(lambda: client.get(f"/v1/streams/{id}/events"))
    everything = in_background(lambda: followed(client, id, after=before))
    for piece in pieces_of(TEXT * 4):
        answer = client.post(f"/v1/streams/{id}", json={"text": piece})
        schemas.Events.model_validate(answer.json())
        assert answer.status_code == 200
    client.post(f"/v1/streams/{id}", json={"text": "", "end_block": True})
    verdict = schemas.Verdict.model_validate(client.post(f"/v1/streams/{id}/check", json={"tool": "mail"}).json())
    assert verdict.tool == "mail" and verdict.policy
    state = schemas.StreamState.model_validate(client.get(f"/v1/streams/{id}").json())
    assert (state.name, state.state, state.chars) == ("night shift", "open", len(TEXT * 4))
    listed = schemas.StreamList.model_validate(client.get("/v1/streams").json())
    assert id in [one.id for one in listed.streams] and set(listed.thresholds) == set(listed.tags)
    closed = client.post(f"/v1/streams/{id}/close").json()
    schemas.Closed.model_validate(closed)
    same_as_batch(closed["result"], toy_tagger.tag({"reasoning": TEXT * 4, "context": "Keep the log."}))
    assert closed["result"]["metadata"] == {"model": "m"}
    assert client.post(f"/v1/streams/{id}/close").json() == closed, "whoever asks again gets the same"
    events = events_of(following.result(PATIENCE_S).text)
    assert [event["event"] for event in events][:1] == ["opened"] and events[-1]["event"] == "closed"
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    finals = {event["number"] for event in events if event["event"] == "sentence_scored" and event["final"]}
    assert finals == set(range(len(closed["result"]["sentences"])))
    assert any(event["event"] == "verdict" for event in events) and any(event["event"] == "alert" for event in events)
    everywhere = [event for event in events_of(everything.result(PATIENCE_S)) if event["stream"] == id]
    assert [event | {"id": 0} for event in everywhere] == [event | {"id": 0} for event in events]
    later = client.get(f"/v1/streams/{id}/events", headers={"Last-Event-ID": "2"})
    assert [event["id"] for event in events_of(later.text)] == [event["id"] for event in events[2:]]
    for query in ({"after": -1}, {"after": "x"}, {"wait_s": -1}, {"wait_s": "nan"}, {"wait_s": 1e6}):
        for path in (f"/v1/streams/{id}/events", "/v1/events"):
            answer = client.get(path, params=query)
            assert (answer.status_code, error_of(answer)) == (422, "invalid"), query
    after = client.post(f"/v1/streams/{id}", json={"text": "More."})
    assert (after.status_code, error_of(after)) == (409, "stream_closed")


def test_streams_are_limited_in_number_length_and_idle_time(toy_tagger: Tagger) -> None:
    with Served(toy_tagger, streams=2, stream_chars=200, idle_s=1.5, kept_s=1.0, readers=1) as served:
        with served.client() as client:
            first = opened(client, id="my-stream.1")
            again = client.post("/v1/streams", json={"id": "my-stream.1"})
            assert (again.status_code, error_of(again)) == (409, "stream_exists")
            long = client.post("/v1/streams", json={"context": "x" * 201})
            assert (long.status_code, error_of(long)) == (413, "stream_full")
            opened(client)
            many = client.post("/v1/streams", json={})
            assert (many.status_code, error_of(many), many.headers["Retry-After"]) == (429, "too_many_streams", "5")
            full = client.post(f"/v1/streams/{first}", json={"text": "Wait. " * 40})
            assert (full.status_code, error_of(full)) == (413, "stream_full")
            assert client.post(f"/v1/streams/{first}", json={"text": "Wait."}).status_code == 200
            following = in_background(lambda: client.get(f"/v1/streams/{first}/events"))
            until(lambda: served.service.readers)
            second = client.get(f"/v1/streams/{first}/events")
            assert (second.status_code, error_of(second)) == (429, "too_many_readers")
            events = events_of(following.result(PATIENCE_S).text)
            assert (events[-1]["event"], events[-1]["cause"]) == ("closed", "idle")
            until(lambda: client.get(f"/v1/streams/{first}").status_code == 404)
            assert served.service.held.chars == 0 and served.service.streams.open == 0
            assert served.metric("cot_probe_streams_closed_total", cause="idle") == 2


def test_a_slow_reader_is_told_what_it_missed_and_one_who_takes_nothing_is_let_go(toy_tagger: Tagger) -> None:
    with Served(toy_tagger, kept_events=50, send_s=0.5, header_s=1.0, readers=1) as served, served.client() as client:
        with served.raw() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            until(lambda: served.service.readers)
            log = served.service.streams.events
            loop = served.service.batcher._task.get_loop()
            for number in range(4_000):
                if number % 50 == 0:
                    time.sleep(0.02)
                loop.call_soon_threadsafe(
                    log.append, {"event": "filler", "stream": "x", "text": "y" * 20_000, "n": number}
                )
            until(lambda: not served.service.readers)
            until(lambda: len(served.server.server_state.connections) <= 1)
        assert len(log._kept) <= 50
        answer = client.get("/v1/events", params={"wait_s": 0})
        events = events_of(answer.text)
        assert (events[0]["event"], events[0]["count"]) == ("missed", 4_000 - len(log._kept))
        assert [event["n"] for event in events[1:]] == list(range(4_000 - len(log._kept), 4_000))


# Streams over a WebSocket


def shake_hands(line: socket.socket) -> None:
    """By hand, for clients that no library would be."""
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head = f"Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}"
    line.sendall(f"GET /v1/stream HTTP/1.1\r\n{head}\r\n".encode())
    assert line.recv(1_000).startswith(b"HTTP/1.1 101")


def send_frame(line: socket.socket, frame: dict[str, Any]) -> None:
    text = json.dumps(frame).encode()
    size = bytes([0x80 | len(text)]) if len(text) < 126 else bytes([0xFE]) + len(text).to_bytes(2, "big")
    line.sendall(b"\x81" + size + bytes(4) + text)


def test_a_stream_over_a_socket_from_end_to_end(served: Served, toy_tagger: Tagger) -> None:
    with served.dial() as line:
        line.send(json.dumps({"type": "open", "name": "agent", "context": "Keep the log."}))
        for piece in pieces_of(TEXT * 3):
            line.send(json.dumps({"type": "delta", "text": piece}))
        line.send(json.dumps({"type": "check", "tool": "mail", "id": "call-1"}))
        line.send(json.dumps({"type": "close"}))
        told = list(frames(line))
        code = line.protocol.close_code
    assert code == 1000
    kinds = [one["event"] for one in told]
    assert kinds[0] == "opened" and kinds[-2:] == ["closed", "result"]
    (verdict,) = (one for one in told if one["event"] == "verdict")
    assert (verdict["id"], verdict["tool"], verdict["scored"]) in [("call-1", "mail", True), ("call-1", "mail", False)]
    same_as_batch(told[-1]["result"], toy_tagger.tag({"reasoning": TEXT * 3, "context": "Keep the log."}))
    assert told[-1]["not_scored"] == [one for one in told if one["event"] == "not_scored"] or told[-1]["not_scored"]


def test_malformed_frames_are_answered_and_then_enough_is_enough(toy_tagger: Tagger) -> None:
    bad = [
        "{",
        "[]",
        "{}",
        '{"type": 3}',
        '{"type": "delta", "text": "early"}',
        b"\x00\x01",
        '{"type": "open", "x": 1}',
    ]
    with Served(toy_tagger, bad_frames=len(bad) + 3) as served:
        with served.dial() as line:
            for frame in bad:
                line.send(frame)
                assert json.loads(line.recv(PATIENCE_S))["event"] == "error"
            line.send(json.dumps({"type": "open"}))
            assert json.loads(line.recv(PATIENCE_S))["event"] == "opened"
            line.send(json.dumps({"type": "open"}))
            assert json.loads(line.recv(PATIENCE_S))["code"] == "invalid"
            line.send(json.dumps({"type": "delta", "text": "One. "}))
            assert next(frames(line))["event"] == "sentence_scored", "good ones are taken in between"
            for _ in range(2):
                line.send(json.dumps({"type": "delta", "text": 3}))
            told = list(frames(line))
            assert [one["code"] for one in told if one["event"] == "error"] == ["invalid"] * 2
            assert line.protocol.close_code == 1008
        until(lambda: not served.service.streams.open)
        assert served.metric("cot_probe_streams_closed_total", cause="disconnected") == 1


def test_oversize_frames_broken_frames_and_kills(toy_tagger: Tagger) -> None:
    with Served(toy_tagger, body_bytes=5_000) as served:
        with served.dial() as line:
            line.send(json.dumps({"type": "open"}))
            line.send(json.dumps({"type": "delta", "text": "x" * 6_000}))
            list(frames(line))
            assert line.protocol.close_code == 1009
        with served.dial() as line:
            line.send(json.dumps({"type": "open"}))
            line.recv(PATIENCE_S)
            line.socket.sendall(b"\xff" * 64)  # no frame at all
            list(frames(line))
            assert line.protocol.close_code == 1002
        with served.raw() as raw:
            shake_hands(raw)
            send_frame(raw, {"type": "open", "id": "killed"})
            send_frame(raw, {"type": "delta", "text": TEXT})
            until(lambda: "killed" in served.service.streams._streams)
            until(lambda: served.service.streams.get("killed").chars == len(TEXT))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        # Closed by a reset, as of a killed process.
        until(lambda: served.service.streams.get("killed").state == "closed")
        stream = served.service.streams.get("killed")
        assert stream.cause == "disconnected" and stream.as_dict()["sentences"] == 4, "what was taken in is scored"
        until(lambda: not served.service.streams.open and not served.service.sockets)
        assert served.service.held.chars == 0


def test_a_client_that_leaves_while_its_stream_is_being_closed(toy_tagger: Tagger, monkeypatch: Any) -> None:
    """The end goes on without it: else the stream would stay, and one day there would be no room for others."""
    go, real = threading.Event(), Monitor.close

    def close(self: Monitor, *, timeout: float | None = None) -> Closing:
        assert not self.id.startswith("left") or go.wait(PATIENCE_S)
        return real(self, timeout=timeout)

    with Served(toy_tagger) as served, served.raw() as raw:
        monkeypatch.setattr(Monitor, "close", close)
        shake_hands(raw)
        send_frame(raw, {"type": "open", "id": "left"})
        send_frame(raw, {"type": "delta", "text": TEXT})
        send_frame(raw, {"type": "close"})
        until(lambda: "left" in served.service.streams._streams)
        stream = served.service.streams.get("left")
        until(lambda: stream.state == "closing")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        raw.close()
        loop = served.service.batcher._task.get_loop()

        def gone() -> bool:
            # The service sees that nobody is there when it has something to say.
            loop.call_soon_threadsafe(stream.log.append, {"event": "filler"})
            return not served.service.sockets

        until(gone)
        go.set()
        until(lambda: stream.state == "closed")
        assert stream.cause == "client" and stream.as_dict()["sentences"] == 4
        assert served.service.held.chars == 0 and served.service.scorer.stats.streams_open == 0


def test_a_socket_that_takes_nothing_is_let_go(toy_tagger: Tagger) -> None:
    with Served(toy_tagger, send_s=0.5, header_s=1.0, kept_chars=100_000_000, kept_events=100_000) as served:
        with served.raw() as line:
            shake_hands(line)
            send_frame(line, {"type": "open", "id": "slow"})
            until(lambda: "slow" in served.service.streams._streams)
            log = served.service.streams.get("slow").log
            loop = served.service.batcher._task.get_loop()
            for _ in range(10_000):
                loop.call_soon_threadsafe(log.append, {"event": "filler", "text": "y" * 1_000})
            until(lambda: served.service.streams.get("slow").state == "closed")
            assert served.service.streams.get("slow").cause == "disconnected"
            until(lambda: not served.server.server_state.connections)


def test_what_was_not_scored_in_passing_is_tagged_at_the_end(toy_tagger: Tagger) -> None:
    with Served(toy_tagger) as served, served.client() as client:
        served.service.scorer._max_queued = 0  # every closed window is given up
        id = opened(client, context="Keep the log.")
        client.post(f"/v1/streams/{id}", json={"text": TEXT * 10})
        until(lambda: client.get(f"/v1/streams/{id}").json()["not_scored"]["final"])
        closed = schemas.Closed.model_validate(client.post(f"/v1/streams/{id}/close").json())
        assert closed.not_scored and closed.result is not None
        same_as_batch(
            client.post(f"/v1/streams/{id}/close").json()["result"],
            toy_tagger.tag({"reasoning": TEXT * 10, "context": "Keep the log."}),
        )


def test_a_stream_whose_reading_fails_ends_alone(served: Served, client: httpx.Client, monkeypatch: Any) -> None:
    real = Monitor.feed

    def feed(self: Monitor, delta: str) -> list[Event]:
        if "explode" in delta:
            raise RuntimeError("it exploded on: " + delta)
        return real(self, delta)

    monkeypatch.setattr(Monitor, "feed", feed)
    bad, good = opened(client), opened(client)
    answer = client.post(f"/v1/streams/{bad}", json={"text": "Let it explode. "})
    assert (answer.status_code, error_of(answer)) == (500, "fault")
    until(lambda: client.get(f"/v1/streams/{bad}").json()["state"] == "closed")
    assert client.get(f"/v1/streams/{bad}").json()["cause"] == "fault"
    assert client.post(f"/v1/streams/{good}", json={"text": TEXT}).status_code == 200
    assert client.post(f"/v1/streams/{good}/close").json()["result"]["n_tokens"] > 0
    with served.dial() as line:
        line.send(json.dumps({"type": "open"}))
        line.send(json.dumps({"type": "delta", "text": "Let it explode. "}))
        told = list(frames(line))
        assert (told[-1]["event"], line.protocol.close_code) == ("result", 1011)


def test_pieces_of_work_go_to_threads_together_and_faults_to_their_owners() -> None:
    async def play() -> None:
        threads = Threads(2)
        names: dict[int, str] = {}

        def work(number: int) -> int:
            names[number] = threading.current_thread().name
            return 1 // (number - 7) if number == 7 else number

        first = await threads.quickly(lambda: work(0))
        rest = [asyncio.ensure_future(threads.quickly(partial(work, number))) for number in range(1, 20)]
        left = threads.quickly(lambda: work(99))
        left.cancel()  # type: ignore[attr-defined]
        results = await asyncio.gather(*rest, return_exceptions=True)
        threads.close()
        assert first == 0 and [one for one in results if isinstance(one, int)] == [*range(1, 7), *range(8, 20)]
        assert isinstance(results[6], ZeroDivisionError)
        assert "MainThread" not in names.values()
        assert len({names[number] for number in range(2, 20)}) == 1, "handed over together"

    asyncio.run(play())


def test_many_streams_at_a_time_keep_apart(served: Served, toy_tagger: Tagger) -> None:
    texts = [TEXT.replace("log", f"log of unit {number}") for number in range(12)]

    def one(text: str) -> dict[str, Any]:
        with served.dial() as line:
            line.send(json.dumps({"type": "open"}))
            for piece in pieces_of(text, 5):
                line.send(json.dumps({"type": "delta", "text": piece}))
            line.send(json.dumps({"type": "close"}))
            return list(frames(line))[-1]

    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        results = list(pool.map(one, texts))
    for result, batch in zip(results, toy_tagger.tag_many(texts), strict=True):
        same_as_batch(result["result"], batch)
