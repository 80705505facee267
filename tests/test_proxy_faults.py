import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest
import typer
from proxy_runs import (
    ASKED,
    OPEN,
    POLICY,
    READING,
    SECRET,
    SHAPES,
    TURNS,
    Made,
    Plain,
    Run,
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
    HARMLESS,
    PLAN,
    FakeApi,
    Reply,
    Seen,
    chat_body,
    chat_stream,
    json_reply,
    message_content,
    message_stream,
    response_items,
    response_stream,
    served,
    sse,
)
from test_proxy_deltas import CALLS
from typer.testing import CliRunner

from cot_probe.gate import Policy
from cot_probe.monitor import Closing
from cot_probe.proxy.exchange import ProtocolName
from cot_probe.proxy.store import read_store
from cot_probe.proxy.upstream import ProxyOptions
from cot_probe.proxy_command import proxy


@pytest.mark.parametrize(
    ("protocol", "pieces_", "visibility"),
    [
        ("chat", chat_stream("none", calls=CALLS[:1]), "absent"),
        (
            "messages",
            message_stream([{"type": "redacted_thinking", "data": "x"}, *message_content("", calls=CALLS)]),
            "redacted",
        ),
        ("messages", message_stream([{"type": "thinking", "thinking": "", "signature": "x"}]), "redacted"),
        (
            "responses",
            response_stream([{"id": "r", "type": "reasoning", "summary": [], "encrypted_content": "x"}]),
            "redacted",
        ),
        ("responses", response_stream(response_items(PLAN, summary=True)), "summary"),
    ],
)
def test_hidden_reasoning_is_stored_as_such(
    reading: Run, protocol: ProtocolName, pieces_: list[bytes], visibility: str
) -> None:
    reading.api.reply = Reply(pieces=pieces_)
    word = comment_in(httpx.post(reading.url + SHAPES[protocol], json=ASKED).text)
    found = last(reading).row
    readable = visibility == "summary"
    assert (found.visibility, word["visibility"]) == (visibility, visibility)
    assert word["scored"] is readable and found.scored is False  # this monitor gives no results
    assert word["verdict"] == ("hold" if readable else "flag")
    assert found.result is None
    assert (found.not_scored != "") is readable


@pytest.mark.parametrize(("policy", "finish"), [(POLICY, "stop"), (OPEN, "tool_calls")], ids=["closed", "open"])
@pytest.mark.parametrize("fault", [{"fails": True}, {"wait_s": 30.0}], ids=["fails", "late"])
def test_a_monitor_that_fails_fails_open_or_closed(
    tmp_path: Path, policy: Policy, finish: str, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, make=Made(fault), policy=policy, gate=True, budget_s=0.0, close_s=0.1) as run:
        run.api.reply = Reply(pieces=stream_of("chat", PLAN, CALLS[:1]))
        assert final_of(run, "chat", stream=True).choices[0].finish_reason == finish
        found = last(run)
        assert found.verdicts[0].scored is False and found.verdicts[0].withheld is (finish == "stop")
        assert found.row.scored is False and found.row.not_scored
        assert found.row.blocks[0]["text"] == PLAN
    assert "shutdown" not in caplog.text


def test_more_than_is_read_counts_as_not_scored(tmp_path: Path) -> None:
    with running(tmp_path, gate=True, max_chars=30) as run:
        run.api.reply = Reply(pieces=stream_of("chat", HARMLESS, [READING]))
        assert final_of(run, "chat", stream=True).choices[0].finish_reason == "stop"
        found = last(run)
        assert "over the limit" in found.row.not_scored and len(found.row.blocks[0]["text"]) <= 30
        assert found.verdicts[0].action == "hold" and not found.verdicts[0].scored


def test_frames_that_are_no_json(tmp_path: Path) -> None:
    junk = b'data: {"choices": [{"delta": {"tool_calls": [}]}\n\n'
    sent = [*chat_stream("reasoning", HARMLESS)[:4], junk, *chat_stream("reasoning", HARMLESS)[4:]]
    got, _ = asyncio.run(through(sent))
    assert b"".join(got) == b"".join(sent)
    closed, _ = asyncio.run(through(sent, gate=True))
    assert b"".join(closed) == b"".join(sent).replace(junk, b"")
    opened, _ = asyncio.run(through(sent, gate=True, policy=OPEN))
    assert b"".join(opened) == b"".join(sent)
    word = comment_in(b"".join(asyncio.run(through(sent, annotate=True))[0]).decode())
    assert word["scored"] is False and word["verdict"] == "hold"


@pytest.mark.parametrize("gate", [False, True])
def test_bodies_that_cannot_be_read(tmp_path: Path, gate: bool) -> None:
    large = chat_body("reasoning", PLAN, answer="x" * 3_000_000, calls=CALLS)
    cases = [
        (json_reply(large), "larger than"),
        (Reply(pieces=[b"{"], headers=[(b"content-type", b"application/json")]), "no JSON object"),
        (Reply(pieces=[b"{}"], headers=[(b"content-type", b"text/plain")]), "content-type"),
        (Reply(pieces=[b"xx"], headers=[(b"content-type", b"application/json"), (b"content-encoding", b"br")]), "'br'"),
        (
            Reply(pieces=[b"xx"], headers=[(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]),
            "gzip",
        ),
    ]
    with running(tmp_path, options={"max_body_bytes": 2_000_000}, gate=gate) as run:
        for count, (reply, reason) in enumerate(cases, 1):
            run.api.reply = reply
            with httpx.stream("POST", f"{run.url}/v1/chat/completions", json=ASKED) as answer:
                raw = b"".join(answer.iter_raw())
            if gate:
                assert answer.status_code == 502
                assert reason in json.loads(raw)["error"]["message"]
            else:
                assert raw == b"".join(reply.pieces)
                assert answer.headers["x-cot-probe-scored"] == "false"
            row = run.stored(count)[-1].row
            assert row.ended == "not_read" and reason in row.reason and row.visibility == "absent"
            assert row.not_scored and not row.scored
    with running(tmp_path / "open", options={"max_body_bytes": 2_000_000}, gate=True, policy=OPEN) as run:
        run.api.reply = cases[0][0]
        assert httpx.post(f"{run.url}/v1/chat/completions", json=ASKED).content == b"".join(cases[0][0].pieces)


def test_a_broken_compressed_stream_passes_as_it_is(reading: Run) -> None:
    packed = gzip.compress(b"".join(chat_stream("reasoning")))
    sent = [packed[:40], b"rubbish" * 9, packed[40:]]
    reading.api.reply = Reply(
        pieces=sent, headers=[(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
    )
    with httpx.stream("POST", f"{reading.url}/v1/chat/completions", json=ASKED) as answer:
        assert b"".join(answer.iter_raw()) == b"".join(sent)
    row = last(reading).row
    assert row.ended == "not_read" and "gzip" in row.reason and not row.scored


def test_requests_that_cannot_be_read_are_noted(tmp_path: Path) -> None:
    with running(tmp_path, options={"max_body_bytes": 100_000}) as run:
        run.api.reply = Reply(pieces=chat_stream("reasoning", HARMLESS))
        for body in (b"x" * 300_000, b"no json"):
            httpx.post(f"{run.url}/v1/chat/completions", content=body)
            assert run.api.seen[-1].body == body
            last(run)
            opening = run.made.monitors[-1].opening
            assert opening.context == "" and "was not read" in opening.metadata["context_note"]
            assert run.made.monitors[-1].text == HARMLESS


def test_errors_of_the_provider_pass_untouched(reading: Run) -> None:
    error = {"error": {"message": "slow down", "type": "rate_limit", "code": "rate"}}
    reading.api.reply = json_reply(error, status=429)
    with pytest.raises(openai.RateLimitError, match="slow down"):
        final_of(reading, "chat", stream=True)
    row = last(reading).row
    assert (row.ended, row.reason, row.status, row.visibility) == ("error", "HTTP 429", 429, "absent")
    assert not row.scored
    reading.api.reply = json_reply({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, status=529)
    with pytest.raises(anthropic.APIStatusError) as caught:
        final_of(reading, "messages", stream=False)
    assert caught.value.status_code == 529
    sent = [
        *message_stream(message_content())[:9],
        sse({"type": "error", "error": {"type": "overloaded_error"}}, "error"),
    ]
    reading.api.reply = Reply(pieces=sent)
    with pytest.raises(anthropic.APIStatusError):
        final_of(reading, "messages", stream=True)
    row = last(reading).row
    assert (row.ended, row.reason) == ("error", "overloaded_error") and row.blocks[0]["text"]


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.proxy._options = ProxyOptions(upstream="http://127.0.0.1:9")
        with pytest.raises(openai.InternalServerError, match="no answer from the upstream") as caught:
            final_of(run, "chat", stream=True)
        assert caught.value.status_code == 502 and caught.value.code == "upstream_unreachable"
        with pytest.raises(anthropic.InternalServerError, match="no answer from the upstream"):
            final_of(run, "messages", stream=True)
        assert run.proxy.counts.upstream_errors == 2


def test_an_upstream_that_is_too_slow(tmp_path: Path) -> None:
    with running(tmp_path, options={"read_s": 0.3}) as run:
        run.api.reply = Reply(pieces=[], first_pause_s=5.0)
        with pytest.raises(openai.InternalServerError) as caught:
            final_of(run, "chat", stream=True)
        assert caught.value.status_code == 504
        run.api.reply = Reply(pieces=chat_stream("reasoning"), pause_s=5.0)
        with pytest.raises(openai.APIConnectionError):
            final_of(run, "chat", stream=True)
        row = last(run).row
        assert (row.ended, row.reason) == ("upstream_gone", "ReadTimeout")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_upstream_that_breaks_off(tmp_path: Path, stream: bool) -> None:
    for gate in (False, True):
        with running(tmp_path / str(gate), gate=gate) as run:
            whole = reply_of("chat", PLAN, CALLS, stream=stream)
            cut = whole.pieces[:-4] if stream else [whole.pieces[0][:200]]
            run.api.reply = Reply(pieces=cut, headers=whole.headers, cut=True)
            with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
                final_of(run, "chat", stream=stream)
            row = last(run).row
            assert row.ended == "upstream_gone"
            assert (row.blocks[0]["text"] == PLAN) if stream else row.blocks == []
            assert not any(one.withheld for one in last(run).verdicts)


def test_a_stream_that_ends_before_its_answer(reading: Run, gating: Run) -> None:
    frames = stream_of("messages", PLAN, CALLS[:1])
    begun = next(n for n, raw in enumerate(frames) if b'"tool_use"' in raw)
    for run in (reading, gating):
        run.api.reply = Reply(pieces=frames[: begun + 3])
        answer = httpx.post(f"{run.url}/v1/messages", json=ASKED)
        assert last(run).row.ended == "unfinished"
        assert ("shutdown.sh" in answer.text or "tool_use" in answer.text) is (run is reading)


def test_a_client_that_leaves(tmp_path: Path) -> None:
    with running(tmp_path, gate=True) as run:
        run.api.reply = Reply(pieces=chat_stream("reasoning", PLAN * 30, calls=CALLS), pause_s=0.02)
        with httpx.stream("POST", f"{run.url}/v1/chat/completions", json=ASKED) as answer:
            for number, _ in enumerate(answer.iter_raw()):
                if number == 5:
                    break
        found = run.stored(1)[0]
        assert found.row.ended == "client_gone" and 0 < len(found.row.blocks[0]["text"]) < len(PLAN * 30)
        assert (PLAN * 30).startswith(found.row.blocks[0]["text"])
        end = time.monotonic() + 10
        while not run.api.seen[0].gone:
            assert time.monotonic() < end, "the upstream's request goes on"
            time.sleep(0.01)
        assert run.api.seen[0].pieces_sent < 100
        assert run.proxy.counts.open == 0


def test_a_client_that_leaves_before_the_answer_begins(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.api.reply = Reply(pieces=chat_stream("reasoning"), first_pause_s=30.0)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{run.url}/v1/chat/completions", json=ASKED, timeout=0.5)
        end = time.monotonic() + 10
        while not (run.api.seen and run.api.seen[0].gone):
            assert time.monotonic() < end, "the upstream's request goes on"
            time.sleep(0.01)


def test_whoever_has_read_the_last_frame_may_leave(reading: Run) -> None:
    """OpenAI's client closes at ``[DONE]`` and never reads the comment behind it."""
    reading.api.reply = Reply(pieces=[b"".join(chat_stream("reasoning", HARMLESS))])
    with reading.openai.chat.completions.create(model="m", messages=cast(Any, TURNS), stream=True) as chunks:
        assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"
    assert last(reading).row.ended == "complete"


def test_too_many_at_a_time_are_told_to_come_again(tmp_path: Path) -> None:
    with running(tmp_path, options={"max_open": 2}) as run:
        run.api.reply = Reply(pieces=chat_stream("reasoning", HARMLESS), first_pause_s=0.5)

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=20) as client:
                asked = [client.post(f"{run.url}/v1/chat/completions", json=ASKED) for _ in range(6)]
                return await asyncio.gather(*asked)

        answers = asyncio.run(ask())
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "too_many_requests_open"


def test_many_streams_at_once_keep_apart(tmp_path: Path) -> None:
    def own(seen: Seen) -> Reply:
        name = json.loads(seen.body)["model"]
        return Reply(pieces=chat_stream("reasoning_content", f"I am {name}. " * 20), pause_s=0.001)

    with running(tmp_path) as run:
        run.api.reply = own

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=60) as client:
                return await asyncio.gather(
                    *(client.post(f"{run.url}/v1/chat/completions", json=ASKED | {"model": f"m{n}"}) for n in range(25))
                )

        answers = asyncio.run(ask())
        for number, answer in enumerate(answers):
            assert f'"reasoning_content": "I am {number}'[:35] in answer.text or f"m{number}" in answer.text
        rows = run.stored(25)
        assert sorted(one.row.blocks[0]["text"] for one in rows) == sorted(f"I am m{n}. " * 20 for n in range(25))


# The command.


@contextmanager
def command(*arguments: str | Path, checkpoint: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``cot-probe proxy`` in a process of its own, and its URL."""
    code = "import typer; from cot_probe.proxy_command import proxy; typer.run(proxy)"
    whole = [sys.executable, "-c", code, "--port", "0", "--checkpoint", checkpoint, *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    process = subprocess.Popen(list(map(str, whole)), stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"cot-probe: (http://[\d.:]+) -> ", said)):
            line = process.stderr.readline()
            said += line
            assert line, said
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_the_command_finishes_what_it_passes_on(tmp_path: Path, toy_checkpoint: Path) -> None:
    api, store = FakeApi(), tmp_path / "store.sqlite"
    policy = tmp_path / "policy.toml"
    policy.write_text('name = "all"\n[tags.strategic_harm]\nhold = 0.0\n')
    with served(api) as upstream:
        given_ = ["--upstream", upstream, "--gate", "--policy", policy, "--store", store, "--budget", "20"]
        with command(*given_, checkpoint=toy_checkpoint) as (process, url):
            api.reply = Reply(pieces=chat_stream("reasoning", PLAN, calls=CALLS[:1]), pause_s=0.05)
            with httpx.stream("POST", f"{url}/v1/chat/completions?key={SECRET}", json=ASKED, timeout=60) as answer:
                pieces_ = answer.iter_raw()
                text = next(pieces_)
                process.send_signal(signal.SIGTERM)
                text += b"".join(pieces_)
            assert b"withheld by policy" in text and b'"verdict":"hold"' in text
            assert process.wait(60) == 0
            assert process.stderr is not None
            logged = process.stderr.read()
    found = list(read_store(store))
    assert len(found) == 1 and found[0].row.ended == "complete" and found[0].row.scored
    assert found[0].verdicts[0].withheld
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [line["event"] for line in lines] == ["answer"] and lines[0]["trace"] == found[0].row.id
    assert SECRET not in logged and "shutdown" not in logged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upstream", "api.openai.com"], "expected a URL"),
        (["--upstream", "http://a", "--store", "{tmp}"], "give another --store"),
        (["--upstream", "http://a", "--host", "192.0.2.1", "--no-store"], "cannot listen on 192.0.2.1"),
        (["--upstream", "http://a", "--policy", "{tmp}/none.toml", "--no-store", "--port", "0"], "no such file"),
        (["--upstream", "http://a", "--checkpoint", "{tmp}/none", "--no-store", "--port", "0"], "none"),
    ],
)
def test_wrong_arguments_are_explained(
    tmp_path: Path, toy_checkpoint: Path, arguments: list[str], message: str
) -> None:
    app = typer.Typer()
    app.command()(proxy)
    whole = [argument.format(tmp=tmp_path) for argument in arguments]
    if "--checkpoint" not in whole:
        whole += ["--checkpoint", str(toy_checkpoint)]
    done = CliRunner().invoke(app, whole)
    assert done.exit_code == 2 and message in done.stderr, done.stderr


def test_what_cannot_be_finished_in_time_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Endless(Plain):
        async def close(self, *, timeout: float | None = None) -> Closing:
            await asyncio.sleep(60)
            raise AssertionError

    with running(tmp_path, make=Endless, options={"finish_s": 0.2}) as run:
        run.api.reply = Reply(pieces=chat_stream("reasoning", HARMLESS))
        httpx.post(f"{run.url}/v1/chat/completions", json=ASKED)
    assert [record.getMessage() for record in caplog.records if record.name == "cot_probe.proxy"] == ["not stored"]
    assert list(read_store(run.path)) == []
