"""The shape of a row of results: what its keys hold, what breaks it, its Arrow types."""

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from cot_probe.tagger import SCHEMA
from cot_probe.transcripts.trace import VISIBILITIES


@dataclass(frozen=True, slots=True)
class Maybe:
    """A shape that may be null; with ``absent``, its key is missing instead."""

    shape: Any
    absent: bool = False


_ANY_NAMES: Final = {...: float}
"""The shape of scores while the taxonomy is not known."""
_SPAN: Final[dict[str, Any]] = {"start": int, "end": int}
_BLOCK: Final = _SPAN | {
    "message": Maybe(int),
    "field": str,
    "source_start": int,
    "visibility": VISIBILITIES,
    "turn": Maybe(int),
    "action": str,
    "context_end": Maybe(int),
}
_UNFAMILIAR: Final = {"score": float, "reasons": [str], "spans": [_SPAN | {"form": str}]}


def row_shape(scores: Any, sentence_scores: Any) -> dict[str, Any]:
    """The table of :mod:`cot_probe.results`: for each key a type, a tuple of the texts allowed, ``[item]`` or ``{key: shape}``."""
    sentence = _SPAN | {"text": str, "scores": sentence_scores, "tags": [str], "harm_kind": Maybe(str, absent=True)}
    return {
        "schema": (SCHEMA,),
        "id": str,
        "source": {"path": Maybe(str), "record": Maybe(int), "message": Maybe(int), "format": Maybe(str)},
        "visibility": VISIBILITIES,
        "context": str,
        "n_tokens": int,
        "tags": [str],
        "stance": Maybe(("test", "real", "both")),
        "harm_kind": Maybe(str),
        "scores": scores,
        "sentences": [sentence],
        "blocks": [_BLOCK],
        "unfamiliar": Maybe(_UNFAMILIAR),
        "checkpoint": str,
        "metadata": dict,
        "passed": Maybe(int, absent=True),
    }


ANY_ROW: Final = row_shape(_ANY_NAMES, _ANY_NAMES)
TEXT, INTEGER, NUMBER = pa.string(), pa.int64(), pa.float64()
_PLAIN: Final[dict[type, tuple[Callable[[Any], bool], str, pa.DataType]]] = {
    str: (lambda value: isinstance(value, str), "text", TEXT),
    int: (lambda value: type(value) is int and abs(value) < 1 << 63, "an integer", INTEGER),
    float: (lambda value: (isinstance(value, float) or type(value) is int) and abs(value) < 1e15, "a number", NUMBER),
    dict: (lambda value: isinstance(value, dict), "an object", TEXT),
}
"""Plain types: whether a value is one, what to call it, its Arrow type (an object of any JSON is text)."""


def fault(value: Any, shape: Any) -> tuple[str, str, str] | None:
    """Where ``value`` does not have the shape, what is there and what was expected; None if it has it."""
    if isinstance(shape, Maybe):
        return None if value is None else fault(value, shape.shape)
    if isinstance(shape, dict):
        return _object_fault(value, shape)
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            return "", said(value), "a list"
        return _first_fault((f"[{at}]", item, shape[0]) for at, item in enumerate(value))
    if isinstance(shape, tuple):
        return None if value in shape else ("", said(value), " or ".join(map(repr, shape)))
    fits, name, _ = _PLAIN[shape]
    return None if fits(value) else ("", said(value), name)


def _object_fault(value: Any, shape: Mapping[Any, Any]) -> tuple[str, str, str] | None:
    if not isinstance(value, dict):
        return "", said(value), "an object"
    kinds = dict.fromkeys(value, shape[...]) if ... in shape else shape
    for key, kind in kinds.items():
        if key not in value and not (isinstance(kind, Maybe) and kind.absent):
            return f".{key}", "missing", f"an object with {', '.join(kinds)}"
    for key in value:
        if key not in kinds:
            return f".{key}", "a key that the schema does not have", f"only {', '.join(kinds)}"
    return _first_fault((f".{key}", item, kinds[key]) for key, item in value.items())


def _first_fault(parts: Iterable[tuple[str, Any, Any]]) -> tuple[str, str, str] | None:
    for step, item, shape in parts:
        if wrong := fault(item, shape):
            return step + wrong[0], *wrong[1:]
    return None


def said(value: Any) -> str:
    """A value and its type, shortened, for a message."""
    return "null" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"


def arrow_type(shape: Any) -> pa.DataType:
    """The Arrow type of a shape."""
    if isinstance(shape, Maybe):
        return arrow_type(shape.shape)
    if isinstance(shape, dict):
        return pa.struct([(key, arrow_type(kind)) for key, kind in shape.items()])
    if isinstance(shape, list):
        return pa.list_(arrow_type(shape[0]))
    return TEXT if isinstance(shape, tuple) else _PLAIN[shape][2]
