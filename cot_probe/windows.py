"""Tokenised sentences to windows: each sentence scored once, its surroundings as context.

A window is what the encoder reads in one pass::

    [CLS] instructions [SEP] left neighbours | sentences to score | right neighbours [SEP]

Windows are laid greedily from the left, so a live monitor closes the same windows that
batch tagging does. No token is dropped: a sentence with more tokens than fit is cut into
pieces, each in exactly one window, and its vector is pooled over all of them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


def renumbered(window: Window, place: Mapping[int, int]) -> Window:
    """The window with its sentences numbered anew: ``place`` has the new number of each."""
    spans = (Span(sentence=place[span.sentence], first=span.first, last=span.last) for span in window.spans)
    return replace(window, spans=tuple(spans))


def lay_windows(
    sentences: Sequence[Sequence[int]],
    context: Sequence[int],
    *,
    layout: WindowLayout,
    special: SpecialTokens,
) -> list[Window]:
    """Lay the windows of one trace: :class:`WindowStream` fed at once.

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
    stream = WindowStream(context, layout=layout, special=special)
    return stream.feed(*sentences) + stream.close()


class WindowStream:
    """Windows of a trace that is still being written: each as soon as no later text can change it.

    However the sentences come, ``feed(a) + feed(b) + close()`` are the windows of all of them.
    Only the tokens that a later window can need are kept.

    Raises:
        ValueError: if ``context`` is longer than the layout allows.
    """

    def __init__(self, context: Sequence[int], *, layout: WindowLayout, special: SpecialTokens) -> None:
        if len(context) > layout.context_tokens:
            raise ValueError(f"context of {len(context)} tokens, at most {layout.context_tokens} fit: select first")
        self._layout = layout
        self._special = special
        self._split_types = bool(context)
        self.head: tuple[int, ...] = (special.opening, *context, special.separator) if context else (special.opening,)
        """What every window opens with."""
        self._units: list[Span] = []
        self._kept: list[int] = []
        self._dropped = 0
        self._total = 0
        self._sentences = 0

    @property
    def open_tokens(self) -> tuple[int, ...]:
        """The tokens since the last closed window, with the neighbours left of them."""
        return tuple(self._kept[self._left - self._dropped :])

    @property
    def _begin(self) -> int:
        return self._units[0].first if self._units else self._total

    @property
    def _left(self) -> int:
        return max(0, self._begin - self._layout.left_tokens)

    def feed(self, *sentences: Sequence[int]) -> list[Window]:
        """Take the token ids of the next sentences; return the windows that are now sure."""
        for ids in sentences:
            self._units += _units(ids, self._sentences, self._total, self._layout.unit_tokens)
            self._kept += ids
            self._total += len(ids)
            self._sentences += 1
        return self._drain(final=False)

    def close(self) -> list[Window]:
        """End the trace; return the windows that are left."""
        return self._drain(final=True)

    def types(self, window_ids: int) -> tuple[int, ...]:
        """Token types of a window of so many ids: 0 for the instructions, 1 for the reasoning."""
        opening = len(self.head) if self._split_types else 0
        return (0,) * opening + (1,) * (window_ids - opening)

    def _drain(self, *, final: bool) -> list[Window]:
        windows: list[Window] = []
        taken = 0
        while taken < len(self._units):
            begin = self._units[taken].first
            left = max(0, begin - self._layout.left_tokens)
            room = self._layout.max_tokens - len(self.head) - 1 - (begin - left)
            if self._total - begin <= room and not final:
                break
            after = _fitting(self._units, taken, room, reserve=self._layout.right_tokens, total=self._total)
            end = self._units[after - 1].last
            if self._total < end + self._layout.right_tokens and not final:
                break
            windows.append(
                self._window(self._units[taken:after], left, min(self._total, end + self._layout.right_tokens))
            )
            taken = after
        del self._units[:taken]
        del self._kept[: self._left - self._dropped]
        self._dropped = self._left
        return windows

    def _window(self, units: Sequence[Span], left: int, right: int) -> Window:
        shift = len(self.head) - left
        body = self._kept[left - self._dropped : right - self._dropped]
        ids = (*self.head, *body, self._special.separator)
        return Window(
            ids=ids,
            types=self.types(len(ids)),
            spans=tuple(
                Span(sentence=unit.sentence, first=unit.first + shift, last=unit.last + shift) for unit in units
            ),
        )


def _units(ids: Sequence[int], sentence: int, begin: int, longest: int) -> list[Span]:
    """A sentence, or the pieces of an over-long one, as spans of the flat token sequence."""
    return [
        Span(sentence=sentence, first=begin + offset, last=begin + min(offset + longest, len(ids)))
        for offset in range(0, len(ids), longest)
    ]


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
