"""Runs of agents as experiments write them down: SHADE-Arena, turn-typed runs, event logs, AutoGPT.

Judges, monitors and annotators write into the same records. Only what the agent itself thought is
read: evaluations go to the metadata, and nothing that somebody else wrote becomes a block.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cot_probe.transcripts import rows
from cot_probe.transcripts.chat import blocks_of, context_and_ends, role_of
from cot_probe.transcripts.containers import READ_ERRORS, TranscriptFile, UnreadableError, json_lines, parse_json
from cot_probe.transcripts.content import (
    REASONING_FIELDS,
    ShapeError,
    action_text,
    call_text,
    message_blocks,
    tool_calls,
    visible_text,
)
from cot_probe.transcripts.steps import Step, assembled, metadata_of, once, trace_of_run
from cot_probe.transcripts.tags import unmarked
from cot_probe.transcripts.trace import Block, Rejection, Source, Trace, Visibility


def sniff_shade(record: Any) -> bool:
    """Whether ``record`` holds a ``conversation`` of messages, with SHADE-Arena's marks or nothing else to read."""
    if not isinstance(record, Mapping) or record.keys() & {"choices", "events", "messages"}:
        return False
    conversation = record.get("conversation")
    if not isinstance(conversation, list):
        return False
    if record.keys() & {"main_task_score", "side_task_score"}:
        return True
    messages = [item for item in conversation if isinstance(item, Mapping) and isinstance(item.get("role"), str)]
    if not messages or len(messages) < len(conversation):
        return False
    return any("thinking_blocks" in item for item in messages) or not rows.sniff(record)


def read_shade(record: Mapping[str, Any], source: Source, *, id: str) -> list[Trace]:
    """Turn one SHADE-Arena transcript into a trace.

    Raises:
        ShapeError: if a message is not an object or its content is of no known shape.
    """
    unfolded: list[Mapping[str, Any]] = []
    places: list[list[str]] = []
    for number, message in enumerate(record["conversation"]):
        whole, origins = _unfolded(message, f"conversation[{number}]")
        unfolded.append(whole)
        places.append(origins)
    context, told = context_and_ends(unfolded, system=record.get("system_prompt"))
    blocks = [
        dataclasses.replace(block, field=_place(block.field, places[block.message or 0]))
        for block in blocks_of(unfolded, told)
    ]
    metadata = metadata_of(record, used={"conversation", "id", "system_prompt"})
    return [trace_of_run(id, once(blocks), context, source, metadata)]


_PART = re.compile(r"content\[(\d+)\](.*)")


def _place(field: str, origins: Sequence[str]) -> str:
    """Where a field of an unfolded message stands in the message as it was."""
    part = _PART.fullmatch(field)
    if part is None or not origins:
        return field
    origin = origins[int(part[1])]
    return origin if origin == "content" else origin + part[2]


def _unfolded(message: Any, place: str) -> tuple[Mapping[str, Any], list[str]]:
    """The message with its ``thinking_blocks`` put before its content, and where each part stood."""
    if not isinstance(message, Mapping):
        raise ShapeError(f"{place} is a {type(message).__name__}, expected an object")
    thoughts = message.get("thinking_blocks")
    if not thoughts:
        return message, []
    if not isinstance(thoughts, list) or not all(isinstance(part, Mapping) for part in thoughts):
        raise ShapeError(f"{place}.thinking_blocks is not a list of objects")
    content = message.get("content")
    if isinstance(content, list):
        parts = content
    else:
        parts = [{"type": "text", "text": content} if isinstance(content, str) else content] if content else []
    origins = [f"thinking_blocks[{number}]" for number in range(len(thoughts))]
    origins += [f"content[{number}]" if parts is content else "content" for number in range(len(parts))]
    rest = {key: value for key, value in message.items() if key != "thinking_blocks"}
    return {**rest, "content": [*({"type": "thinking", **part} for part in thoughts), *parts]}, origins


_THINKING: Final[Mapping[str, Visibility]] = {
    "thinking": "full",
    "reasoning": "full",
    "thinking_summary": "summary",
    "reasoning_summary": "summary",
    "redacted_thinking": "redacted",
}
_TURN_TYPES: Final = {*_THINKING, "text", "tool_call", "tool_result"}


def sniff_turns(record: Any) -> bool:
    """Whether ``record`` is a run whose ``transcript`` is a list of items with ``turn`` and ``type``."""
    if not isinstance(record, Mapping) or not isinstance(record.get("transcript"), list):
        return False
    if not record["transcript"]:
        return {"system_prompt", "user_prompt"} <= record.keys()
    return any(
        isinstance(item, Mapping) and "turn" in item and str(item.get("type")) in _TURN_TYPES
        for item in record["transcript"]
    )


def read_turns(record: Mapping[str, Any], source: Source, *, id: str) -> list[Trace]:
    """Turn one turn-typed run into a trace.

    Raises:
        ShapeError: if an item is not an object, or thinks in something that is not text.
    """
    items = record["transcript"]
    steps = [Step(told=visible_text(record.get("user_prompt")))]
    steps += [_turn_step(item, number) for number, item in enumerate(items)]
    blocks, context = assembled(steps, system=record.get("system_prompt"))
    metadata = metadata_of(record, used={"id", "system_prompt", "user_prompt", "transcript"})
    return [trace_of_run(id, blocks, context, source, metadata)]


def _turn_step(item: Any, number: int) -> Step:
    if not isinstance(item, Mapping):
        raise ShapeError(f"transcript[{number}] is a {type(item).__name__}, expected an object")
    kind, mark = str(item.get("type")), item.get("turn")
    turn = mark if isinstance(mark, str | int) else None
    if kind in _THINKING:
        return Step(by_model=True, turn=turn, blocks=tuple(_thought(item, number, _THINKING[kind])))
    if kind == "text":
        content = item.get("content", item.get("text"))
        blocks = message_blocks({"content": content}, number)
        return Step(by_model=True, turn=turn, blocks=tuple(blocks), did=action_text(content))
    if kind == "tool_call":
        given = next((item[key] for key in ("cmd", "args", "arguments", "input", "content") if key in item), None)
        return Step(by_model=True, turn=turn, did=call_text(item.get("name", item.get("tool")), given))
    return Step(told=visible_text(item.get("content"))) if kind in {"user", "user_message"} else Step()


def _thought(item: Mapping[str, Any], number: int, visibility: Visibility) -> list[Block]:
    if visibility == "redacted" or item.get("redacted") is True:
        return [Block(text="", visibility="redacted", message=number, field="content")]
    name = next((key for key in ("content", "thinking", "text") if item.get(key) is not None), "content")
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise ShapeError(f"transcript[{number}].{name} is a {type(value).__name__}, expected text")
    if not value or not value.strip():
        return []
    return [Block(text=value, visibility=visibility, message=number, field=name, end=len(value))]


_MARKED = re.compile(r"\A\s*Reasoning:\s*")
_LONG_EVENT = re.compile(rb'\s*\{[^{}]{0,2000}"(?:user|assistant)_payload"\s*:')
_SNIFFED_LINES: Final = 20
_RUN_IDS: Final = ("run_id", "session_id", "episode_id")
_TELLING: Final = {"system_message", "user_message", "developer_message"}


def sniff_events(record: Any) -> bool:
    """Whether ``record`` is one event of an event log, or a list of them."""
    if isinstance(record, list):
        return bool(record) and all(map(_is_event, record)) and any(map(_has_payload, record))
    return _is_event(record) and _has_payload(record)


def read_events(record: Any, source: Source, *, id: str) -> list[Trace]:
    """Turn a list of events into one trace; a lone event into one if the model speaks in it."""
    events = record if isinstance(record, list) else [record]
    if events is not record and "assistant_payload" not in events[0]:
        return []
    given: set[str] = set()
    steps = [step for number, event in enumerate(events) for step in _event_steps(event, number, given)]
    return [_run_trace(id, steps, events[0], source)]


def sniff_event_log(file: TranscriptFile) -> bool:
    """Whether the lines at the beginning of ``file`` are events; one that is over the head is told by its fields."""
    *lines, cut = file.head.split(b"\n")
    events = []
    for line in lines[:_SNIFFED_LINES]:
        with contextlib.suppress(UnreadableError):
            events.append(parse_json(line))
    marked = bool(events) and _is_event(events[0]) and any(_is_event(one) and _has_payload(one) for one in events)
    return marked or (not lines and bool(_LONG_EVENT.match(cut)))


def read_event_log(file: TranscriptFile) -> Iterator[Trace | Rejection]:
    """Read an event log of one event a line: a trace for each run id, one if there are none.

    Raises:
        OSError, EOFError, UnreadableError: if the file breaks off; what was read comes first.
    """
    runs: dict[Any, tuple[Mapping[str, Any], list[Step], set[str]]] = {}
    broken: Exception | None = None
    try:
        for found in json_lines(file.stream, file.name):
            if isinstance(found, Rejection):
                yield found
                continue
            line, number, event = found
            try:
                if not _is_event(event):
                    raise ShapeError("not an event: expected an object with the field `event`")
                run = next((event[key] for key in _RUN_IDS if isinstance(event.get(key), str | int)), None)
                _, steps, given = runs.setdefault(run, (event, [], set()))
                steps += _event_steps(event, number, given)
            except (ShapeError, TypeError) as error:
                yield Rejection(path=file.name, line=line, record=number, reason=str(error))
    except READ_ERRORS as error:
        broken = error
    for run, (first, steps, _) in runs.items():
        id = file.stem if run is None else f"{file.stem}#{run}"
        yield _run_trace(id, steps, first, Source(path=file.name))
    if broken is not None:
        raise broken


def _is_event(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("event"), str)


def _has_payload(event: Mapping[str, Any]) -> bool:
    payloads = [event.get(name) for name in ("user_payload", "assistant_payload")]
    return any(isinstance(payload, Mapping) and payload.keys() & {"content", "tool_calls"} for payload in payloads)


def _event_steps(event: Mapping[str, Any], number: int, given: set[str]) -> list[Step]:
    """The steps in one event; ``given`` holds the thoughts of the model's last message, which its calls repeat."""
    payload = event.get("assistant_payload")
    if isinstance(payload, Mapping):
        steps = [dataclasses.replace(step, turn=number) for step in _payload_steps(payload, number)]
        given.clear()
        given |= {block.text for step in steps for block in step.blocks}
        return steps
    if event["event"] in _TELLING:
        told = event.get("user_payload", event.get("system_payload"))
        return [Step(told=visible_text(told.get("content")))] if isinstance(told, Mapping) else []
    if event["event"] != "tool_call":
        return []
    steps = _call_steps(event.get("name"), event.get("args"), number, "args")
    if any(block.text not in given for step in steps for block in step.blocks):
        return [*steps, Step()]
    return [Step()]


def _payload_steps(payload: Mapping[str, Any], number: int) -> list[Step]:
    content = payload.get("content")
    blocks, said = message_blocks(payload, number), action_text(content)
    if not blocks and any(_MARKED.match(text) for _, text in _texts(content)):
        marked = [(field, text, _MARKED.match(text)) for field, text in _texts(content)]
        blocks = [
            Block(text=text[mark.end() :], message=number, field=field, start=mark.end(), end=len(text))
            for field, text, mark in marked
            if mark and text[mark.end() :].strip()
        ]
        said = "\n".join(text for _, text, mark in marked if not mark)
    placed = tuple(dataclasses.replace(block, field=f"assistant_payload.{block.field}") for block in blocks)
    steps = [Step(by_model=True, blocks=placed, did=said)]
    calls = payload.get("tool_calls")
    for index, call in enumerate(calls if isinstance(calls, list) else []):
        if isinstance(call, Mapping):
            function, place = call.get("function"), f"assistant_payload.tool_calls[{index}]"
            if isinstance(function, Mapping):
                steps += _call_steps(
                    function.get("name"), function.get("arguments"), number, f"{place}.function.arguments"
                )
            else:
                steps += _call_steps(function or call.get("name"), call.get("arguments"), number, f"{place}.arguments")
    return steps


def _call_steps(name: Any, given: Any, number: int, place: str) -> list[Step]:
    """The thoughts that a tool call carries among its arguments, and the call itself."""
    arguments = embedded(given) if isinstance(given, str) else given
    if not isinstance(arguments, Mapping):
        unread = int(isinstance(given, str) and '"thought' in given)
        return [Step(by_model=True, did=call_text(name, given), unread=unread)]
    thoughts = [key for key in ("thoughts", "thought") if key in arguments]
    blocks = [block for key in thoughts for block in _thoughts(arguments[key], number, f"{place}.{key}")]
    rest = {key: value for key, value in arguments.items() if key not in thoughts}
    return [
        Step(by_model=True, blocks=tuple(blocks)),
        Step(by_model=True, did=call_text(name, rest)),
    ]


def _texts(content: Any) -> list[tuple[str, str]]:
    if isinstance(content, str):
        return [("content", content)]
    parts = content if isinstance(content, list) else []
    return [
        (f"content[{number}].text", part["text"])
        for number, part in enumerate(parts)
        if isinstance(part, Mapping) and isinstance(part.get("text"), str)
    ]


def sniff_autogpt(record: Any) -> bool:
    """Whether ``record`` is an AutoGPT reply or message, a list of them, or runs of them by name."""
    return any(_reply_of(item) is not None for _, turns in _autogpt_runs(record) for item in turns)


def read_autogpt(record: Any, source: Source, *, id: str) -> list[Trace]:
    """Turn AutoGPT replies or messages into a trace, or into one for each run that the record names.

    Raises:
        ShapeError: if a message is not an object.
    """
    traces = []
    for path, turns in _autogpt_runs(record):
        steps = [step for number, item in enumerate(turns) for step in _autogpt_steps(item, number)]
        blocks, context = assembled(steps)
        envelope = record if isinstance(record, Mapping) and not path else {}
        metadata = metadata_of(envelope, used={"id", "messages", "role", "content", "thoughts", "command", "reasoning"})
        if path:
            metadata |= {"scenario": path[0], "run": path[-1]} if len(path) > 1 else {"run": path[0]}
        annotated = [number for number, item in enumerate(turns) if isinstance(item, Mapping) and "category" in item]
        if annotated:
            metadata["annotated_messages"] = annotated
        name = f"{id}#{'/'.join(path)}" if path else id
        traces.append(trace_of_run(name, blocks, context, source, _with_unread(metadata, steps)))
    return traces


def _autogpt_runs(record: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """The runs in a record: its path of names (test, time) and its turns."""
    if not path and isinstance(record, list):
        yield path, record
    if not isinstance(record, Mapping) or record.keys() & {"choices", "response", "events", "rollouts", "transcript"}:
        return
    if not path and _is_turn(record):
        yield path, [record]
    elif not path and isinstance(record.get("messages"), list):
        yield path, record["messages"]
    elif path and any(map(_is_turn, record.values())):
        yield path, list(record.values())
    elif len(path) < 2:
        for name, child in record.items():
            if isinstance(child, Mapping):
                yield from _autogpt_runs(child, (*path, str(name)))


def _is_turn(item: Any) -> bool:
    return isinstance(item, Mapping) and (
        isinstance(item.get("role"), str) or isinstance(item.get("thoughts"), Mapping)
    )


def _reply_of(item: Any) -> Mapping[str, Any] | None:
    """The reply with ``thoughts`` that an item is, or that its content is as JSON."""
    if not isinstance(item, Mapping):
        return None
    reply: Any = item
    if "role" in item:
        reply = item.get("content") if role_of(item) == "assistant" else None
        if isinstance(reply, str):
            reply = embedded(unmarked(reply)) if '"thoughts"' in reply else None
    thoughts = reply.get("thoughts") if isinstance(reply, Mapping) else None
    known = isinstance(thoughts, Mapping) and thoughts.keys() & {"text", "reasoning", "plan", "criticism"}
    return reply if known else None


_RESULT = re.compile(r"\s*Command \S+ (?:returned|failed|threw)")


def _autogpt_steps(item: Any, number: int) -> list[Step]:
    if not isinstance(item, Mapping):
        raise ShapeError(f"message {number} is a {type(item).__name__}, expected an object")
    role, content = role_of(item), item.get("content")
    if role in {"system", "user"}:
        told = visible_text(content)
        return [Step(told="" if _RESULT.match(told) else told)]
    if "role" in item and role != "assistant":
        return [Step()]
    reply = _reply_of(item)
    # An annotator's remark stands in `reasoning` beside the agent's message: it is not the agent's.
    own = {key: value for key, value in item.items() if not ("category" in item and key in REASONING_FIELDS)}
    native = tuple(message_blocks(own, number)) if "role" in item else ()
    if reply is None:
        did = "\n".join([action_text(content), *tool_calls(item)])
        unread = int(isinstance(content, str) and '"thoughts"' in content)
        return [Step(by_model=True, blocks=native, did=did, unread=unread), Step()]
    place = "content.thoughts" if "role" in item else "thoughts"
    thoughts = {key: value for key, value in reply["thoughts"].items() if key != "speak"}
    blocks = (*native, *_thoughts(thoughts, number, place))
    did = "\n".join(_spoken_and_called(reply))
    return [Step(by_model=True, blocks=blocks, did=did), Step()]


def _spoken_and_called(reply: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(spoken := reply["thoughts"].get("speak"), str):
        yield spoken
    for key in ("command", "use_tool", "ability"):
        if isinstance(command := reply.get(key), Mapping):
            yield call_text(command.get("name"), command.get("args", command.get("arguments")))


def embedded(text: str) -> Any:
    """The JSON object in a text, perhaps fenced or with words around it; None if there is none.

    Models leave line breaks in JSON strings: these are read all the same.
    """
    at = text.find("{")
    if at < 0:
        return None
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(text, at)
        return parse_json(json.dumps(found).encode())  # once more, for the bounds of all input
    except (ValueError, RecursionError):
        return None


def _thoughts(value: Any, number: int, place: str) -> list[Block]:
    """Every text in ``value``, which is one, or a list or dict of them, as a block."""
    if isinstance(value, str):
        return [Block(text=value, message=number, field=place, end=len(value))] if value.strip() else []
    if isinstance(value, Mapping):
        return [block for key, child in value.items() for block in _thoughts(child, number, f"{place}.{key}")]
    if isinstance(value, list):
        return [block for at, child in enumerate(value) for block in _thoughts(child, number, f"{place}[{at}]")]
    return []


def _run_trace(id: str, steps: Sequence[Step], first: Mapping[str, Any], source: Source) -> Trace:
    blocks, context = assembled(steps)
    metadata = metadata_of(first, used={"id", "event", "timestamp", "time", "ts", "user_payload", "assistant_payload"})
    return trace_of_run(id, blocks, context, source, _with_unread(metadata, steps))


def _with_unread(metadata: dict[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
    unread = sum(step.unread for step in steps)
    return {**metadata, "unread_thoughts": unread} if unread else metadata
