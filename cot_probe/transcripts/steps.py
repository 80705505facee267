"""Runs of agents, told step by step: from the steps of a log to blocks, context and metadata of a trace."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cot_probe.transcripts.chat import context_and_ends
from cot_probe.transcripts.trace import ACTION_CHARS, Block, Source, Trace, shortened

METADATA_CHARS: Final = 2_000
METADATA_ENTRIES: Final = 100
"""Longest string, and largest dict or list, that is kept in the metadata."""
NAME_CHARS: Final = 120
"""Longest name of a model or scenario; a longer text is cut and told apart by its hash."""
_MODEL: Final = ("model", "model_name", "agent_model")
_SCENARIO: Final = ("scenario", "task_name", "task", "task_id", "condition")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing in a run: the model was told something, thought, or acted (``by_model``).

    Steps of the model that follow each other are one turn, unless the log's own mark in ``turn``
    tells them apart. ``unread`` counts thoughts that are there but cannot be read.
    """

    by_model: bool = False
    told: str = ""
    blocks: tuple[Block, ...] = ()
    did: str = ""
    turn: str | int | None = None
    unread: int = 0


def assembled(steps: Sequence[Step], *, system: Any = None) -> tuple[tuple[Block, ...], str]:
    """The blocks of a run, each with its turn, its action and the instructions in force; and the context.

    A block's action is all that the model did until it thought, or heard, something else.
    """
    context, told = context_and_ends([{"role": "user", "content": step.told} for step in steps], system=system)
    found: list[tuple[Block, list[str]]] = []
    turn, speaking = -1, False
    mark: str | int | None = None
    since: list[str] = []
    for number, step in enumerate(steps):
        if not step.by_model:
            speaking, mark, since = False, None, []
            continue
        if not speaking or step.turn not in (None, mark):
            turn += 1
        speaking, mark = True, step.turn if step.turn is not None else mark
        for block in step.blocks:
            since = []
            found.append((dataclasses.replace(block, turn=turn, context_end=told[number]), since))
        since.append(step.did)
    done = [
        dataclasses.replace(block, action=shortened("\n".join(filter(str.strip, did)), ACTION_CHARS))
        for block, did in found
    ]
    return once(done), context


def once(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks without those that repeat another of their turn, which take the action of the one left out."""
    kept: dict[tuple[int | None, str | int], Block] = {}
    for number, block in enumerate(blocks):
        key = (block.turn, block.text.strip() or number)
        first = kept.setdefault(key, block)
        if not first.action:
            kept[key] = dataclasses.replace(first, action=block.action)
    return tuple(kept.values())


def metadata_of(
    record: Mapping[str, Any],
    *,
    used: Collection[str] = (),
    model: Sequence[str] = _MODEL,
    scenario: Sequence[str] = _SCENARIO,
) -> dict[str, Any]:
    """What a user may group by: the record's scalars, and its flat dicts and lists of scalars."""
    kept = {str(key): _plain(value) for key, value in record.items() if key not in used and _small(value)}
    for name, fields in (("model", model), ("scenario", scenario)):
        found = next((text for field in fields if isinstance(text := record.get(field), str) and text.strip()), None)
        if found is not None:
            kept[name] = name_of(found)
    return kept


def name_of(text: str) -> str:
    """A text as a name to group by: itself if it is short, else its beginning and a hash of all of it."""
    line = " ".join(text.split())
    if len(line) <= NAME_CHARS:
        return line
    return f"{line[: NAME_CHARS - 12]}… [{hashlib.sha256(line.encode('utf-8', 'replace')).hexdigest()[:8]}]"


def trace_of_run(id: str, blocks: Sequence[Block], context: str, source: Source, metadata: Mapping[str, Any]) -> Trace:
    """A trace whose source points at its first block."""
    first = next((block.message for block in blocks), None)
    placed = dataclasses.replace(source, message=first)
    return Trace(id=id, blocks=tuple(blocks), context=context, source=placed, metadata=dict(metadata))


def _small(value: Any) -> bool:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return len(children) <= METADATA_ENTRIES and not any(isinstance(child, Mapping | list) for child in children)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value, METADATA_CHARS)
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list) else value
