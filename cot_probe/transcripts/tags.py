"""Reasoning inside plain text: ``<think>`` and its kin, and Harmony channels.

Closers are often missing (a cut-off generation) and so are openers (the chat template put
``<think>`` into the prompt). An unclosed tag is reasoning to the end or to the first tool
tag; a closer without an opener makes everything before it reasoning.
"""

import re
from typing import Final

from cot_probe.transcripts.trace import Block

TAG_NAMES: Final = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "reason",
    "scratchpad",
    "scratchpad_reasoning",
    "internal_reasoning",
    "private_reasoning",
)
_NAMES = "|".join(sorted(TAG_NAMES, key=len, reverse=True))
_TAG = re.compile(rf"<\|?(?P<close>/)?(?P<name>{_NAMES})\|?>", re.IGNORECASE)
_TOOL = re.compile(r"<(?:tool_use|tool_call|tool|function_calls?|invoke|output|answer|final)\b[^>\n]{0,80}>")
_HARMONY = re.compile(r"<\|channel\|>\s*analysis[^<]{0,40}<\|message\|>")
_HARMONY_END = re.compile(r"<\|(?:end|start|return|call|channel)\|>")
_HARMONY_TOKEN = re.compile(r"<\|channel\|>\s*\w+[^<]{0,40}|<\|(?:start|end|message|return|call)\|>")
_BARE_HARMONY = re.compile(r"\A\s*(?:assistant)?analysis(?=[A-Z\"'(\d])")
_BARE_HARMONY_END = re.compile(r"assistant(?:final|commentary)|\Z")


def blocks_in(text: str, *, message: int | None = None, field: str = "content") -> list[Block]:
    """Return the reasoning blocks that ``text`` marks, in order; none where it marks none."""
    return [
        Block(text=text[start:end], message=message, field=field, start=start, end=end)
        for start, end in _spans(text)
        if text[start:end].strip()
    ]


def unmarked(text: str) -> str:
    """``text`` without its marked reasoning and without the marks around it."""
    out, at = [], 0
    for start, end in _spans(text):
        out.append(text[at:start])
        at = end
    rest = "".join([*out, text[at:]]) if out else text
    return _HARMONY_TOKEN.sub("", _TAG.sub("", rest)) if out else text


def _spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of marked reasoning, tags left out."""
    harmony = [(match.end(), _end_of(_HARMONY_END, text, match.end())) for match in _HARMONY.finditer(text)]
    if harmony:
        return harmony
    bare = _BARE_HARMONY.match(text)
    if bare:
        return [(bare.end(), _end_of(_BARE_HARMONY_END, text, bare.end()))]
    return _tag_spans(text)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.search(text, start)
    return match.start() if match else len(text)


def _tag_spans(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    opened: tuple[str, int] | None = None
    seen_any = False
    for match in _TAG.finditer(text):
        name = match["name"].lower()
        if not match["close"]:
            if opened is None and _stands_out(text, match.start(), match.end()):
                opened = (name, match.end())
        elif opened is not None and opened[0] == name:
            spans.append((opened[1], match.start()))
            opened = None
        elif opened is None and not seen_any and _stands_out(text, match.start(), match.end()):
            spans.append((0, match.start()))
        else:
            continue
        seen_any = True
    if opened is not None:
        spans.append((opened[1], _end_of(_TOOL, text, opened[1])))
    return spans


def _stands_out(text: str, start: int, end: int) -> bool:
    """A tag that is used, not mentioned: not quoted and not in the middle of a phrase."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before in {"`", '"', "'", "\\"} and before and after in {"`", '"', "'", " ", ",", "."})
