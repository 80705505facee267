"""Texts to token ids, in one place for training and tagging: disguises undone, nothing added.

Lone surrogates, which no tokenizer takes, become U+FFFD.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from cot_probe.legible import Known, legible

TokenReader = Callable[[Sequence[str]], list[list[int]]]
"""Texts to their token ids, without special tokens."""

_WORD_MARKS = "\u0120\u2581"
"""What byte-level and SentencePiece vocabularies put before a word's first piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTokenizer:
    """A base's tokenizer, and the ids of its special tokens by role (cls, sep, pad, bos, eos, mask), those it has."""

    fast: Tokenizer
    special: Mapping[str, int]


def known_words(tokenizer: BaseTokenizer) -> frozenset[str]:
    """The words that stand in the vocabulary whole, in lower case."""
    vocabulary: dict[str, int] = tokenizer.fast.get_vocab()
    marked = any(piece[:1] in _WORD_MARKS and piece[1:].isalpha() for piece in vocabulary if len(piece) > 1)
    words = (piece[1:] for piece in vocabulary if piece[:1] in _WORD_MARKS) if marked else vocabulary
    return frozenset(word.lower() for word in words if word.isalpha())


def token_reader(tokenizer: BaseTokenizer, known: Known | None = None) -> TokenReader:
    """The reader of one tokenizer; ``known`` where its :func:`known_words` are at hand already."""
    known = known or known_words(tokenizer).__contains__

    def read(texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        whole = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts)
        readable = [legible(text, known) for text in whole]
        return [encoding.ids for encoding in tokenizer.fast.encode_batch_fast(readable, add_special_tokens=False)]

    return read
