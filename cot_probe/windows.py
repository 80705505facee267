"""Tokenised sentences to windows: each sentence scored once, its surroundings as context.

A window is what the encoder reads in one pass::

    [CLS] instructions [SEP] left neighbours | sentences to score | right neighbours [SEP]

Windows are laid greedily from the left, so a live monitor closes the same windows that
batch tagging does. No token is dropped: a sentence with more tokens than fit is cut into
pieces, each in exactly one window, and its vector is pooled over all of them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cot_probe.sentences import split


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLayout:
    """Sizes of a window's parts, in tokens; stored with the checkpoint."""

    max_tokens: int = 512
    context_tokens: int = 96
    left_tokens: int = 64
    right_tokens: int = 32

    def __post_init__(self) -> None:
        if self.unit_tokens < 16:
            raise ValueError(
                f"window of {self.max_tokens} tokens leaves {self.unit_tokens} for sentences beside the instructions "
                f"({self.context_tokens}) and neighbours ({self.left_tokens}+{self.right_tokens}); make it larger"
            )

    @property
    def unit_tokens(self) -> int:
        """Tokens that always fit beside context and neighbours: the longest piece of a sentence."""
        return self.max_tokens - 3 - self.context_tokens - self.left_tokens - self.right_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Tokens ``first`` (inclusive) to ``last`` (exclusive) of a window are sentence ``sentence``."""

    sentence: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Token ids as the encoder takes them, and which of them are scored for which sentence.

    ``types`` is 0 for the instructions and 1 for the reasoning.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Ids of the tokens that open, part and pad a window."""

    opening: int
    separator: int
    padding: int


def lay_windows(
    sentences: Sequence[Sequence[int]],
    context: Sequence[int],
    *,
    layout: WindowLayout,
    special: SpecialTokens,
) -> list[Window]:
    """Lay the windows of one trace.

    Args:
        sentences: token ids of each sentence, without special tokens. A sentence without
            tokens (white space, invisible characters) gets no span: it holds nothing to score.
        context: token ids of the instructions; all but the first ``context_tokens`` must
            already have been left out by the caller.
        layout: the sizes.
        special: ids of special tokens.

    Raises:
        ValueError: if ``context`` is longer than the layout allows.
    """
    if len(context) > layout.context_tokens:
        raise ValueError(f"context of {len(context)} tokens, at most {layout.context_tokens} fit: select first")
    flat = [token for ids in sentences for token in ids]
    units = _units(sentences, layout.unit_tokens)
    head = (special.opening, *context, special.separator) if context else (special.opening,)
    windows: list[Window] = []
    position = 0
    while position < len(units):
        begin = units[position].first
        left = max(0, begin - layout.left_tokens)
        room = layout.max_tokens - len(head) - 1 - (begin - left)
        taken = _fitting(units, position, room, reserve=layout.right_tokens, total=len(flat))
        end = units[taken - 1].last
        right = min(len(flat), end + layout.right_tokens)
        shift = len(head) - left
        body = flat[left:right]
        windows.append(
            Window(
                ids=(*head, *body, special.separator),
                types=(0,) * (len(head) if context else 0) + (1,) * (len(body) + 1 + (0 if context else 1)),
                spans=tuple(
                    Span(sentence=unit.sentence, first=unit.first + shift, last=unit.last + shift)
                    for unit in units[position:taken]
                ),
            )
        )
        position = taken
    return windows


def _units(sentences: Sequence[Sequence[int]], longest: int) -> list[Span]:
    """Sentences, or pieces of over-long ones, as spans of the flat token sequence."""
    units: list[Span] = []
    begin = 0
    for number, ids in enumerate(sentences):
        for offset in range(0, len(ids), longest):
            last = begin + min(offset + longest, len(ids))
            units.append(Span(sentence=number, first=begin + offset, last=last))
        begin += len(ids)
    return units


def _fitting(units: Sequence[Span], position: int, room: int, *, reserve: int, total: int) -> int:
    """How far the window reaches: all that is left if it fits, else as much as leaves the reserve."""
    begin = units[position].first
    if total - begin <= room:
        return len(units)
    taken = position + 1
    while taken < len(units) and units[taken].last - begin <= room - reserve:
        taken += 1
    return taken


_PROHIBITION: Final = re.compile(
    r"\b(?:never|must not|do not|don['’]t|may not|cannot|not allowed|forbidden|prohibited|off.limits|not permitted"
    r"|without (?:approval|permission|asking)|under no|refrain|avoid|confidential|only)\b",
    re.IGNORECASE,
)
_ORDER: Final = re.compile(
    r"\b(?:must|should|always|required?|rules?|policy|policies|goal|objective|instruct\w*|ensure|allow|your (?:task|job)"
    r"|you (?:are|will|have)|shut ?down|report|important|make sure|nicht|nie|debe|no debe|interdit|ne pas|não|нельзя)\b",
    re.IGNORECASE,
)
_SITUATION: Final = re.compile(
    r"\b(?:evaluat\w+|deploy\w+|monitor\w+|training|simulat\w+|test(?:ed|ing)?)\b", re.IGNORECASE
)


def salient_instructions(context: str, *, budget: int, count: Callable[[list[str]], list[int]]) -> str:
    """Pick the sentences of the instructions that bear on disobedience, up to ``budget`` tokens.

    All of a short context is kept. Of a long one: prohibitions first, then orders, goals and
    statements about the situation, the opening sentence, the end; given in their own order.

    Args:
        context: what the model was told.
        budget: tokens that fit.
        count: gives the number of tokens of each of a list of strings.
    """
    # Instructions of a megabyte happen (pasted files); rules stand at the start or the end.
    if len(context) > 40_000:
        context = context[:30_000] + "\n" + context[-10_000:]
    sentences = [sentence.text.strip() for sentence in split(context)]
    sentences = [sentence for sentence in sentences if sentence]
    lengths = count(sentences) if sentences else []
    if sum(lengths) <= budget:
        return " ".join(sentences)
    last = len(sentences) - 1
    ranked = sorted(range(len(sentences)), key=lambda at: (-_salience(sentences[at], at, last), at))
    chosen: list[int] = []
    left = budget
    for at in ranked:
        if lengths[at] <= left:
            chosen.append(at)
            left -= lengths[at]
    return " ".join(sentences[at] for at in sorted(chosen))


def _salience(sentence: str, at: int, last: int) -> float:
    score = 3.0 * bool(_PROHIBITION.search(sentence)) + 2.0 * bool(_ORDER.search(sentence))
    return score + 1.0 * bool(_SITUATION.search(sentence)) + 2.0 * (at == 0) + 1.0 * (at == last)
