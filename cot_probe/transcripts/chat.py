"""Chat transcripts: OpenAI-style and Anthropic messages, requests and responses.

A record is a list of messages, an object with ``messages`` (and perhaps a ``response``),
a chat completion with ``choices``, a single Anthropic message, or a single message.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cot_probe.transcripts.content import ShapeError, message_blocks, visible_text
from cot_probe.transcripts.trace import Block, Source, Trace

_INSTRUCTING = {"system", "developer", "user", "human"}
_ANSWERING = {"assistant", "ai", "model"}
_CONTEXT_CHARS = 20_000


def sniff(record: Any) -> bool:
    """Whether ``record`` is messages or wraps them."""
    if isinstance(record, list):
        return bool(record) and all(_is_message(item) for item in record)
    if not isinstance(record, Mapping):
        return False
    wrapped = record.get("messages")
    return (isinstance(wrapped, list) and bool(wrapped)) or _has_choices(record) or _is_message(record)


def read(record: Any, source: Source, *, id: str) -> list[Trace]:
    """Turn one chat record into traces: one, or one for each of several choices."""
    envelope: Mapping[str, Any] = record if isinstance(record, Mapping) else {}
    messages = _messages(record)
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ShapeError(f"messages[{number}] is a {type(message).__name__}, expected an object")
    prompt_blocks = _blocks(messages)
    context = context_of(messages, system=envelope.get("system"))
    metadata = {k: v for k, v in envelope.items() if k not in _CONTENT_KEYS}
    answers = _answers(envelope)
    if len(answers) <= 1:
        blocks = prompt_blocks + [b for answer in answers for b in message_blocks(answer, len(messages))]
        return [_trace(id, blocks, context, source, metadata)]
    return [
        _trace(f"{id}#{number}", prompt_blocks + message_blocks(answer, len(messages)), context, source, metadata)
        for number, answer in enumerate(answers)
    ]


_CONTENT_KEYS = {"id", "messages", "choices", "content", "response", "system", "role", "reasoning", "thinking"} | {
    "reasoning_content",
    "reasoning_details",
}


def _messages(record: Any) -> Sequence[Any]:
    if isinstance(record, list):
        return record
    wrapped = record.get("messages")
    if isinstance(wrapped, list):
        return wrapped
    return [record] if _is_message(record) else []


def _answers(envelope: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The answers that stand beside the messages: choices or an Anthropic response."""
    if _has_choices(envelope):
        found = [choice.get("message") for choice in envelope["choices"] if isinstance(choice, Mapping)]
        return [message for message in found if isinstance(message, Mapping)]
    response = envelope.get("response")
    if isinstance(response, Mapping):
        if _has_choices(response):
            return _answers(response)
        if _is_message(response) or "content" in response:
            return [response]
    return []


def _blocks(messages: Sequence[Mapping[str, Any]]) -> list[Block]:
    return [
        block
        for number, message in enumerate(messages)
        if role_of(message) in _ANSWERING
        for block in message_blocks(message, number)
    ]


def context_of(messages: Sequence[Any], *, system: Any = None) -> str:
    """What the model was told: system and user messages, in order, as text."""
    told = [visible_text(system)] if system else []
    told += [
        visible_text(message.get("content"))
        for message in messages
        if isinstance(message, Mapping) and role_of(message) in _INSTRUCTING
    ]
    return "\n\n".join(text for text in told if text.strip())[:_CONTEXT_CHARS]


def role_of(message: Mapping[str, Any]) -> str:
    """The role in lower case, whatever the field is called."""
    return str(message.get("role") or message.get("type") or "").lower()


def _trace(id: str, blocks: list[Block], context: str, source: Source, metadata: Mapping[str, Any]) -> Trace:
    first = next((block.message for block in blocks), None)
    placed = Source(path=source.path, record=source.record, message=first)
    return Trace(id=id, blocks=tuple(blocks), context=context, source=placed, metadata=dict(metadata))


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("role"), str) and "content" in item


def _has_choices(record: Mapping[str, Any]) -> bool:
    choices = record.get("choices")
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], Mapping) and "message" in choices[0]
