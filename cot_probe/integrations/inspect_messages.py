"""Inspect's live messages and model events to traces: what the scorer, the hooks and the gate read.

Reasoning stands in the parts of a message's content, not in ``message.text``; a redacted part may hold
ciphertext, which is never read. Logs on disk are read by :mod:`cot_probe.transcripts.inspect_logs`,
by the same rules.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cot_probe.transcripts.chat import blocks_of, context_and_ends
from cot_probe.transcripts.content import visible_text
from cot_probe.transcripts.trace import Source, Trace

FORMAT = "inspect_live"

Message = Mapping[str, Any]
"""A message as plain data: role, content, tool calls."""


def plain(messages: Iterable[Any]) -> list[Message]:
    """Inspect's messages as plain data, without what no trace needs (a bare dump would copy metadata too)."""
    fields = {"role", "content", "tool_calls"}
    return [message.model_dump(include=fields) for message in messages]


def trace_of_messages(messages: Sequence[Message], *, id: str, metadata: Mapping[str, Any] | None = None) -> Trace:
    """The reasoning of all assistant messages, as one trace; its context is what system and user said."""
    context, told = context_and_ends(messages)
    blocks = tuple(blocks_of(messages, told))
    first = next((block.message for block in blocks), None)
    source = Source(message=first, format=FORMAT)
    return Trace(id=id, blocks=blocks, context=context, source=source, metadata=dict(metadata or {}))


class RoleHistory:
    """The messages of one role, put together from its model events: each is kept once.

    Inputs repeat what was said before. Of them, instructions are taken; reasoning comes from the
    outputs alone, as an input may have lost it.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._told: set[str] = set()
        self._answers: set[str] = set()

    def add(self, event: Any) -> list[Message]:
        """Take a finished ``ModelEvent``; returns the messages that are new."""
        new: list[Message] = []
        for message in event.input:
            if message.role in ("system", "user"):
                [told] = plain([message])
                key = json.dumps([told["role"], visible_text(told["content"])])
                if key not in self._told:
                    self._told.add(key)
                    new.append(told)
        for choice in event.output.choices:
            if not (choice.message.id and choice.message.id in self._answers):
                self._answers.add(choice.message.id or "")
                new += plain([choice.message])
        self.messages += new
        return new


class Generations:
    """Which events of a sample are calls of the models in it: those that scorers make are left out."""

    def __init__(self, main: str) -> None:
        self._main = main
        self._scoring: set[str | None] = set()

    def role(self, event: Any) -> str | None:
        """In which role the event's model spoke: empty for the model under test; None for other events."""
        if event.event == "span_begin" and (event.type in ("scorers", "scorer") or event.parent_id in self._scoring):
            self._scoring.add(event.id)
        if event.event != "model" or event.pending or event.span_id in self._scoring or not event.output.choices:
            return None
        main = f"/{self._main}".endswith(f"/{event.model}")
        return str(event.role or ("" if main else event.model))


def histories(events: Iterable[Any], main: str) -> dict[str, RoleHistory]:
    """What was said by all roles in a sample's events, by role; ``main`` is the model under test."""
    generations = Generations(main)
    found: dict[str, RoleHistory] = {}
    for event in events:
        role = generations.role(event)
        if role is not None:
            found.setdefault(role, RoleHistory()).add(event)
    return found


def spoken(messages: Sequence[Message]) -> int:
    """How many of the messages are the assistant's."""
    return sum(message["role"] == "assistant" for message in messages)
