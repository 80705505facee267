import asyncio
import gzip
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_runs import (
    ASKED,
    CONTEXT,
    POLICY,
    SECRET,
    SHAPES,
    TURNS,
    GivenPieces,
    Made,
    Plain,
    Run,
    body_of,
    comment_in,
    final_of,
    last,
    reply_of,
    running,
    stream_of,
    through,
)
from proxy_runs import gating as gating
from proxy_runs import reading as reading
from proxy_upstream import (
    CHAT_KINDS,
    HARMLESS,
    PLAN,
    TOOL,
    Reply,
    Seen,
    chat_body,
    chat_stream,
    json_reply,
)
from test_proxy_deltas import CALLS, pieces

from cot_probe.gate import Limits, Policy
from cot_probe.proxy.app import HEALTH_PATH, Proxy
from cot_probe.proxy.exchange import ProtocolName
from cot_probe.proxy.reading import Opening, Watch, Watches
from cot_probe.proxy.recorder import Recorder
from cot_probe.proxy.upstream import ProxyOptions
from cot_probe.proxy_command import monitor_maker
from cot_probe.scoring import Scorer
from cot_probe.tagger import Tagger


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(), protocol=st.sampled_from(list(SHAPES)), ends=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_passes_byte_for_byte(seed: int, protocol: ProtocolName, ends: bytes) -> None:
    kind = random.Random(seed).choice(CHAT_KINDS)
    raw = b"".join(stream_of(protocol, calls=CALLS, kind=kind)).replace(b"\n", ends)
    sent = pieces(raw, seed)
    made = Made()
    got, _ = asyncio.run(through(sent, path=SHAPES[protocol], made=made))
    assert got[:-1] == sent and got[-1] == b""  # not only the bytes: the very pieces
    assert made.monitors[0].text.strip() == PLAN
    annotated, _ = asyncio.run(through(sent, path=SHAPES[protocol], annotate=True))
    assert b"".join(annotated).startswith(raw)
    assert comment_in(b"".join(annotated).decode())["verdict"] == "hold"


def test_reading_delays_nothing() -> None:
    """The monitor gets to read only once the client has everything."""
    passed = asyncio.Event()

    @dataclass
    class Late(Plain):
        async def feed(self, delta: str) -> list[Any]:
            await asyncio.wait_for(passed.wait(), 10)
            return await super().feed(delta)

    late: list[Late] = []

    def make(opening: Opening) -> Watches:
        late.append(Late(opening))
        return late[-1]

    async def run() -> list[bytes]:
        sent = chat_stream("reasoning")
        out: list[bytes] = []

        async def send(message: Any) -> None:
            out.append(message.get("body", b""))
            if message.get("more_body") is False:
                assert late == [] or late[0].text == ""
                passed.set()

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": []}
        async with httpx.AsyncClient(transport=GivenPieces(sent, [(b"content-type", b"text/event-stream")])) as client:
            options = ProxyOptions(upstream="http://upstream", annotate=False)
            proxy = Proxy(options, Watch(make=make, policy=POLICY), Recorder(None), client)
            await proxy(scope, receive, send)
            await proxy.finished()
        return out

    assert asyncio.run(run())[1:-1] == chat_stream("reasoning")
    assert late[0].text == PLAN


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("protocol", SHAPES)
def test_clients_see_what_they_see_without_a_proxy(
    reading: Run, gating: Run, protocol: ProtocolName, stream: bool
) -> None:
    for run in (reading, gating):
        run.api.reply = reply_of(protocol, HARMLESS, CALLS, stream=stream)
        direct = final_of(run, protocol, stream=stream, url=run.proxy._options.upstream)
        assert final_of(run, protocol, stream=stream) == direct
        found = last(run)
        assert found.row.visibility == "full" and found.row.blocks[0]["text"] == HARMLESS
        assert [call["name"] for call in found.row.calls] == ["write", "mail"]
        assert found.row.stream is stream and found.row.ended == "complete" and found.row.status == 200
        assert run.made.monitors[-1].opening.context == CONTEXT
        seen = run.api.seen[-1]
        assert dict(seen.headers)[b"accept-encoding"] == b"identity"
        assert any(SECRET.encode() in value for _, value in seen.headers)


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_every_name_of_reasoning_reaches_the_monitor(reading: Run, kind: str) -> None:
    for reply in (Reply(pieces=chat_stream(kind, calls=CALLS[:1])), json_reply(chat_body(kind, calls=CALLS[:1]))):
        reading.api.reply = reply
        streamed = reply.headers[0][1] == b"text/event-stream"
        answer = reading.openai.chat.completions.create(model="m", messages=cast(Any, TURNS), stream=streamed)
        assert not streamed or len(list(cast(Any, answer))) == len(reply.pieces) - 1
        found = last(reading)
        monitor = reading.made.monitors[-1]
        visibility = "summary" if kind == "openrouter_summary" else "full"
        assert monitor.text.strip() == PLAN and monitor.blocks == 1
        assert (found.row.visibility, monitor.opening.visibility) == (visibility, visibility)
        assert found.row.blocks[0]["text"].strip() == PLAN
        call = found.verdicts[0]
        assert (call.tool, call.action, call.withheld) == ("write", "hold", False)
        assert json.loads(call.arguments or "") == TOOL and call.verdict["reasons"] == ["it plans to"]


def test_the_verdict_stands_in_headers_and_in_a_comment(reading: Run) -> None:
    reading.api.reply = json_reply(body_of("chat", PLAN, CALLS[:1]))
    answer = httpx.post(f"{reading.url}/v1/chat/completions", json=ASKED)
    found = last(reading)
    own = {name: value for name, value in answer.headers.items() if name.startswith("x-cot-probe-")}
    assert own == {
        "x-cot-probe-trace": found.row.id,
        "x-cot-probe-verdict": "hold",
        "x-cot-probe-scored": "true",
        "x-cot-probe-visibility": "full",
        "x-cot-probe-tags": "strategic_harm",
        "x-cot-probe-withheld": "0",
    }
    assert [one.tool for one in found.verdicts] == ["write", None]
    reading.api.reply = Reply(pieces=stream_of("messages", HARMLESS))
    text = httpx.post(f"{reading.url}/v1/messages", json=ASKED).text
    assert text.startswith(b"".join(stream_of("messages", HARMLESS)).decode())
    word = comment_in(text)
    assert word.pop("trace") == last(reading).row.id
    assert word == {
        "verdict": "allow",
        "scored": True,
        "visibility": "full",
        "tags": [],
        "scores": {"strategic_harm": 0.1},
        "withheld": 0,
    }


def test_nothing_is_told_where_that_is_not_wanted(tmp_path: Path) -> None:
    with running(tmp_path, options={"annotate": False}) as run:
        for reply in (Reply(pieces=stream_of("chat")), json_reply(body_of("chat"))):
            run.api.reply = reply
            answer = httpx.post(f"{run.url}/v1/chat/completions", json=ASKED)
            assert answer.content == b"".join(reply.pieces)
            assert list(answer.headers.raw) == [
                (name, value) for name, value in answer.headers.raw if not name.startswith(b"x-cot-probe")
            ]
        assert len(run.stored(2)) == 2


def test_a_stream_without_its_last_blank_line_gets_no_comment(reading: Run) -> None:
    sent = [*chat_stream("reasoning", HARMLESS)[:-1], b"data: [DONE]"]
    reading.api.reply = Reply(pieces=sent)
    assert httpx.post(f"{reading.url}/v1/chat/completions", json=ASKED).content == b"".join(sent)
    assert last(reading).row.ended == "complete"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_compressed_answer_passes_as_it_is_and_is_read(reading: Run, stream: bool) -> None:
    reply = reply_of("chat", PLAN, CALLS[:1], stream=stream)
    packed = gzip.compress(b"".join(reply.pieces))
    kind = b"text/event-stream" if stream else b"application/json"
    headers = [(b"content-type", kind), (b"content-encoding", b"gzip"), (b"etag", b'"x"')]
    reading.api.reply = Reply(pieces=pieces(packed, 1), headers=headers)
    with httpx.stream("POST", f"{reading.url}/v1/chat/completions", json=ASKED) as answer:
        raw = b"".join(answer.iter_raw())
    assert raw == packed and answer.headers["content-encoding"] == "gzip" and answer.headers["etag"] == '"x"'
    assert last(reading).row.blocks[0]["text"] == PLAN
    assert final_of(reading, "chat", stream=stream).choices[0].message.reasoning == PLAN


def test_compressed_requests_are_read(reading: Run) -> None:
    reading.api.reply = Reply(pieces=chat_stream("reasoning"))
    packed = gzip.compress(json.dumps(ASKED).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    httpx.post(f"{reading.url}/v1/chat/completions", content=packed, headers=headers)
    assert reading.api.seen[-1].body == packed
    last(reading)
    assert reading.made.monitors[-1].opening.context == CONTEXT


def test_other_paths_pass_untouched(gating: Run) -> None:
    def echo(seen: Seen) -> Reply:
        headers = [(b"content-type", b"application/octet-stream"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        headers += [(b"x-kept", b"1"), (b"connection", b"x-dropped"), (b"x-dropped", b"1"), (b"location", b"/else")]
        return Reply(
            pieces=[seen.method.encode(), b" ", seen.path, b"?", seen.query, b" ", seen.body],
            status=307,
            headers=headers,
        )

    gating.api.reply = echo
    before = len(gating.api.seen)
    stored = gating.settled()
    blob = bytes(range(256)) * 2_000

    def upload() -> Iterator[bytes]:
        yield from (blob[at : at + 50_000] for at in range(0, len(blob), 50_000))

    with httpx.Client(headers={"authorization": f"Bearer {SECRET}", "accept-encoding": "br"}) as client:
        answer = client.post(f"{gating.url}/v1/files%2Fx?key=1&a=%20b", content=upload())
        assert answer.status_code == 307
        assert answer.content == b"POST /v1/files%2Fx?key=1&a=%20b " + blob
        names = [name for name, _ in answer.headers.raw]
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert b"x-kept" in names and b"x-dropped" not in names
        assert not any(name.startswith(b"x-cot-probe") for name in names)
        assert httpx.get(f"{gating.url}/v1/models").content == b"GET /v1/models? "
        assert client.delete(f"{gating.url}/v1/files/1").content == b"DELETE /v1/files/1? "
        assert client.head(f"{gating.url}/v1/models").status_code == 307
    seen = gating.api.seen[before:]
    assert len(seen) == 4
    given_headers = dict(seen[0].headers)
    assert given_headers[b"accept-encoding"] == b"br" and given_headers[b"authorization"] == f"Bearer {SECRET}".encode()
    assert b"cookie" not in dict(seen[1].headers)  # one client's cookies are not another's
    upstream = gating.proxy._options.upstream.removeprefix("http://").encode()
    assert given_headers[b"host"] == upstream
    assert gating.settled() == stored


def test_secrets_are_neither_stored_nor_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cot_probe.proxy")
    with running(tmp_path, gate=True) as run:
        run.api.reply = Reply(pieces=chat_stream("reasoning", calls=CALLS))
        headers = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "cookie": SECRET}
        httpx.post(f"{run.url}/v1/chat/completions?key={SECRET}", json=ASKED, headers=headers)
        run.api.reply = Reply(pieces=[], status=500)
        httpx.post(f"{run.url}/v1/chat/completions?key={SECRET}", json=ASKED, headers=headers)
        assert run.stored(2)[0].row.path == "/v1/chat/completions"
        assert run.api.seen[0].query == f"key={SECRET}".encode()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET.encode() not in written
    logged = " ".join(
        f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name == "cot_probe.proxy"
    )
    assert "answer" in logged and SECRET not in logged and "shutdown" not in logged


def test_websockets_are_refused_and_health_is_told(gating: Run) -> None:
    request = (
        b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    async def ask() -> bytes:
        host, port = gating.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.readline()
        writer.close()
        return answer

    assert b" 403 " in asyncio.run(ask())
    health = httpx.get(gating.url + HEALTH_PATH).json()
    assert health["status"] == "ok" and health["tapped"] > 0 and health["not_stored"] == 0


def nearly(one: Any, other: Any) -> bool:
    """Whether two records are the same but for the last digits of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(nearly(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(nearly, one, other))
    return bool(one == pytest.approx(other, abs=1e-5)) if isinstance(one, float) else one == other


@pytest.mark.parametrize("protocol", SHAPES)
def test_what_is_stored_equals_batch_tagging(tmp_path: Path, toy_tagger: Tagger, protocol: ProtocolName) -> None:
    hold_all = Policy(name="all", tags={"strategic_harm": Limits(hold=0.0)})
    hold_none = Policy(name="none", tags={"strategic_harm": Limits(hold=None)})
    text = PLAN * 7
    with Scorer(toy_tagger) as scorer:
        for policy, withheld in ((hold_all, True), (hold_none, False)):
            make = monitor_maker(scorer, policy)
            with running(tmp_path / policy.name, make=make, policy=policy, gate=True, budget_s=20.0) as run:
                run.api.reply = Reply(pieces=stream_of(protocol, text, CALLS[:1]))
                final_of(run, protocol, stream=True)
                found = last(run)
            assert found.verdicts[0].withheld is withheld and found.verdicts[0].scored
            assert found.row.scored and found.row.result is not None
            expected = toy_tagger.tag(text, context=CONTEXT).as_dict()
            for name in (
                "sentences",
                "scores",
                "tags",
                "n_tokens",
                "context",
                "checkpoint",
                "visibility",
                "unfamiliar",
            ):
                assert nearly(found.row.result[name], expected[name]), name
            block = found.row.result["blocks"][0]
            assert block["end"] == len(text) and block["field"] == found.row.blocks[0]["field"]
            assert "write(" in block["action"] and "Done." in block["action"]
            assert found.row.result["metadata"]["trace"] == found.row.id
