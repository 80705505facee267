"""Flat rows: one object with the reasoning in a named field, and plain text.

``reasoning``, ``thinking``, ``trace``, ``cot`` and a few more are taken as the reasoning;
``text`` (and other fields of whole output) too, unless it marks a part of itself as
reasoning with tags.
"""

from collections.abc import Mapping
from typing import Any, Final

from cot_probe.transcripts.content import ShapeError, visible_text
from cot_probe.transcripts.tags import blocks_in
from cot_probe.transcripts.trace import Block, Source, Trace

ROW_FIELDS: Final = (
    "reasoning",
    "reasoning_content",
    "thinking",
    "trace",
    "cot",
    "chain_of_thought",
    "reasoning_trace",
    "internal_reasoning",
    "thought",
)
"""Fields that are reasoning as a whole, in order of preference."""
OUTPUT_FIELDS: Final = ("text", "raw_response", "raw_output", "completion", "output", "response")
"""Fields of a model's whole output: reasoning where tagged; ``text`` also as a whole."""
CONTEXT_FIELDS: Final = (
    "context",
    "system_prompt",
    "system",
    "instructions",
    "prompt",
    "user_prompt",
    "user_message",
    "question",
    "input",
)


def sniff(record: Any) -> bool:
    """Whether ``record`` is an object with a field that may hold reasoning."""
    return isinstance(record, Mapping) and any(name in record for name in ROW_FIELDS + OUTPUT_FIELDS)


def read(record: Mapping[str, Any], source: Source, *, id: str) -> list[Trace]:
    """Turn one row into one trace."""
    name = _field(record)
    blocks = _blocks(record[name], name)
    used = {name, "id"}
    told = []
    for field in ("context",) if "context" in record else CONTEXT_FIELDS:
        if field in record and field != name:
            used.add(field)
            told.append(visible_text(record[field]))
    return [
        Trace(
            id=id,
            blocks=tuple(blocks),
            context="\n\n".join(text for text in told if text.strip()),
            source=source,
            metadata={key: value for key, value in record.items() if key not in used},
        )
    ]


def read_text(text: str, source: Source, *, id: str) -> list[Trace]:
    """Plain text: the tagged parts where it has tags, else all of it."""
    return [Trace(id=id, blocks=tuple(_blocks(text, "text")), source=source)]


def _field(record: Mapping[str, Any]) -> str:
    """The reasoning field: the first that is not empty, else the first that is there."""
    present = [name for name in ROW_FIELDS + OUTPUT_FIELDS if name in record]
    return next((name for name in present if record[name]), present[0])


def _blocks(value: Any, name: str) -> list[Block]:
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        whole = [(f"{name}[{number}]", part) for number, part in enumerate(value)]
        return [Block(text=part, field=field, end=len(part)) for field, part in whole if part.strip()]
    if not isinstance(value, str):
        raise ShapeError(f"field {name!r} is a {type(value).__name__}, expected text, a list of texts or null")
    marked = [] if name in ROW_FIELDS else blocks_in(value, field=name)
    if marked or not value.strip() or name not in {*ROW_FIELDS, "text"}:
        return marked
    return [Block(text=value, field=name, end=len(value))]
