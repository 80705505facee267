"""Text to sentences with character offsets: lossless, and the same whether streamed or not.

Reasoning is not edited prose: bullets, numbered plans, code fences, JSON, one-line
fragments, telegram style, missing spaces, no punctuation at all, several languages.
Three libraries were tried on such text before this file was written:

* pySBD 0.3.4 keeps offsets but splits inside URLs, is English-only per instance, is an
  order of magnitude slower, and needs the whole text, so a live monitor cannot use it;
* syntok 1.4 joins every bullet, code line and heading up to the next full stop;
* Bling Fire 0.1.8 is very fast but cuts after "1.", and ignores line structure too.

The splitter here is a scan for boundaries. Whether a position is a boundary depends only
on the sentence so far and on at most ``LOOKAHEAD`` characters beyond its trailing white
space; that is what lets :class:`SentenceStream` give exactly what :func:`split` gives.
"""

import re
from dataclasses import dataclass
from typing import Final

MAX_CHARS: Final = 500
"""A sentence longer than this is cut at the best clause break (characters)."""
MAX_SPACE: Final = 200
"""White space after a sentence that is kept with it (characters)."""
MAX_CODE_CHARS: Final = 300
"""A block of code is cut at the line end after this many characters."""
LOOKAHEAD: Final = 32
"""Characters after the white space that a boundary decision may look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence and its place: ``text == whole[start:end]``, trailing white space included."""

    start: int
    end: int
    text: str


_CLOSERS = "\"'”’»)]}*_`>"
_STRONG = "。！？｡"
_ENDS = re.compile(r"[.!?…。！？｡]+")
_ABBREVIATIONS = frozenset(
    "e.g i.e eg ie etc vs cf al dr mr mrs ms prof st no nos fig figs sec ch vol pp p approx est "
    "inc ltd co corp dept jr sr rev gen col sgt capt lt jan feb mar apr jun jul aug sep sept oct "
    "nov dec a.m p.m u.s u.k ph.d z.b d.h u.a bzw ca evtl ggf usw sog nr str p.ex ej sra av eq ref "
    "refs resp max min avg ver ed eds op cit w.r.t a.k.a aka т.е т.д т.п напр".split()
)
_STARTERS = re.compile(
    r"(?:The|We|Is|So|But|It|I|They|This|That|However|Now|Then|Let|Also|If|In|For|User|Wait|"
    r"Maybe|Probably|Could|Should|Need|There|What|And|Or|A|An|You|He|She|Provide|Must|Thus|Hence|"
    r"Therefore|Okay|Ok|Yes|No|Not|To|As|At|Will|Can|Do|Does|Are|Actually|First|Next|Finally)\b[ ,']"
)
_LINE_START = re.compile(
    r"[ \t]*(?:[-*+•–—▪◦‣>|#]|\(?\d{1,3}[.):、]|\(?[a-zA-Zivx]{1,3}[.)][ \t]|```|~~~|</?\w|[{}\[\]\"]"
    r"|\S{1,24}:(?:\s|$)|[①-⑳]|第[一二三四五六七八九十\d]+|step\b)",
    re.IGNORECASE,
)
_ENUMERATOR = re.compile(r"[ \t]*(?:[-*+•–—▪◦‣>#]+[ \t]+|\*\*)*\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})$")
_JSON_PAIR = re.compile(r'"\s*,\s*$')
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_CLAUSE = re.compile(r"[;:,，；：、]\s|\s[-–—]\s|\n|[，；、]")


def split(text: str) -> list[Sentence]:
    """Split ``text`` into sentences whose slices, joined, are ``text`` again.

    Works on any Unicode string; the empty string gives no sentence. A run of white space
    without a word may stand as a sentence of its own only where it opens the text or is
    longer than ``MAX_SPACE``.
    """
    stream = SentenceStream()
    return stream.feed(text) + stream.close()


class SentenceStream:
    """The incremental form: feed text as it comes, get sentences as soon as they are sure.

    Whatever the pieces, ``feed(a) + feed(b) + close()`` equals ``split(a + b)``. Each
    character is looked at a bounded number of times.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._offset = 0
        self._scan = 0
        self._in_fence = False
        self._closed = False

    @property
    def pending(self) -> str:
        """The text of the sentence still open."""
        return self._buffer

    def feed(self, delta: str) -> list[Sentence]:
        """Take more text; return the sentences that it completed."""
        if self._closed:
            raise ValueError("this stream is closed: make a new SentenceStream for a new trace")
        self._buffer += delta
        return self._drain(final=False)

    def close(self) -> list[Sentence]:
        """End the text; return what is left as sentences."""
        if self._closed:
            return []
        self._closed = True
        return self._drain(final=True)

    def _drain(self, *, final: bool) -> list[Sentence]:
        """Cut every sentence that is sure. The buffer is trimmed once, at the end."""
        out: list[Sentence] = []
        buffer, at = self._buffer, 0
        while at < len(buffer):
            # A sentence never needs more than this much text to be decided.
            piece = buffer[at : at + 2 * MAX_CHARS + MAX_SPACE + LOOKAHEAD]
            sure = final and at + len(piece) == len(buffer)
            cut, self._scan = _first_boundary(piece, self._scan, in_fence=self._in_fence, final=sure)
            if cut is None:
                break
            sentence = piece[:cut]
            if _FENCE.match(sentence):
                self._in_fence = not self._in_fence
            begin = self._offset + at
            out.append(Sentence(start=begin, end=begin + cut, text=sentence))
            at += cut
            self._scan = 0
        self._buffer = buffer[at:]
        self._offset += at
        return out


def _first_boundary(buffer: str, scan: int, *, in_fence: bool, final: bool) -> tuple[int | None, int]:
    """Find the end of the first sentence of ``buffer``.

    Returns ``(cut, scan)``: the end, or None where more text is needed, and the position
    from which a later call may go on looking.
    """
    limit = MAX_CODE_CHARS if in_fence or _FENCE.match(buffer) else MAX_CHARS
    position = scan
    while position < len(buffer):
        candidate = _candidate(buffer, position, in_fence=in_fence)
        stop = len(buffer) if candidate is None else candidate
        if stop > limit and not in_fence:
            return _forced_cut(buffer, limit, final=final), scan
        if in_fence and stop > 2 * MAX_CHARS:
            return _forced_cut(buffer, MAX_CHARS, final=final), scan
        if candidate is None:
            break
        after = _skip_space(buffer, candidate)
        known = final or len(buffer) - after >= LOOKAHEAD or after - candidate >= MAX_SPACE
        if not known:
            return None, position
        if _is_boundary(buffer, candidate, after, in_fence=in_fence):
            return after, 0
        position = candidate + 1 if after == candidate else after
    if final and buffer:
        return len(buffer), 0
    # A run of terminators or a fence at the very end may still grow: look at it again.
    return None, max(scan, min(position, len(buffer)) - 4)


def _candidate(buffer: str, position: int, *, in_fence: bool) -> int | None:
    """Return the next position at which a sentence might end, or None."""
    if in_fence:
        newline = buffer.find("\n", position)
        return None if newline < 0 else newline
    while position < len(buffer):
        char = buffer[position]
        if char == "\n":
            return position
        if char in ".!?…。！？｡":
            end = position + 1
            while end < len(buffer) and buffer[end] in ".!?…。！？｡":
                end += 1
            while end < len(buffer) and buffer[end] in _CLOSERS:
                end += 1
            return end
        if char == "," and position and buffer[position - 1] == '"':
            return position + 1
        position += 1
    return None


def _skip_space(buffer: str, position: int) -> int:
    end = position
    while end < len(buffer) and end - position < MAX_SPACE and buffer[end].isspace():
        end += 1
    return end


def _is_boundary(buffer: str, candidate: int, after: int, *, in_fence: bool) -> bool:
    """Decide on one candidate; looks no further than ``after + LOOKAHEAD``."""
    ahead = buffer[after : after + LOOKAHEAD]
    body = buffer[:candidate]
    if not body.strip():
        return after - candidate >= MAX_SPACE
    space = buffer[candidate:after]
    if in_fence or _FENCE.match(buffer):
        return _ends_code(body, space, ahead, in_fence=in_fence)
    if "\n" in space:
        return _ends_line(body, space, ahead)
    if body.endswith(","):
        return re.match(r'"\w+"\s*:', ahead) is not None
    return _ends_sentence(body, space, ahead)


def _ends_code(body: str, space: str, ahead: str, *, in_fence: bool) -> bool:
    """Code is cut at fences, blank lines, and line ends once it is long."""
    if "\n" not in space:
        return False
    if not in_fence or _FENCE.match(body):
        return True  # the fence line itself stands alone
    return space.count("\n") > 1 or len(body) >= MAX_CODE_CHARS or _FENCE.match(ahead.lstrip()) is not None


def _ends_line(body: str, space: str, ahead: str) -> bool:
    """Decide whether a line break is an end or only a wrapped line."""
    if space.count("\n") > 1 or not ahead:
        return True
    indent = space[space.rfind("\n") + 1 :]
    if _LINE_START.match(indent + ahead):
        return True
    line = body[body.rfind("\n") + 1 :].rstrip()
    last = line.rstrip(_CLOSERS)[-1:] if line.rstrip(_CLOSERS) else line[-1:]
    if last in ".!?…。！？｡:;；：":
        return True
    wrapped = len(line) >= 60 and (ahead[0].islower() or last in ",，、")
    return not wrapped


def _ends_sentence(body: str, space: str, ahead: str) -> bool:
    """Decide on terminal punctuation inside a line."""
    if not ahead:
        return True
    stripped = body.rstrip(_CLOSERS)
    last = stripped[-1:]
    if last in _STRONG and last:
        return True
    if last not in ".!?…":
        return False
    if not space:
        return _glued(stripped, body, ahead)
    word = stripped.rstrip(".!?…")
    dots = stripped[len(word) :]
    if dots == "." and stripped == body and _no_stop(word, ahead):
        return False
    first = ahead.lstrip("\"'“‘«(*_`[")[:1]
    if "!" in dots or "?" in dots:
        return True
    if dots != "." and first.islower():
        return False  # "well... maybe"
    return not first.islower() or len(word.rsplit(None, 1)[-1] if word.split() else "") > 2


def _no_stop(word: str, ahead: str) -> bool:
    """Whether the single dot after ``word`` is an abbreviation, initial or enumerator."""
    token = word.rsplit(None, 1)[-1] if word.split() else ""
    core = token.lstrip("\"'“‘«([*_`").lower()
    if _ENUMERATOR.match(word[word.rfind("\n") + 1 :]):
        return True
    if core in _ABBREVIATIONS:
        return core not in {"etc", "inc", "no", "co", "max", "min", "p.m", "a.m", "st"} or not ahead[:1].isupper()
    initial = len(core) == 1 and core.isalpha() and token[-1:].isupper() and core != "i"
    return initial and _STARTERS.match(ahead) is None


def _glued(stripped: str, body: str, ahead: str) -> bool:
    """A missing space: "check policy.Is it allowed?" is two sentences, "foo.Bar" is not."""
    token = re.search(r"\S*$", stripped.rstrip(".!?…"))
    before = token.group() if token else ""
    if stripped != body and body[-1:] in "\"'”’»" and ahead[:1].isupper():
        return before.isalpha()
    plain = before.strip(_CLOSERS + "\"'(“‘,")
    return len(plain) >= 2 and plain.isalpha() and plain.islower() and _STARTERS.match(ahead) is not None


def _forced_cut(buffer: str, limit: int, *, final: bool) -> int | None:
    """Cut an over-long sentence at its last clause break, else at a space, else hard."""
    if len(buffer) <= limit + MAX_SPACE and not final:
        return None
    floor = limit // 2
    breaks = [match.end() for match in _CLAUSE.finditer(buffer, floor, limit)]
    if breaks:
        return _skip_space(buffer, breaks[-1])
    space = max(buffer.rfind(" ", floor, limit), buffer.rfind("\t", floor, limit))
    return _skip_space(buffer, space + 1) if space >= 0 else limit
