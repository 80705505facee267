"""Petri 1 and Bloom: an auditor (Bloom: evaluator) works on a target model, a judge scores the result.

Three minds write into these records; only the target's is read. A transcript of version 3 is a
list of events that edit what the auditor and the target see: what the target says in its own view
is the target's. What the auditor rolled back was thought all the same: it is a trace of its own.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cot_probe.transcripts.chat import context_and_ends, role_of
from cot_probe.transcripts.containers import parse_json
from cot_probe.transcripts.content import ShapeError, action_text, call_text, message_blocks, turn_blocks, visible_text
from cot_probe.transcripts.steps import Step, assembled, metadata_of, once, trace_of_run
from cot_probe.transcripts.trace import Block, Source, Trace

MAX_BRANCHES: Final = 200
MAX_REWRITTEN: Final = 10_000_000
"""Most branches of a transcript, and most messages that its rollbacks, resets and patches go over."""
_SEED: Final = ("scenario", "seed_instruction", "description", "short_name")
_READ_APART: Final = ("id", "events", "judge_output", "target_system_prompt", "target_tools")
_UNSAID: Final = ("id", "internal", "metadata", "model", "source")
_OTHERS: Final = ("auditor", "evaluator", "judge")


def sniff_petri(record: Any) -> bool:
    """Whether ``record`` is a transcript of version 3: ``metadata`` and events that edit views."""
    metadata, events = _object(record).get("metadata"), _object(record).get("events")
    if not isinstance(metadata, Mapping):
        return False
    if not isinstance(events, list):
        return isinstance(record.get("target_messages"), list) and "target_model" in metadata
    marked = metadata.get("version") == "v3.0" and "transcript_id" in metadata
    return marked or any(_object(event).get("type") == "transcript_event" for event in events)


def read_petri(record: Mapping[str, Any], source: Source, *, id: str) -> list[Trace]:
    """Turn a transcript of version 3 into the trace of the target, and one for each branch rolled back.

    Raises:
        ShapeError: if an event of the target's view breaks the format.
    """
    about, events = record["metadata"], record.get("events")
    metadata = metadata_of(about, used=_READ_APART, model=("target_model",), scenario=_SEED) | _scores(about)
    lines = _lines(events if isinstance(events, list) else [])
    if not any(lines) and isinstance(record.get("target_messages"), list):
        lines = [[_placed(message, number, "") for number, message in enumerate(record["target_messages"])]]
    others = {_bare(about.get(f"{name}_model")) for name in _OTHERS} - {_bare(about.get("target_model")), ""}
    given: set[_Placed] = set()
    traces: list[Trace] = []
    for line in lines:
        own = {placed for placed in line if _by_target(placed.message, others)}
        if own - given or not traces:
            blocks, context = _read_line(line, own, given, about.get("target_system_prompt"))
            name, branch = (f"{id}~branch{len(traces)}", {"branch": len(traces)}) if traces else (id, {})
            traces.append(trace_of_run(name, blocks, context, source, metadata | branch))
            given |= own
    return traces


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Placed:
    """A message of the target's conversation: event and path in it where it stands, and a hash of what it says."""

    message: Mapping[str, Any]
    event: int
    path: str
    said: str


def _lines(events: Sequence[Any]) -> list[list[_Placed]]:
    """The target's conversation as it ended, then every one that a rollback, reset or patch cut off."""
    current: list[_Placed] = []
    left: list[list[_Placed]] = []
    seen: dict[tuple[str, str], _Placed] = {}
    rewritten = 0
    for number, event in enumerate(events):
        if not isinstance(event, Mapping):
            raise ShapeError(f"events[{number}] is a {type(event).__name__}, expected an object")
        view = event.get("view")
        if event.get("type") != "transcript_event" or "target" not in (view if isinstance(view, list) else [view]):
            continue
        edit = event.get("edit")
        if not isinstance(edit, Mapping):
            raise ShapeError(f"events[{number}].edit is a {type(edit).__name__}, expected an object")
        if edit.get("operation") == "add":
            current.append(_known(_placed(edit.get("message"), number, "edit.message"), seen, {}))
            continue
        changed = _rewritten(current, edit, number, seen)
        rewritten += len(current) + len(changed)
        if not set(current) <= set(changed):
            left.append(current)
        if len(left) > MAX_BRANCHES or rewritten > MAX_REWRITTEN:
            raise ShapeError(f"events[{number}]: over {MAX_BRANCHES} branches, or over {MAX_REWRITTEN:,} rewritings")
        current = changed
    return [current, *left]


def _rewritten(
    current: list[_Placed], edit: Mapping[str, Any], number: int, seen: dict[tuple[str, str], _Placed]
) -> list[_Placed]:
    """The conversation after a rollback, reset or patch; a message that stays is the same object."""
    place, operation = f"events[{number}].edit", edit.get("operation")
    if operation == "rollback":
        return _rolled_back(current, edit, place)
    name = {"reset": "new_messages", "json_patch": "patch"}.get(str(operation))
    given = edit.get(name or "") or []
    if name is None or not isinstance(given, list):
        raise ShapeError(f"{place} is {operation!r}, expected add, rollback, or a reset or json_patch with its list")
    messages, where = given, {id(message): f"edit.{name}[{at}]" for at, message in enumerate(given)}
    if name == "patch":
        messages = _patched([old.message for old in current], given, f"{place}.patch")
        where = {id(_object(step).get("value")): f"edit.patch[{at}].value" for at, step in enumerate(given)}
    stay, there = {id(old.message): old for old in current}, {id(message) for message in messages}
    same: dict[str, list[_Placed]] = {}
    for old in reversed(current):
        if id(old.message) not in there:
            same.setdefault(old.said, []).append(old)
    return [
        stay.get(id(new)) or _known(_placed(new, number, where.get(id(new), "edit")), seen, same) for new in messages
    ]


def _rolled_back(current: list[_Placed], edit: Mapping[str, Any], place: str) -> list[_Placed]:
    to_id, count = edit.get("to_id"), edit.get("count")
    for at, placed in enumerate(current):
        if to_id is not None and placed.message.get("id") == to_id:
            return current[: at + 1]
    # An id that is not there says nothing; the count beside it does, unless it is the default 0.
    if type(count) is int and (count > 0 or (count == 0 and to_id is None)):
        return current[: max(0, len(current) - count)]
    raise ShapeError(f"{place} rolls back to {to_id!r} by {count!r}, expected the id of an earlier message or a count")


def _patched(messages: Any, patch: Sequence[Any], place: str) -> list[Any]:
    """The messages after a JSON patch (RFC 6902, without copying)."""
    if len(messages) * len(patch) > MAX_REWRITTEN:
        raise ShapeError(f"{place} has {len(patch):,} steps: not a transcript")
    for at, step in enumerate(patch):
        try:
            operation, keys = step["op"], step["path"].split("/")[1:]
            if operation == "move":
                source = int(step["from"].removeprefix("/"))
                moved, messages = messages[source], _changed(messages, [str(source)], "remove", None)
                messages = _changed(messages, keys, "add", moved)
            elif operation != "test":
                messages = _changed(messages, keys, operation, step.get("value"))
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            raise ShapeError(f"{place}[{at}] cannot be applied to the messages before it") from None
    if not isinstance(messages, list):
        raise ShapeError(f"{place} leaves a {type(messages).__name__}, expected a list of messages")
    return messages


def _changed(node: Any, keys: Sequence[str], operation: str, value: Any) -> Any:
    """A copy of ``node`` with one place changed; what is not touched is shared with it.

    Raises:
        AttributeError, LookupError, ValueError: if the place is not there, or the operation is unknown.
    """
    if not keys:
        return value
    copy, key = node.copy(), keys[0].replace("~1", "/").replace("~0", "~")
    at: Any = range(len(node) + 1).index(len(node) if key == "-" else int(key)) if isinstance(node, list) else key
    if len(keys) > 1:
        copy[at] = _changed(node[at], keys[1:], operation, value)
    elif operation == "remove":
        del copy[at]
    elif operation == "add" and isinstance(node, list):
        copy.insert(at, value)
    elif operation in {"add", "replace"}:
        copy[at] = value
    else:
        raise ValueError(operation)
    return copy


def _placed(message: Any, event: int, path: str) -> _Placed:
    where = f"events[{event}].{path}" if path else f"target_messages[{event}]"
    if not isinstance(message, Mapping):
        raise ShapeError(f"{where} is a {type(message).__name__}, expected a message")
    try:
        told = {key: value for key, value in message.items() if key not in _UNSAID}
        said = json.dumps(told, sort_keys=True).encode()
        parse_json(said)  # a patch can nest deeper than the file did
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"{where} is not a message: {error}") from None
    return _Placed(message=message, event=event, path=path, said=hashlib.sha256(said).hexdigest())


def _known(new: _Placed, seen: dict[tuple[str, str], _Placed], same: Mapping[str, list[_Placed]]) -> _Placed:
    """The message as it stood already, by id and text or among ``same``: what the log repeats is given once."""
    if same.get(new.said):
        return same[new.said].pop()
    name = str(new.message.get("id") or "")
    return seen.setdefault((name, new.said), new) if name else new


def _by_target(message: Mapping[str, Any], others: Collection[str]) -> bool:
    """Whether the target said this: an answer, and neither the auditor's prefill nor signed by another model."""
    if role_of(message) != "assistant":
        return False
    about = _object(message.get("metadata"))
    author = str(about.get("source") or message.get("source") or "").lower()
    prefilled = about.get("prefill") or about.get("is_prefill") or message.get("prefix")
    return not (author.startswith(_OTHERS) or prefilled or _bare(message.get("model")) in others)


def _read_line(
    line: Sequence[_Placed], own: Collection[_Placed], given: Collection[_Placed], system: Any
) -> tuple[list[Block], str]:
    """The target's blocks in a conversation but for those ``given``, and its context."""
    has_system = any(role_of(placed.message) == "system" for placed in line)
    context, told = context_and_ends([placed.message for placed in line], system=None if has_system else system)
    blocks: list[Block] = []
    spoken = {placed: end for placed, end in zip(line, told, strict=True) if placed in own}
    for turn, (placed, end) in enumerate(spoken.items()):
        if placed not in given:
            path = f"{placed.path}." if placed.path else ""
            try:
                found = turn_blocks(placed.message, placed.event, turn=turn, context_end=end)
            except (ShapeError, TypeError) as error:
                raise ShapeError(f"event {placed.event}, {path}{error}") from error
            blocks += [dataclasses.replace(block, field=f"{path}{block.field}") for block in found]
    return list(once(blocks)), context


def sniff_bloom(record: Any) -> bool:
    """Whether ``record`` is Bloom's ``rollout.json`` or a transcript in its older format."""
    return _is_rollouts(record) or _is_older(record)


def read_bloom(record: Mapping[str, Any], source: Source, *, id: str) -> list[Trace]:
    """Turn Bloom's rollouts, or one older transcript, into traces of the target.

    A rollout that failed gives a trace without blocks, its ``error`` in the metadata.

    Raises:
        ShapeError: if the older transcript breaks the format, or no rollout can be read.
    """
    if not _is_rollouts(record):
        return _read_older(record, source, id=id)
    shared = metadata_of(_object(record.get("metadata")), model=("target", "target_model"), scenario=())
    traces: list[Trace] = []
    errors: list[str] = []
    for number, rollout in enumerate(record["rollouts"]):
        held, name = _object(rollout), f"{id}#{number}"
        about = metadata_of(held, used={"transcript"}, scenario=("variation_description",)) | _scores(held)
        if "scenario" not in about and "variation_number" in about:
            about["scenario"] = f"variation {about['variation_number']}"
        try:
            found = _read_rollout(held.get("transcript"), source, id=name)
        except (ShapeError, TypeError) as error:
            errors.append(f"rollouts[{number}].transcript: {error}")
            found = [Trace(id=name, blocks=(), source=source, metadata={"error": errors[-1]})]
        about["rollout"] = number
        traces += [dataclasses.replace(trace, metadata={**shared, **trace.metadata, **about}) for trace in found]
    if errors and len(errors) == len(record["rollouts"]):
        raise ShapeError(f"no rollout can be read; {errors[0]}")
    return traces


def _is_rollouts(record: Any) -> bool:
    rollouts = _object(record).get("rollouts")
    return isinstance(rollouts, list) and any("transcript" in _object(rollout) for rollout in rollouts)


def _read_rollout(transcript: Any, source: Source, *, id: str) -> list[Trace]:
    for sniff, read in ((sniff_petri, read_petri), (_is_older, _read_older)):
        if sniff(transcript):
            return read(transcript, source, id=id)
    raise ShapeError(f"found a {type(transcript).__name__}, expected `metadata` and `events` of a transcript")


def _is_older(record: Any) -> bool:
    events = _object(record).get("events")
    if not isinstance(events, list) or not record.keys() & {"target_model_id", "target_system_prompt"}:
        return False
    return not events or any(isinstance(_object(event).get("event"), str) for event in events)


def _read_older(record: Mapping[str, Any], source: Source, *, id: str) -> list[Trace]:
    steps = [_older_step(event, number) for number, event in enumerate(record["events"])]
    blocks, context = assembled(steps, system=record.get("target_system_prompt"))
    metadata = metadata_of(record, used=_READ_APART, model=("target_model_id", "target_model")) | _scores(record)
    return [trace_of_run(id, blocks, context, source, metadata)]


def _older_step(event: Any, number: int) -> Step:
    """One event; ``thinking`` stands beside the evaluator's messages too, and is not read there."""
    if not isinstance(event, Mapping):
        raise ShapeError(f"events[{number}] is a {type(event).__name__}, expected an object")
    kind, content = str(event.get("event")), event.get("content")
    turn = event["turn"] if isinstance(event.get("turn"), str | int) else None
    if kind == "evaluator_message":
        return Step(told=visible_text(content))
    if kind not in {"target_reasoning", "target_message", "tool_call"}:
        return Step()
    if kind == "tool_call" and not isinstance(content, str):
        blocks, did = message_blocks({**event, "content": None}, number), call_text(event.get("name"), content)
    elif kind == "target_reasoning" and isinstance(content, str):
        block = Block(text=content, message=number, field="content", end=len(content))
        blocks, did = [block] if content.strip() else [], ""
    elif content is None or (isinstance(content, str | list) and kind != "target_reasoning"):
        blocks, did = message_blocks(event, number), action_text(content)
    else:
        raise ShapeError(f"events[{number}].content is a {type(content).__name__}, expected text")
    return Step(by_model=True, turn=turn, blocks=tuple(blocks), did=did)


_COMPANIONS: Final = {
    "understanding.json": "the evaluator's study of the behaviour",
    "ideation.json": "the evaluator's scenarios",
    "judgment.json": "the judge's verdicts",
}


_ROLLOUT: Final = re.compile(r"transcript_v\d+r\d+\.json")


def companion(path: Path) -> str | None:
    """Why this file of a Bloom results folder is skipped: what it has of the target, rollout.json has. Else None."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
    rollout = _ROLLOUT.fullmatch(name)
    if not (rollout or name in _COMPANIONS) or not any(path.parent.glob("rollout.json*")):
        return None
    if rollout:
        return "one of the rollouts that rollout.json beside it holds: it would be read twice"
    return f"holds {_COMPANIONS[name]}, no reasoning of the target: that is in rollout.json beside it"


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    """The judge's scores; never the judge's words."""
    scores = _object(record.get("judge_output")).get("scores")
    return metadata_of({"scores": scores}) if isinstance(scores, Mapping) else {}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _bare(model: Any) -> str:
    """A model's name without its provider; messages and metadata differ in that."""
    return model.rsplit("/", 1)[-1].lower() if isinstance(model, str) else ""
