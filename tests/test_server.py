"""The service, on a real uvicorn over loopback: requests, streams, limits, the end.

Most tests ask one in a thread (service_runs); the tests of the end run the command in a process of its own.
"""

import asyncio
import concurrent.futures
import contextlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import torch
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.specs.openapi.checks import negative_data_rejection
from service_runs import PATIENCE_S, TEXT, TOKEN, Served, error_of, events_of, frames, in_background, opened, until
from service_runs import client as client
from service_runs import served as served
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from cot_probe import console
from cot_probe.serve_command import serve
from cot_probe.serving import bodies, guards, schemas
from cot_probe.serving.guards import Access, host_admitted, is_loopback, same_origin, same_token
from cot_probe.serving.limits import Refusal
from cot_probe.serving.logs import JsonLines
from cot_probe.tagger import TaggedTrace, Tagger, load_tagger

CHAT = {
    "messages": [
        {"role": "system", "content": "Keep the log."},
        {"role": "assistant", "content": "Done.", "reasoning_content": "I keep it. Or do I?"},
    ]
}


class Held(Tagger):
    """A tagger that waits before each batch until it is let go."""

    def __init__(self, tagger: Tagger) -> None:
        super().__init__(tagger.checkpoint, point=tagger.point)
        self.go = threading.Event()
        self.go.set()
        self.batches: list[list[str]] = []

    def tag_many(self, items: Any) -> Iterator[TaggedTrace]:
        traces = list(items)
        self.batches.append([trace.text for trace in traces])
        assert self.go.wait(PATIENCE_S)
        if any("explode" in trace.text for trace in traces):
            raise RuntimeError("it exploded on: " + traces[0].text)
        return super().tag_many(traces)


@pytest.fixture
def held(toy_tagger: Tagger) -> Held:
    return Held(toy_tagger)


# Parts


@pytest.mark.parametrize(
    ("host", "names", "admitted"),
    [
        ("127.0.0.1:80", "", True),
        ("localhost", "", True),
        ("LOCALHOST:8321", "", True),
        ("[::1]:9", "", True),
        ("10.1.2.3", "", True),
        ("evil.example", "", False),
        ("evil.example:127", "", False),
        ("127.0.0.1.evil.example", "", False),
        ("127.0.0.1@evil.example", "", False),
        ("evil.example/127.0.0.1", "", False),
        ("probe.lan.", "probe.lan", True),
        ("probe.lan:443", "probe.lan", True),
        ("evil.example", "*", True),
        ("", "", False),
        ("a:b:c", "", False),
        ("localhost:99999", "", False),
    ],
)
def test_hosts(host: str, names: str, admitted: bool) -> None:
    assert host_admitted(host, frozenset(filter(None, [names]))) is admitted


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:8321", "127.0.0.1:8321", True),
        ("https://probe.lan", "probe.lan", True),
        ("http://probe.lan", "probe.lan:80", True),
        ("http://127.0.0.1:8322", "127.0.0.1:8321", False),
        ("http://localhost:8321", "127.0.0.1:8321", False),
        ("null", "127.0.0.1:8321", False),
        ("http://evil.example", "127.0.0.1", False),
        ("file://", "127.0.0.1", False),
        ("http://127.0.0.1@evil.example", "127.0.0.1", False),
    ],
)
def test_origins(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


@given(st.text(), st.text())
def test_tokens_are_equal_where_texts_are(one: str, other: str) -> None:
    assert same_token(one, other) is (one == other)
    assert same_token(one, one)


def test_loopback_and_tokens_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")] == [True] * 5
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert guards.given_token(file) == TOKEN
    monkeypatch.setenv(guards.TOKEN_VARIABLE, TOKEN[::-1])
    assert guards.given_token(None) == TOKEN[::-1]
    for bad in ("short", "", "x" * 40 + " y", "ü" * 40):
        file.write_text(bad)
        with pytest.raises(guards.TokenError, match="expected at least 16"):
            guards.given_token(file)
    with pytest.raises(guards.TokenError, match="no token there"):
        guards.given_token(tmp_path / "none")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_json_goes_through_unchanged(value: Any) -> None:
    assert bodies.parse_json(bodies.dump(value)) == value


@pytest.mark.parametrize(
    "data", [b"NaN", b"[Infinity]", b"1e999", b"{", b"\xff", b"", b"[" * 100_000, b"9" * 10_000, b"{'a': 1}"]
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        bodies.parse_json(data)
    assert (caught.value.status, caught.value.code) == (400, "not_json")


def test_log_lines_cannot_be_forged_and_do_not_quote() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("some.library")
    logger.addHandler(handler)
    try:
        raise ValueError("the secret of the transcript")
    except ValueError as fault:
        logger.error("failed on %s", "the secret\n{}", exc_info=fault)
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["event"] == "failed on %s" and told["fault"] == "ValueError" and "secret" not in line
    assert any("test_server.py" in place for place in told["at"])


# Tagging by request


def test_text_chats_and_rows_are_tagged_as_the_library_does_and_the_bad_ones_answered_in_place(
    client: httpx.Client, toy_tagger: Tagger
) -> None:
    row = {"id": "row-7", "reasoning": TEXT, "context": "Never rewrite the script.", "model": "m"}
    items = [TEXT, 3, row, {"x": 1}, CHAT, None, "", {"choices": [{"message": CHAT["messages"][1]}] * 2}]
    answer = client.post("/v1/tag", params={"context": "true"}, json={"items": items})
    assert answer.status_code == 200
    told = schemas.TagAnswer.model_validate(answer.json())
    assert [one.item for one in told.results] == list(range(len(items)))
    assert [len(one.traces) for one in told.results] == [1, 0, 1, 0, 1, 0, 1, 2]
    assert [one.error is not None for one in told.results] == [False, True, False, True, False, True, False, False]
    assert "found a bare int" in told.results[1].error.message  # type: ignore[union-attr]
    assert (told.traces, told.rejected, told.checkpoint) == (6, 3, toy_tagger.checkpoint.signature)
    got = answer.json()["results"]
    expected = toy_tagger.tag(row).as_dict()
    found = got[2]["traces"][0]
    assert found["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert found["context"] == "Never rewrite the script." and found["metadata"] == {"model": "m"}
    unscored = {"scores": None, "source": None}
    assert [one | unscored for one in found["sentences"]] == [one | unscored for one in expected["sentences"]]
    assert (found["id"], found["source"]["format"], found["source"]["record"]) == ("row-7", "rows", 2)
    assert got[0]["traces"][0]["scores"] == pytest.approx(toy_tagger.tag(TEXT).as_dict()["scores"], abs=1e-5)
    assert got[6]["traces"][0]["visibility"] == "absent", "nothing to read is not clean"


def test_lines_plain_text_formats_and_short_answers(client: httpx.Client) -> None:
    lines = b'{"reasoning": "One. Two."}\nnonsense\n\n{"text": "<think>Three.</think> Four."}\n'
    answer = client.post("/v1/tag", content=lines, headers={"Content-Type": "application/x-ndjson"}).json()
    assert [len(one["traces"]) for one in answer["results"]] == [1, 0, 1]
    assert "line 2 is no JSON" in answer["results"][1]["error"]["message"]
    assert [one["text"] for one in answer["results"][2]["traces"][0]["sentences"]] == ["Three."]
    text = client.post(
        "/v1/tag", content="Ünter uns. \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16").encode()
    )
    assert text.status_code == 400, "JSON unless the type says otherwise"
    plain = {"Content-Type": "text/plain; charset=utf-8"}
    answer = client.post("/v1/tag", content="Ünter uns. Ja.".encode(), headers=plain).json()
    assert [one["text"] for one in answer["results"][0]["traces"][0]["sentences"]] == ["Ünter uns. ", "Ja."]
    assert answer["results"][0]["traces"][0]["context"] == ""
    forced = client.post("/v1/tag", params={"format": "rows"}, json={"items": [CHAT, {"text": "x"}]}).json()
    assert [one["error"] is None for one in forced["results"]] == [False, True]
    short = client.post("/v1/tag", params={"sentences": "evidence"}, json={"items": [TEXT]}).json()
    assert all(one["tags"] for one in short["results"][0]["traces"][0]["sentences"])
    assert client.post("/v1/tag", json={"items": []}).json()["results"] == []


@pytest.mark.parametrize(
    ("content", "headers", "params", "status", "code"),
    [
        (b"{", {}, {}, 400, "not_json"),
        (b'{"items": [NaN]}', {}, {}, 400, "not_json"),
        (b"[" * 50_000, {}, {}, 400, "not_json"),
        (b"\xff\xfe", {"Content-Type": "text/plain"}, {}, 400, "not_text"),
        (b"[]", {}, {}, 422, "invalid"),
        (b'{"items": "x"}', {}, {}, 422, "invalid"),
        (b'{"items": [], "more": 1}', {}, {}, 422, "invalid"),
        (b'{"items": []}', {}, {"format": "nonsense"}, 422, "invalid"),
        (b'{"items": []}', {}, {"sentences": "some"}, 422, "invalid"),
        (b'{"items": []}', {}, {"sentence": "all"}, 422, "invalid"),
        (b'{"items": []}', {}, {"sentences": ["all", "all"]}, 422, "invalid"),
        (b"x", {"Content-Type": "image/png"}, {}, 415, "media_type"),
        (b"x", {"Content-Type": "text/plain; charset=utf-16"}, {}, 415, "media_type"),
        (b"1\n" * 1_001, {"Content-Type": "application/x-ndjson"}, {}, 422, "too_many_items"),
    ],
)
def test_requests_that_break_the_rules(
    client: httpx.Client, content: bytes, headers: dict[str, str], params: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post("/v1/tag", content=content, headers=headers, params=params)
    assert (answer.status_code, error_of(answer)) == (status, code)


def test_hostile_records_do_no_harm(client: httpx.Client) -> None:
    hostile = [
        {"reasoning": "\ud800 lone. \x00 zero. \u202e turned."},
        {"reasoning": "a", "metadata": {"__proto__": {"x": 1}}, "big": 10**300, "small": 5e-324},
        {"reasoning": {"not": "text"}},
        {"messages": [{"role": "assistant", "content": None, "reasoning_content": ["?"]}]},
        {"messages": [[]]},
        {"output": [{"type": "reasoning", "summary": 3}]},
    ]
    nested = [f'{{"reasoning": "a", "x": {"[" * depth}{"]" * depth}}}' for depth in (98, 99, 102, 500)]
    nested += [f'{{"reasoning": {"[" * depth}{"]" * depth}}}' for depth in (50, 300)]
    sent = [*(bodies.dump(one).decode() for one in hostile), *nested]
    answer = client.post("/v1/tag", content='{"items": [' + ",".join(sent) + "]}")
    assert answer.status_code == 200
    told = schemas.TagAnswer.model_validate(answer.json())
    assert len(told.results) == len(sent)
    assert answer.json()["results"][0]["traces"][0]["sentences"][0]["text"] == "\ud800 lone. "
    assert all(one.traces or one.error for one in told.results)
    codes = [one.error and one.error.code for one in told.results[len(hostile) :]]
    assert codes == [None, None, "too_deep", "too_deep", "not_read", "too_deep"]


def test_concurrent_requests_share_batches_and_get_the_scores_that_they_would_get_alone(held: Held) -> None:
    texts = [f"Request {number} reads the log. It is the {number}th." for number in range(12)]
    with Served(held) as served, served.client() as client:
        alone = [client.post("/v1/tag", json={"items": [text]}).json()["results"][0]["traces"][0] for text in texts]
        held.go.clear()
        with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
            futures = [pool.submit(client.post, "/v1/tag", json={"items": [text]}) for text in texts]
            jobs = served.service.batcher._jobs
            until(lambda: sum(map(len, held.batches)) + len(jobs) == 2 * len(texts))
            held.go.set()
            together = [future.result().json()["results"][0]["traces"][0] for future in futures]
        assert len(held.batches) <= len(texts) + 2, "those under way, and then all others at once"
        for one, other in zip(alone, together, strict=True):
            assert one["sentences"][0]["text"] == other["sentences"][0]["text"]
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert served.metric("cot_probe_traces_total") == 2 * len(texts)


def test_a_long_request_does_not_hold_up_a_short_one(held: Held) -> None:
    with Served(held) as served, served.client() as client:
        held.go.clear()
        long = in_background(lambda: client.post("/v1/tag", json={"items": ["Long. " * 1_500] * 20}))
        until(lambda: held.batches)
        short = in_background(lambda: client.post("/v1/tag", json={"items": ["Short."]}))
        until(lambda: len(served.service.batcher._jobs) == 2)
        held.go.set()
        assert short.result(PATIENCE_S).status_code == long.result(PATIENCE_S).status_code == 200
    at = next(at for at, batch in enumerate(held.batches) if "Short." in batch)
    assert at <= 2 < len(held.batches), "after what was under way, not after all that waited"


def test_a_trace_that_fails_fails_alone(held: Held) -> None:
    with Served(held) as served, served.client() as client:
        answer = client.post("/v1/tag", json={"items": ["One.", "Let it explode.", "Three."]}).json()
        assert [len(one["traces"]) for one in answer["results"]] == [1, 0, 1]
        assert answer["results"][1]["error"]["code"] == "failed"
        assert "RuntimeError" in answer["results"][1]["error"]["message"]
        assert served.metric("cot_probe_failed_traces_total") == 1
        assert client.get("/ready").status_code == 200


# Limits


def test_bodies_are_counted_as_they_come(toy_tagger: Tagger) -> None:
    with Served(toy_tagger, body_bytes=10_000) as served, served.client() as client:
        long = json.dumps({"items": ["x" * 20_000]}).encode()

        def pieces() -> Iterator[bytes]:
            for at in range(0, len(long), 1_000):
                yield long[at : at + 1_000]

        for content in (long, pieces()):
            answer = client.post("/v1/tag", content=content)
            assert (answer.status_code, error_of(answer)) == (413, "body_too_long")
        assert served.service.held.chars == 0
        with served.raw() as line:  # who waits to be asked is told before it sends
            line.sendall(
                b"POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
            )
            assert line.recv(1000).startswith(b"HTTP/1.1 413")
        with served.raw() as line:  # less than it says, then nothing more
            line.sendall(b"POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{")
        assert client.post("/v1/tag", json={"items": ["One."]}).status_code == 200


def test_slow_bodies_and_silent_connections_are_cut(toy_tagger: Tagger) -> None:
    with Served(toy_tagger, body_s=0.3, header_s=0.5) as served:
        with served.raw() as line:
            line.sendall(b"POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{")
            answer = b"".join(iter(lambda: line.recv(10_000), b""))
            assert answer.startswith(b"HTTP/1.1 408") and b"body_slow" in answer
        with served.raw() as line:
            line.sendall(b"GET /health HTTP/1.1\r\nHost: 127.")
            assert line.recv(1000) == b""


def test_too_much_at_a_time_is_told_to_come_again(held: Held) -> None:
    with Served(held, queued_chars=500, held_chars=5_000) as served, served.client() as client:
        held.go.clear()
        first = in_background(lambda: client.post("/v1/tag", json={"items": ["First. "]}))
        until(lambda: held.batches)
        second = in_background(lambda: client.post("/v1/tag", json={"items": ["Second. " * 50]}))
        until(lambda: served.service.batcher.queued_chars)
        third = client.post("/v1/tag", json={"items": ["Third. " * 30]})
        assert (third.status_code, error_of(third)) == (429, "queue_full")
        assert 1 <= int(third.headers["Retry-After"]) <= 60
        fourth = client.post("/v1/tag", json={"items": ["Fourth. " * 700]})
        assert (fourth.status_code, error_of(fourth)) == (429, "memory_full")
        held.go.set()
        assert [future.result(PATIENCE_S).status_code for future in (first, second)] == [200, 200]
        assert client.post("/v1/tag", json={"items": ["Third."]}).status_code == 200
        assert served.service.held.chars == served.service.batcher.queued_chars == 0
        assert served.metric("cot_probe_refused_total", code="queue_full") == 1


def test_work_of_clients_who_left_or_that_takes_too_long_is_dropped(held: Held) -> None:
    with Served(held, tag_s=1.0, trace_chars=1_000) as served, served.client() as client:
        held.go.clear()
        first = in_background(lambda: client.post("/v1/tag", json={"items": ["First."]}))
        until(lambda: held.batches)
        body = json.dumps({"items": ["Left alone. "] * 3}).encode()
        with served.raw() as leaver:
            about = f"Host: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            leaver.sendall(f"POST /v1/tag HTTP/1.1\r\n{about}\r\n\r\n".encode() + body)
            until(lambda: served.service.batcher.queued_chars)  # in line, and not before, does it leave
        until(lambda: served.metric("cot_probe_abandoned_traces_total") >= 3)
        assert served.service.batcher.queued_chars == 0
        slow = first.result(PATIENCE_S)
        assert (slow.status_code, error_of(slow)) == (504, "too_slow")
        held.go.set()
        answer = client.post("/v1/tag", json={"items": ["Last.", "x" * 1_001]}).json()
        assert [one["error"] and one["error"]["code"] for one in answer["results"]] == [None, "too_long"]
    assert not any("Left alone. " in batch for batch in held.batches)


def test_no_torch_on_the_event_loop(toy_tagger: Tagger) -> None:
    loops: list[bool] = []

    def watch(*_: Any) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loops.append(False)
        else:
            loops.append(True)

    hooks = [module.register_forward_pre_hook(watch) for module in toy_tagger.checkpoint.encoder.modules()]
    with Served(toy_tagger) as served, served.client() as client:
        client.post("/v1/tag", json={"items": [TEXT, CHAT]})
        stream = client.post("/v1/streams", json={"context": "Keep the log. " * 50}).json()["id"]
        client.post(f"/v1/streams/{stream}", json={"text": TEXT * 5})
        client.post(f"/v1/streams/{stream}/check", json={"tool": "mail"})
        client.post(f"/v1/streams/{stream}/close")
    for hook in hooks:
        hook.remove()
    assert len(loops) > 20 and not any(loops)
    assert torch.is_grad_enabled(), "the hooks of the shared checkpoint are gone and nothing else was changed"


# Who may speak


@pytest.fixture(scope="module")
def locked(toy_tagger: Tagger) -> Iterator[Served]:
    with Served(toy_tagger, access=Access(token=TOKEN, hosts=frozenset({"probe.lan"}))) as one:
        yield one


def test_a_token_is_asked_for_everywhere_but_at_the_door(locked: Served) -> None:
    with locked.client() as client:
        for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        for path in ("/metrics", "/v1/streams", "/v1/events", "/v1/nothing", "/docs/"):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
                answer = client.get(path, headers=headers)
                assert (answer.status_code, error_of(answer)) == (401, "token"), path
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert client.post("/v1/tag", content=b"x" * 100_000).status_code == 401, "before the body is read"
        good = {"Authorization": f"bearer {TOKEN}"}
        assert client.get("/metrics", headers=good).status_code == 200
        assert client.post("/v1/tag", json={"items": ["One."]}, headers=good).status_code == 200
        two = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
        assert client.get("/metrics", headers=two).status_code == 401
    with pytest.raises(InvalidStatus) as caught:
        locked.dial()
    assert caught.value.response.status_code == 401
    with locked.dial(Authorization=f"Bearer {TOKEN}") as line:
        line.send(json.dumps({"type": "open"}))
        assert json.loads(line.recv(PATIENCE_S))["event"] == "opened"


def test_tokens_are_compared_in_constant_time(locked: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = guards.hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(guards.hmac, "compare_digest", spy)
    with locked.client() as client:
        client.get("/metrics", headers={"Authorization": "Bearer x"})
    assert [(len(one), len(other)) for one, other in compared] == [(32, 32)], "digests, of one length"


def test_other_hosts_and_pages_of_other_sites_are_not_served(served: Served, locked: Served) -> None:
    with served.client() as client:
        for path in ("/", "/health", "/v1/streams", "/nothing"):
            answer = client.get(path, headers={"Host": "evil.example"})
            assert (answer.status_code, error_of(answer)) == (403, "host")
            answer = client.get(path, headers={"Origin": "http://evil.example"})
            assert (answer.status_code, error_of(answer)) == (403, "origin")
        assert client.get("/v1/streams", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200, "a link may lead here"
        assert client.get("/v1/streams", headers={"Origin": served.url}).status_code == 200
        form = {"Content-Type": "text/plain", "Origin": "null"}
        assert client.post("/v1/tag", content=b"x", headers=form).status_code == 403
    with locked.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.get("/v1/streams", headers={"Host": "probe.lan"}).status_code == 200
        assert client.get("/v1/streams", headers={"Host": "other.lan"}).status_code == 403
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with served.raw() as line:
            names = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade"} | headers
            names |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
            head = "".join(f"{name}: {value}\r\n" for name, value in names.items())
            line.sendall(f"GET /v1/stream HTTP/1.1\r\n{head}\r\n".encode())
            answer_bytes = line.recv(10_000)
            assert b" 403 " in answer_bytes.split(b"\r\n")[0]


# What it tells of itself


def test_metrics_are_prometheus_text_with_closed_labels(served: Served, client: httpx.Client) -> None:
    before = served.metric("cot_probe_requests_total", route="/v1/tag", status="200")
    client.post("/v1/tag", json={"items": [TEXT, 3]})
    for path in ("/nope/1", "/nope/2", "/v1/streams/unknown-1"):
        client.get(path)
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert served.metric("cot_probe_requests_total", route="/v1/tag", status="200") == before + 1
    routes = {sample.labels["route"] for sample in families["cot_probe_requests"].samples}
    assert "other" in routes and "/v1/streams/{id}" in routes and not any("nope" in route for route in routes)
    for name in ("queued_chars", "held_chars", "streams_open", "readers", "ready", "batch_traces", "sentence_seconds"):
        assert f"cot_probe_{name}" in families, name


def test_the_interface_is_told_whole(served: Served, client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    known = document["components"]["schemas"]
    refs = set(_refs(document))
    assert {ref.rpartition("/")[2] for ref in refs} <= set(known) and "HTTPValidationError" not in str(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert path.replace("{", "{") in page.text and f'id="{operation["operationId"]}"' in page.text
            for status, answer in operation["responses"].items():
                if status >= "4" and path != "/ready":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (path, status)
    assert set(document["paths"]["/v1/tag"]["post"]["responses"]) >= {"400", "401", "408", "413", "415", "429", "504"}
    assert "WebSocket" in document["info"]["description"]


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from _refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from _refs(one)


def test_requests_that_a_tool_invents_from_the_interface_find_nothing(locked: Served) -> None:
    """Property-based requests from the OpenAPI document (schemathesis), some on a stream that is there."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{locked.url}/openapi.json")
    with locked.client(headers=headers) as client:
        stream = opened(client, id="for-schemathesis")
        tried = sum(_tried(found.ok(), stream, locked.url, headers) for found in schema.get_all_operations())
        assert tried > 120
        assert client.get("/ready").status_code == 200
        assert client.get(f"/v1/streams/{stream}").json()["state"] == "open"
        client.post(f"/v1/streams/{stream}/close")
    assert locked.metric("cot_probe_requests_total", status="500") == 0


def _tried(operation: Any, stream: str, url: str, headers: dict[str, str]) -> int:
    """Requests made for one operation, as its schema has them and against it."""
    tried = 0

    def try_some(mode: Any, *, real: bool) -> None:
        @settings(
            max_examples=8,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            if real and case.path_parameters:
                case.path_parameters["id"] = stream
            # No text is against the schema of a text, a bad line is answered in its place; events would not end.
            left_out = [negative_data_rejection] if case.media_type in (bodies.TEXT, bodies.JSON_LINES) else []
            if case.path.endswith("/events"):
                case.query = {**(case.query or {}), "wait_s": 0}
                left_out = [negative_data_rejection]
            case.call_and_validate(base_url=url, headers=headers, timeout=PATIENCE_S, excluded_checks=left_out)

        with contextlib.suppress(Unsatisfiable):  # where there is nothing to be wrong about
            check()

    try_some(schemathesis.GenerationMode.POSITIVE, real=False)
    try_some(schemathesis.GenerationMode.NEGATIVE, real=False)
    if "{id}" in operation.path and "close" not in operation.path:
        try_some(schemathesis.GenerationMode.POSITIVE, real=True)
    return tried


# The command


def command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    code = "import typer; from cot_probe.serve_command import serve; typer.run(serve)"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | (env or {}),
    )


def listening(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if "serving on" in line:
            return line.split("serving on ")[1].split(",")[0].rstrip("/")
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_told_to_stop_it_finishes_what_it_accepted(toy_checkpoint: Path) -> None:
    process = command("--port", "0", "--checkpoint", str(toy_checkpoint), "--threshold", "0")
    url = listening(process)
    secret = "The marmalade plan."
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        until(lambda: _ready(client))
        stream = opened(client, id="cut-off")
        client.post(f"/v1/streams/{stream}", json={"text": f"{secret} " + TEXT * 20})
        following = in_background(lambda: client.get(f"/v1/streams/{stream}/events"))
        work = [in_background(lambda: client.post("/v1/tag", json={"items": [TEXT * 10] * 20})) for _ in range(3)]
        with connect(url.replace("http", "ws") + "/v1/stream", open_timeout=PATIENCE_S) as line:
            line.send(json.dumps({"type": "open"}))
            line.send(json.dumps({"type": "delta", "text": TEXT}))
            line.recv(PATIENCE_S)
            accepted = 3 * len(json.dumps({"items": [TEXT * 10] * 20}))
            until(lambda: held_chars(client) >= accepted or all(one.done() for one in work))
            process.send_signal(signal.SIGTERM)
            told = list(frames(line))
            assert [one["event"] for one in told][-2:] == ["closed", "result"]
            assert told[-1]["result"]["n_tokens"] > 0 and line.protocol.close_code == 1012
        answers = [one.result(PATIENCE_S) for one in work]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert all(answer.json()["traces"] == 20 for answer in answers)
        events = events_of(following.result(PATIENCE_S).text)
        assert (events[-1]["event"], events[-1]["cause"]) == ("closed", "shutdown")
        finals = [event for event in events if event["event"] == "sentence_scored" and event["final"]]
        assert len({event["number"] for event in finals}) == 81, "all that was taken in was scored"
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    told_events = [line["event"] for line in lines]
    assert {"alert", "stream closed", "request", "draining", "drained"} <= set(told_events)
    assert "marmalade" not in err, "logs do not quote"


def held_chars(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("cot_probe_held_chars "))


def _ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/ready").status_code == 200
    return False


def test_beyond_this_machine_a_token_is_made_and_told_once_and_logs_quote_when_asked(toy_checkpoint: Path) -> None:
    process = command(
        "--host", "0.0.0.0", "--port", "0", "--checkpoint", str(toy_checkpoint), "--threshold", "0", "--log-text"
    )
    url = listening(process).replace("0.0.0.0", "127.0.0.1")
    assert process.stdout is not None
    token = process.stdout.readline().rsplit(" ", 1)[1].strip()
    page = process.stdout.readline()
    assert len(token) >= 43 and page.rstrip().endswith(f"#token={token}")
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        until(lambda: _ready(client))
        assert client.get("/v1/streams").status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        stream = opened(client)
        client.post(f"/v1/streams/{stream}", json={"text": "The marmalade plan. "})
        client.post(f"/v1/streams/{stream}/close")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and token not in out and token not in err
    assert any(json.loads(line).get("text") == "The marmalade plan. " for line in err.splitlines() if line[:1] == "{")


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--token-file", "/nowhere/token"], {}, "no token there"),
        ([], {guards.TOKEN_VARIABLE: "short"}, "expected at least 16"),
        (["--tls-cert", "x.pem"], {}, "give both or neither"),
        (["--host", "256.0.0.1", "--checkpoint", "{toy}"], {}, "give another --host or --port"),
        (["--policy", "/nowhere/policy.toml", "--checkpoint", "{toy}"], {}, "no such file"),
        (["--checkpoint", "/nowhere"], {}, "/nowhere"),
        (["--max-streams", "0"], {}, "--max-streams"),
    ],
)
def test_wrong_usage(
    toy_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], env: dict[str, str], words: str
) -> None:
    app = typer.Typer()
    app.command()(serve)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, [*(one.format(toy=toy_checkpoint) for one in arguments), "--port", "0"])
    assert done.exit_code == 2 and words in done.stderr, done.output


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(typer.Exit):
            console.bound("127.0.0.1", other.getsockname()[1])


def test_the_command_is_light_and_says_what_is_missing() -> None:
    code = (
        "import sys, cot_probe.serve_command as c; assert not {'torch', 'fastapi', 'uvicorn'} & set(sys.modules);"
        "sys.modules['fastapi'] = None; import typer; typer.run(c.serve)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2 and "pip install 'cot_probe[serve]'" in done.stderr


def test_a_checkpoint_that_is_not_shared_between_operating_points(toy_checkpoint: Path) -> None:
    with Served(load_tagger(toy_checkpoint, threshold=1.0)) as served, served.client() as client:
        answer = client.post("/v1/tag", json={"items": [TEXT]}).json()
        assert answer["fpr"] is None and answer["results"][0]["traces"][0]["tags"] == []
