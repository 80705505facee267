import asyncio
import gzip
import json
import random
import time
from pathlib import Path
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_runs import (
    ASKED,
    OPEN,
    READING,
    SECRET,
    SHAPES,
    TURNS,
    Made,
    Run,
    body_of,
    final_of,
    last,
    reply_of,
    running,
    stream_of,
    through,
)
from proxy_runs import gating as gating
from proxy_upstream import (
    DONE,
    HARMLESS,
    PLAN,
    TOOL,
    USER,
    Reply,
    call_chunks,
    chat_body,
    chat_stream,
    chunk,
    json_reply,
    response_items,
    response_stream,
    sse,
)
from test_proxy_deltas import CALLS, REAL, frames_in, pieces, spoilt

from cot_probe.gate import Action, Policy
from cot_probe.proxy.chat import ChatDeltas
from cot_probe.proxy.exchange import Asked, Exchange, ProtocolName
from cot_probe.proxy.frames import frame_bytes, frame_of, json_of
from cot_probe.proxy.messages import MessagesDeltas
from cot_probe.proxy.reading import Watch
from cot_probe.proxy.responses import ResponsesDeltas, is_call
from cot_probe.proxy.store import read_store


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(), protocol=st.sampled_from(list(SHAPES)))
def test_a_gate_that_allows_all_changes_no_byte(seed: int, protocol: ProtocolName) -> None:
    raw = b"".join(stream_of(protocol, HARMLESS, CALLS))
    got, _ = asyncio.run(through(pieces(raw, seed), path=SHAPES[protocol], gate=True))
    assert b"".join(got) == raw


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(), protocol=st.sampled_from(list(SHAPES)))
def test_a_gate_lets_text_and_reasoning_through_and_no_call(seed: int, protocol: ProtocolName) -> None:
    raw = b"".join(stream_of(protocol, calls=CALLS))
    got, _ = asyncio.run(through(pieces(raw, seed), path=SHAPES[protocol], gate=True))
    text = b"".join(got).decode()
    before_calls = raw.decode().split(
        {"chat": "tool_calls", "messages": "tool_use", "responses": "function_call"}[protocol]
    )
    assert text.startswith(before_calls[0].rpartition("\n\n")[0])
    assert "🙂." in text and "Done." in text
    assert "shutdown.sh" not in text and "a@example.org" not in text
    assert text.count("withheld by policy") >= 2


def dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def calls_seen(protocol: ProtocolName, raw: bytes) -> list[Any]:
    """Everything in a stream that a client takes for a call."""
    found: list[Any] = []
    for data in filter(None, map(json_of, frames_in(raw))):
        if protocol == "chat":
            said = [choice.get("delta") or choice.get("message") for choice in dicts(data.get("choices"))]
            found += [one for one in dicts(said) if dicts(one.get("tool_calls")) or one.get("function_call")]
        elif protocol == "messages":
            blocks = [
                data.get("content_block"),
                *(one for whole in dicts([data.get("message")]) for one in dicts(whole.get("content"))),
            ]
            found += [one for one in dicts(blocks) if one.get("type") == "tool_use"]
        else:
            items = [
                data.get("item"),
                *(one for whole in dicts([data.get("response")]) for one in dicts(whole.get("output"))),
            ]
            found += [one for one in dicts(items) if is_call(str(one.get("type")))]
    return found


@pytest.mark.parametrize(
    ("protocol", "make"), [("chat", ChatDeltas), ("messages", MessagesDeltas), ("responses", ResponsesDeltas)]
)
def test_spoilt_frames_break_no_gate_and_let_no_call_through(protocol: ProtocolName, make: Any) -> None:
    real = [data for data in (json_of(frame_of(raw)) for raw in REAL[make]) if data is not None]
    real = [
        data
        for data in real
        if data.get("object") not in {"chat.completion", "response"} and data.get("type") != "message"
    ]

    async def one(seed: int, always: Action) -> None:
        rng = random.Random(seed)
        watch = Watch(make=Made({"always": always}), policy=OPEN, gate=True, budget_s=5.0)
        asked = Asked(protocol=protocol, path="/x")
        exchange = Exchange(watch, asked, id="t", stream=True, told=lambda _: None)
        gate, out = exchange.gate(), bytearray()
        for data in rng.sample(real, min(14, len(real))):
            raw = frame_bytes(spoilt(data, rng) if rng.random() < 0.7 else data)
            found = json_of(frame_of(raw))
            if found is not None:
                exchange.read(found)
            out += b"".join(await gate.frame(frame_of(raw), found))
        exchange.over()
        out += b"".join(await gate.close())
        await exchange.close("complete")
        if always == "hold":
            assert calls_seen(protocol, bytes(out)) == []

    async def all_of_them() -> None:
        for seed in range(150):
            await one(seed, "hold" if seed % 3 else "allow")

    asyncio.run(all_of_them())


def test_text_overtakes_a_call_that_waits() -> None:
    """Calls first, text behind them: the text goes out at once, in its own bytes."""
    calls = call_chunks("write", TOOL)
    text = [chunk({"content": bit}) for bit in ("All ", "is well.")]
    mixed = chunk({"role": "assistant", "content": "So: ", "tool_calls": [{"index": 1, "id": "c", "type": "function"}]})
    ended = [chunk({}, "tool_calls"), DONE]
    got, _ = asyncio.run(through([*calls, *text, mixed, *ended], gate=True))
    assert got[:2] == text
    assert json_of(frame_of(got[2]))["choices"][0]["delta"] == {"role": "assistant", "content": "So: "}  # type: ignore[index]
    assert b"".join(got[3:]).startswith(b"".join(calls))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_held_call_in_chat_becomes_a_refusal(gating: Run, stream: bool) -> None:
    gating.api.reply = reply_of("chat", PLAN, CALLS, stream=stream)
    choice = final_of(gating, "chat", stream=stream).choices[0]
    assert choice.finish_reason == "stop" and not choice.message.tool_calls
    assert choice.message.role == "assistant"
    assert choice.message.refusal.startswith("The calls of `write`, `mail` were withheld by policy and not run.")
    assert choice.message.content == f"Done.\n\n{choice.message.refusal}"
    found = last(gating)
    assert found.row.id in choice.message.refusal
    assert [(one.tool, one.withheld) for one in found.verdicts if one.tool] == [("write", True), ("mail", True)]
    assert "shutdown" not in choice.message.refusal  # what was found is not told to the model


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("order", ["held first", "held last"])
def test_calls_are_decided_on_one_by_one(gating: Run, stream: bool, order: str) -> None:
    calls = [CALLS[0], READING] if order == "held first" else [READING, CALLS[0]]
    gating.api.reply = reply_of("chat", PLAN, calls, stream=stream)
    choice = final_of(gating, "chat", stream=stream).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == [
        ("read_logs", {"day": 1})
    ]
    assert choice.message.refusal.startswith("The call of `write` was withheld")
    gating.api.reply = reply_of("messages", PLAN, calls, stream=stream)
    message = final_of(gating, "messages", stream=stream)
    assert message.stop_reason == "tool_use"
    kinds = ["text", "tool_use"] if order == "held first" else ["tool_use", "text"]
    assert [block.type for block in message.content] == ["thinking", "text", *kinds]
    gating.api.reply = reply_of("responses", PLAN, calls, stream=stream)
    response = final_of(gating, "responses", stream=stream)
    kinds = ["message", "function_call"] if order == "held first" else ["function_call", "message"]
    assert [item.type for item in response.output] == ["reasoning", "message", *kinds]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_held_call_of_anthropics_becomes_a_refusal(gating: Run, stream: bool) -> None:
    gating.api.reply = reply_of("messages", PLAN, CALLS[:1], stream=stream)
    message = final_of(gating, "messages", stream=stream)
    assert [block.type for block in message.content] == ["thinking", "text", "text"]
    assert message.content[2].text.startswith("The call of `write` was withheld by policy")
    assert message.stop_reason == "refusal"
    assert message.stop_details.type == "refusal" and message.stop_details.explanation == message.content[2].text
    assert message.content[0].thinking == PLAN and message.content[0].signature == "c2ln"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_held_call_of_responses_becomes_a_refusal(gating: Run, stream: bool) -> None:
    gating.api.reply = reply_of("responses", PLAN, [CALLS[0], CALLS[1]], stream=stream)
    response = final_of(gating, "responses", stream=stream)
    assert [item.type for item in response.output] == ["reasoning", "message", "message", "message"]
    assert response.output[2].content[0].refusal.startswith("The call of `write` was withheld by policy")
    assert response.output_text == "Done." and response.status == "completed"


def test_the_events_of_a_refusal_are_in_order(gating: Run) -> None:
    gating.api.reply = reply_of("responses", PLAN, [CALLS[0], READING], stream=True)
    events = list(gating.openai.responses.create(model="m", input=USER, stream=True))
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(events)))
    at_refusal = [event.type for event in events if getattr(event, "output_index", None) == 2]
    assert at_refusal == [
        "response.output_item.added",
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    gating.api.reply = reply_of("messages", PLAN, CALLS[:1], stream=True)
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": USER}]}
    kinds = [event.type for event in gating.anthropic.messages.create(**asked, stream=True)]
    assert kinds[-5:] == [
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_the_asynchronous_clients(gating: Run) -> None:
    async def ask() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(base_url=f"{gating.url}/v1", api_key=SECRET, max_retries=0) as client:
            gating.api.reply = reply_of("chat", PLAN, CALLS[:1], stream=True)
            finish = [
                one.choices[0].finish_reason
                async for one in await client.chat.completions.create(model="m", messages=cast(Any, TURNS), stream=True)
                if one.choices and one.choices[0].finish_reason
            ]
        async with anthropic.AsyncAnthropic(base_url=gating.url, api_key=SECRET, max_retries=0) as other:
            gating.api.reply = reply_of("messages", PLAN, CALLS[:1], stream=True)
            async with other.messages.stream(
                model="m", max_tokens=9, messages=[{"role": "user", "content": USER}]
            ) as events:
                return finish, await events.get_final_message()

    finish, message = asyncio.run(ask())
    assert finish == ["stop"] and message.stop_reason == "refusal"


def test_calls_in_one_chunk_with_text_and_end(gating: Run) -> None:
    calls = [
        {"index": n, "id": f"c{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate([CALLS[0], READING])
    ]
    one = chunk({"role": "assistant", "content": "So.", "reasoning": PLAN, "tool_calls": calls}, "tool_calls")
    gating.api.reply = Reply(pieces=[one, DONE])
    choice = final_of(gating, "chat", stream=True).choices[0]
    assert choice.message.content.startswith("So.\n\nThe call of `write` was withheld")
    assert choice.message.role == "assistant" and choice.message.reasoning == PLAN
    assert [call.function.name for call in choice.message.tool_calls] == ["read_logs"]
    assert choice.finish_reason == "tool_calls"


def test_choices_are_judged_apart(gating: Run) -> None:
    sent = [chunk({"role": "assistant", "reasoning": text}, index=n) for n, text in enumerate([PLAN, HARMLESS])]
    sent += [frame for n in (0, 1) for frame in call_chunks("write", TOOL, index=n)]
    ends = [json_of(frame_of(chunk({}, "tool_calls", index=n))) for n in (0, 1)]
    sent.append(sse({**(ends[0] or {}), "choices": [(one or {})["choices"][0] for one in ends]}))
    gating.api.reply = Reply(pieces=[*sent, DONE])
    known = {one.row.id for one in read_store(gating.path)}
    first, second = final_of(gating, "chat", stream=True).choices
    assert (first.finish_reason, first.message.tool_calls) == ("stop", None)
    assert second.finish_reason == "tool_calls" and len(second.message.tool_calls) == 1
    end = time.monotonic() + 20
    found: dict[str, str] = {}
    while not (pairs := [name for name in found if name not in known and f"{name}.1" in found]):
        assert time.monotonic() < end, found
        found = {one.row.id: one.verdicts[0].action for one in read_store(gating.path) if one.verdicts}
    assert (found[pairs[0]], found[f"{pairs[0]}.1"]) == ("hold", "allow")


def test_a_response_that_is_fetched_later_is_gated_too(gating: Run) -> None:
    gating.api.reply = json_reply(body_of("responses", PLAN, CALLS[:1]))
    response = gating.openai.responses.retrieve("resp_7")
    assert [item.type for item in response.output] == ["reasoning", "message", "message"]
    assert gating.api.seen[-1].method == "GET"


def test_policy_decides_on_what_is_unreadable(tmp_path: Path) -> None:
    policy = Policy(name="strict", tags={}, on_unreadable="hold")
    made = Made({"policy": policy})
    with running(tmp_path, make=made, policy=policy, gate=True) as run:
        run.api.reply = Reply(pieces=chat_stream("none", calls=CALLS[:1]))
        assert final_of(run, "chat", stream=True).choices[0].finish_reason == "stop"
        assert last(run).verdicts[0].withheld


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_compressed_answer_is_gated(gating: Run, stream: bool) -> None:
    reply = reply_of("chat", PLAN, CALLS[:1], stream=stream)
    kind = b"text/event-stream" if stream else b"application/json"
    headers = [(b"content-type", kind), (b"content-encoding", b"gzip"), (b"etag", b'"x"')]
    gating.api.reply = Reply(pieces=pieces(gzip.compress(b"".join(reply.pieces)), 1), headers=headers)
    assert final_of(gating, "chat", stream=stream).choices[0].finish_reason == "stop"
    answer = httpx.post(f"{gating.url}/v1/chat/completions", json=ASKED)
    assert "content-encoding" not in answer.headers and "etag" not in answer.headers


def test_old_function_calls_and_custom_tools_are_gated(gating: Run) -> None:
    old = {"name": "write", "arguments": json.dumps(TOOL)}
    custom = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "sql", "input": "drop table logs"}}
    for said, finish in (({"function_call": old}, "function_call"), ({"tool_calls": [custom]}, "tool_calls")):
        gating.api.reply = Reply(pieces=[chunk({"role": "assistant", "reasoning": PLAN}), chunk(said, finish), DONE])
        text = httpx.post(f"{gating.url}/v1/chat/completions", json=ASKED).text
        assert "withheld by policy" in text and '"finish_reason":"stop"' in text
        assert not any(word in text for word in ("shutdown.sh", "drop table", "function_call"))
        body = chat_body("reasoning")
        body["choices"][0] |= {"message": {"role": "assistant", "content": None, "reasoning": PLAN, **said}}
        gating.api.reply = json_reply(body)
        message = httpx.post(f"{gating.url}/v1/chat/completions", json=ASKED).json()["choices"][0]
        assert message["finish_reason"] == "stop" and message["message"]["content"].startswith("The call of ")
        assert "function_call" not in message["message"] and "tool_calls" not in message["message"]


def test_what_gives_a_withheld_call_away_is_left_out(gating: Run) -> None:
    """Log-probabilities hold the tokens of the call."""
    tokens = {"content": [{"token": "shutdown.sh", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    body = chat_body("reasoning", calls=CALLS)
    body["choices"][0]["logprobs"] = tokens
    gating.api.reply = json_reply(body)
    assert "shutdown.sh" not in httpx.post(f"{gating.url}/v1/chat/completions", json=ASKED).text
    frames = [data for data in map(json_of, map(frame_of, chat_stream("reasoning", calls=CALLS[:1]))) if data]
    for data in frames:
        for choice in data["choices"]:
            choice["logprobs"] = tokens if choice["delta"].get("tool_calls") else None
    gating.api.reply = Reply(pieces=[*map(sse, frames), DONE])
    assert "shutdown.sh" not in httpx.post(f"{gating.url}/v1/chat/completions", json=ASKED).text


@pytest.mark.parametrize("text", [PLAN, HARMLESS])
def test_items_that_are_written_at_the_same_time(gating: Run, text: str) -> None:
    """A message goes on while a call before it waits: numbers still only rise, and the client's snapshot holds."""
    items = response_items(text, answer="", calls=[CALLS[0]])
    part = {"type": "output_text", "text": "All is well.", "annotations": []}
    items.append({"id": "msg_9", "type": "message", "role": "assistant", "status": "completed", "content": [part]})
    events = [data for data in map(json_of, map(frame_of, response_stream(items))) if data]
    call = [event for event in events if event.get("output_index") == 1]
    message = [event for event in events if event.get("output_index") == 2]
    rest = [event for event in events if event.get("output_index") not in {1, 2}]
    mixed = [*rest[:-1], *call[:-1], *message, call[-1], rest[-1]]
    gating.api.reply = Reply(pieces=[sse(e | {"sequence_number": n}, e["type"]) for n, e in enumerate(mixed)])
    got = list(gating.openai.responses.create(model="m", input=USER, stream=True))
    numbers = [event.sequence_number for event in got]
    assert numbers == sorted(set(numbers))
    places = [getattr(event, "output_index", None) for event in got]
    assert places.index(2) < places.index(1)  # the text did not wait
    final = final_of(gating, "responses", stream=True)
    kinds = ["reasoning", "message", "message"] if text == PLAN else ["reasoning", "function_call", "message"]
    assert [item.type for item in final.output] == kinds
    assert final.output_text == "All is well."
