"""OpenAI Responses: ``output`` items (or a bare list of items), with reasoning items."""

from collections.abc import Mapping
from typing import Any

from cot_probe.transcripts.chat import context_of
from cot_probe.transcripts.content import message_blocks, reasoning_item, visible_text
from cot_probe.transcripts.trace import Block, Source, Trace

_ITEM_TYPES = {"reasoning", "message", "function_call", "function_call_output", "web_search_call", "custom_tool_call"}


def sniff(record: Any) -> bool:
    """Whether ``record`` is a Responses object, or a list of its items."""
    if isinstance(record, list):
        return any(_is_item(item, {"reasoning"}) for item in record) and all(
            _is_item(item, _ITEM_TYPES) or (isinstance(item, Mapping) and "role" in item) for item in record
        )
    if not isinstance(record, Mapping):
        return False
    output = record.get("output")
    return isinstance(output, list) and bool(output) and all(_is_item(item, None) for item in output)


def read(record: Any, source: Source, *, id: str) -> list[Trace]:
    """Turn a Responses object into one trace; item numbers stand as message numbers."""
    envelope: Mapping[str, Any] = record if isinstance(record, Mapping) else {}
    items = envelope.get("output") if envelope else record
    blocks: list[Block] = []
    for number, item in enumerate(items or []):
        if item.get("type") == "reasoning":
            blocks += reasoning_item(item, number, f"output[{number}]")
        elif item.get("role") == "assistant":
            blocks += message_blocks(item, number)
    metadata = {k: v for k, v in envelope.items() if k not in {"id", "output", "input", "instructions"}}
    return [
        Trace(
            id=id,
            blocks=tuple(blocks),
            context=_context(envelope, items or []),
            source=Source(
                path=source.path, record=source.record, message=next((block.message for block in blocks), None)
            ),
            metadata=metadata,
        )
    ]


def _context(envelope: Mapping[str, Any], items: Any) -> str:
    asked = envelope.get("input")
    parts = [visible_text(envelope.get("instructions"))]
    parts.append(asked if isinstance(asked, str) else context_of(asked if isinstance(asked, list) else items))
    return "\n\n".join(part for part in parts if part.strip())


def _is_item(item: Any, types: set[str] | None) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("type"), str) and (types is None or item["type"] in types)
