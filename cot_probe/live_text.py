"""The text of a stream: blocks as they come, sentences as soon as they are sure, the open rest.

Whatever the pieces in which text comes, the sentences are those that
:func:`cot_probe.tagger.sentences_of` finds in the whole trace.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from cot_probe.sentences import Sentence, SentenceStream, split
from cot_probe.transcripts.trace import BLOCK_SEPARATOR, Block, Visibility

MAX_CHARS: Final = 16_000_000
"""Longest trace (characters); as in batch tagging."""
_ENDERS: Final = ".!?…。！？｡"
_CLOSERS: Final = "\"'”’»)]}*_`>"


class TraceTooLong(ValueError):
    """A stream that goes on beyond the characters that are read."""


class LiveText:
    """Takes deltas, gives sentences with offsets into the trace's text."""

    def __init__(self, id: str, *, max_chars: int = MAX_CHARS) -> None:
        self._id, self._max_chars = id, max_chars
        self._blocks: list[list[str]] = []
        self._lead = ""
        self._ended = True
        self._broke = False
        self._stream = SentenceStream()
        self._offset = 0
        self._arrivals: deque[tuple[int, float]] = deque()
        self._new: deque[tuple[Sentence, float]] = deque()
        self.size = 0
        """Characters so far, block separators included."""
        self.closed = False

    def feed(self, delta: str) -> None:
        """Take more text.

        Raises:
            ValueError: if the text is closed.
            TraceTooLong: if it gets too long.
        """
        if self.closed:
            raise ValueError(f"stream {self._id!r} is closed: open a new one for a new trace")
        if self.size + len(self._lead) + len(delta) > self._max_chars:
            raise TraceTooLong(
                f"stream {self._id!r} has {self.size:,} characters, at most {self._max_chars:,} are read: "
                "close it and open another"
            )
        if self._ended:
            # A block of white space alone is no block: its text counts once a word has come.
            self._lead += delta
            if not self._lead.strip():
                return
            delta, self._lead = self._lead, ""
            self._open_block()
        self._blocks[-1].append(delta)
        self._broke = "\n" in delta
        self.size += len(delta)
        self._arrivals.append((self.size, time.monotonic()))
        self._queue(self._stream.feed(delta))

    def _open_block(self) -> None:
        self._ended = False
        if self._blocks:
            self._queue(self._stream.feed(BLOCK_SEPARATOR) + self._stream.close())
            self.size += len(BLOCK_SEPARATOR)
        self._blocks.append([])
        self._stream, self._offset = SentenceStream(), self.size

    def end_block(self) -> None:
        """The block is over; its last sentence stays open, as nobody knows yet whether another follows."""
        self._ended = True

    def close(self) -> None:
        """The text is over."""
        if not self.closed:
            self._queue(self._stream.close() if self._blocks else [])
            self.closed, self._lead = True, ""

    def take(self) -> list[tuple[Sentence, float]]:
        """The sentences that have ended since the last call, each with the time of its last character."""
        taken = list(self._new)
        self._new.clear()
        return taken

    @property
    def waiting(self) -> int:
        """Sentences that have ended and have not been taken."""
        return len(self._new)

    @property
    def oldest(self) -> float:
        """When the first of these ended; infinity where there is none."""
        return self._new[0][1] if self._new else float("inf")

    @property
    def has_rest(self) -> bool:
        """Whether there is text that no sure sentence end has followed."""
        return bool(self._blocks) and not self.closed and bool(self._stream.pending.strip())

    @property
    def may_end(self) -> bool:
        """Whether some of that text looks like a whole sentence, or its block is over: then it is scored at once."""
        return self.has_rest and (self._ended or self._broke or _looks_ended(self._stream.pending))

    def rest(self, *, unfinished: bool = True) -> list[tuple[Sentence, float]]:
        """The open text as sentences, as if it ended here.

        Without ``unfinished`` a last one that does not look like a whole sentence is left out.
        """
        if not self.has_rest:
            return []
        begin = self.size - len(self._stream.pending)
        found = split(self._stream.pending)
        if not (unfinished or self._ended or _looks_ended(found[-1].text)):
            del found[-1]
        moved = [Sentence(start=one.start + begin, end=one.end + begin, text=one.text) for one in found]
        return [(sentence, self._arrival(sentence)) for sentence in moved]

    @property
    def readable(self) -> bool:
        """Whether any word has come."""
        return bool(self._blocks)

    def text(self) -> str:
        """All of it."""
        return BLOCK_SEPARATOR.join("".join(parts) for parts in self._blocks)

    def end_of_text(self, limit: int) -> str:
        """The last pieces, at least ``limit`` characters where there are so many."""
        taken: list[str] = []
        size = 0
        for parts in reversed(self._blocks):
            for piece in reversed(parts):
                taken.append(piece)
                size += len(piece)
                if size >= limit:
                    return "".join(reversed(taken))
            taken.append(BLOCK_SEPARATOR)
        return "".join(reversed(taken))

    def blocks(self, visibility: Visibility) -> tuple[Block, ...]:
        """The blocks as records."""
        texts = ["".join(parts) for parts in self._blocks]
        return tuple(
            Block(text=text, end=len(text), visibility=visibility, turn=turn) for turn, text in enumerate(texts)
        )

    def _queue(self, sentences: Sequence[Sentence]) -> None:
        for one in sentences:
            moved = Sentence(start=one.start + self._offset, end=one.end + self._offset, text=one.text)
            arrival = self._arrival(moved)
            while len(self._arrivals) > 1 and self._arrivals[1][0] <= moved.end:
                self._arrivals.popleft()
            self._new.append((moved, arrival))

    def _arrival(self, sentence: Sentence) -> float:
        """When the last character of a sentence came, white space behind it left out."""
        last = sentence.start + max(1, len(sentence.text.rstrip()))
        return next((when for end, when in self._arrivals if end >= last), time.monotonic())


def _looks_ended(text: str) -> bool:
    """Whether a sentence could end here: at a line's end, behind a full stop, behind a value in JSON."""
    words = text.rstrip()
    value = words.endswith('",') and text.lstrip()[:1] in ('"', "{", "[")
    return value or "\n" in text[len(words) :] or words.rstrip(_CLOSERS)[-1:] in _ENDERS
