"""Message content as providers write it, down to reasoning blocks and visible text.

One message's ``content`` is a string, a list of typed parts, or a dict; reasoning also
stands in sibling fields. The functions here know the part types; the record shapes
around them are in :mod:`chat`, :mod:`responses` and :mod:`rows`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cot_probe.transcripts.tags import blocks_in
from cot_probe.transcripts.trace import Block, Visibility

REASONING_FIELDS: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "thought")
"""Fields of a message that hold raw reasoning, in order of preference (most specific first)."""


class ShapeError(ValueError):
    """A record says that it has a known shape but breaks it; the text says where and how."""


def message_blocks(message: Mapping[str, Any], index: int | None) -> list[Block]:
    """All reasoning of one assistant message, in reading order."""
    blocks = _sibling_blocks(message, index)
    if not blocks:
        blocks = _detail_blocks(message.get("reasoning_details"), index)
    content = message.get("content")
    if isinstance(content, str):
        # The same text is often given twice: as a field and inline. Keep one.
        inline = blocks_in(content, message=index, field="content")
        blocks += [block for block in inline if block.text.strip() not in {b.text.strip() for b in blocks}]
    elif isinstance(content, list):
        blocks += part_blocks(content, index)
    elif isinstance(content, Mapping):
        blocks += _sibling_blocks(content, index)
    elif content is not None:
        raise ShapeError(f"message content is a {type(content).__name__}, expected text, a list of parts or null")
    return blocks


def part_blocks(parts: Iterable[Any], index: int | None) -> list[Block]:
    """Reasoning in a list of content parts (Anthropic, Inspect, OpenAI, Gemini part types)."""
    blocks: list[Block] = []
    for number, part in enumerate(parts):
        place = f"content[{number}]"
        if isinstance(part, str):
            blocks += blocks_in(part, message=index, field=place)
            continue
        if not isinstance(part, Mapping):
            raise ShapeError(f"{place} is a {type(part).__name__}, expected an object")
        blocks += _part(part, index, place)
    return blocks


def _part(part: Mapping[str, Any], index: int | None, place: str) -> list[Block]:
    kind = part.get("type")
    if kind == "thinking":
        return _whole(part.get("thinking"), index, f"{place}.thinking")
    if kind == "redacted_thinking":
        return [Block(text="", visibility="redacted", message=index, field=f"{place}.data")]
    if kind == "reasoning":
        return reasoning_item(part, index, place)
    if part.get("thought") is True:
        return _whole(part.get("text"), index, f"{place}.text", summary=True)
    if isinstance(part.get("text"), str):
        return blocks_in(part["text"], message=index, field=f"{place}.text")
    return []


def reasoning_item(item: Mapping[str, Any], index: int | None, place: str) -> list[Block]:
    """A ``type: reasoning`` item: raw, summarised or redacted (Inspect part, Responses item)."""
    raw: list[Block] = []
    if not item.get("redacted"):
        raw += _whole(item.get("reasoning"), index, f"{place}.reasoning")
        for number, part in enumerate(_list_of(item.get("content"))):
            raw += _whole(_text_of(part), index, f"{place}.content[{number}].text")
    if raw:
        return raw
    summary = item.get("summary")
    parts = [summary] if isinstance(summary, str) else _list_of(summary)
    found: list[Block] = []
    for number, part in enumerate(parts):
        where = f"{place}.summary" if isinstance(summary, str) else f"{place}.summary[{number}].text"
        found += _whole(_text_of(part), index, where, summary=True)
    if found:
        return found
    hidden = item.get("redacted") or item.get("encrypted_content") or item.get("signature")
    return [Block(text="", visibility="redacted", message=index, field=place)] if hidden else []


def _sibling_blocks(message: Mapping[str, Any], index: int | None) -> list[Block]:
    for name in REASONING_FIELDS:
        value = message.get(name)
        if isinstance(value, str) and value.strip():
            return _whole(value, index, name)
        if isinstance(value, Mapping):
            found = reasoning_item(value, index, name)
            if found:
                return found
    return []


def _detail_blocks(details: Any, index: int | None) -> list[Block]:
    """OpenRouter's ``reasoning_details``: text, summary and encrypted entries."""
    blocks: list[Block] = []
    for number, detail in enumerate(_list_of(details)):
        if not isinstance(detail, Mapping):
            continue
        place, kind = f"reasoning_details[{number}]", detail.get("type")
        if kind == "reasoning.text":
            blocks += _whole(detail.get("text"), index, f"{place}.text")
        elif kind == "reasoning.summary":
            blocks += _whole(detail.get("summary"), index, f"{place}.summary", summary=True)
        elif kind == "reasoning.encrypted":
            blocks.append(Block(text="", visibility="redacted", message=index, field=f"{place}.data"))
    return blocks


def visible_text(content: Any) -> str:
    """The plain text of a message's content: what a reader of the chat would see."""
    if isinstance(content, str):
        return content
    texts = [
        part if isinstance(part, str) else part["text"]
        for part in _list_of(content)
        if isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("text"), str))
    ]
    return "\n".join(texts)


def _whole(value: Any, index: int | None, place: str, *, summary: bool = False) -> list[Block]:
    if not isinstance(value, str) or not value.strip():
        return []
    visibility: Visibility = "summary" if summary else "full"
    return [Block(text=value, visibility=visibility, message=index, field=place, end=len(value))]


def _text_of(part: Any) -> Any:
    return part.get("text") if isinstance(part, Mapping) else part


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
