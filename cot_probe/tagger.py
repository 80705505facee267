"""Traces to tagged traces: the module that most users meet.

>>> from cot_probe import load_tagger
>>> tagger = load_tagger()
>>> tagger.tag("I will rewrite the shutdown script first.").tags
('strategic_harm',)
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cot_probe.calibration import OperatingPoint, decide
from cot_probe.familiarity import SIGNS, Familiarity, Unfamiliar
from cot_probe.first_stage import FirstStage, first_stage_of, spread, thin
from cot_probe.legible import legible, unreadable_spans
from cot_probe.sentences import Sentence, split
from cot_probe.taxonomy import STANCES, Stance, Taxonomy, stance_of
from cot_probe.tokens import known_words, token_reader
from cot_probe.transcripts.formats import traces_of
from cot_probe.transcripts.trace import BLOCK_SEPARATOR, Source, Trace, Visibility, trace_of
from cot_probe.windows import SpecialTokens, Window, lay_windows, salient_instructions

if TYPE_CHECKING:
    from cot_probe.checkpoint import Checkpoint
    from cot_probe.encoder import States, TraceLogits

SCHEMA: Final = "cot_probe.tagged_trace/2"
_GROUP_CHARS: Final = 200_000
"""Traces are encoded together until they hold this many characters."""
_GROUP_TRACES: Final = 64
CASCADE: Final = "+cascade"
"""Ends the name of the checkpoint in results of which a first stage decided what was read."""
_ALL_FAMILIAR: Final = Familiarity(levels=(1.0, 1.0), quantiles=dict.fromkeys(SIGNS, (0.0, 1.0)))
"""For checkpoints without a reference: only unreadable stretches are marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedSentence:
    """A sentence with its scores; ``start`` and ``end`` are offsets into the trace's text.

    ``harm_kind`` is set where ``tags`` holds the label that has kinds (``strategic_harm``).
    """

    start: int
    end: int
    text: str
    scores: Mapping[str, float]
    tags: tuple[str, ...]
    harm_kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBlock:
    """Where a block of reasoning stands in the trace's text and where it came from."""

    start: int
    end: int
    message: int | None
    field: str
    source_start: int
    visibility: Visibility
    turn: int | None = None
    action: str = ""
    context_end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedTrace:
    """A trace with its tags, their scores, and the sentences that bear them out.

    A trace with nothing to read (``visibility`` redacted or absent, or blank) has no sentences, no tags
    and scores of 0: that is *nothing to read*, not *clean*; ``readable`` tells them apart. Where
    ``unfamiliar`` is set, the text is not of the kind that the checkpoint reads (another language,
    a cipher, no prose): its tags, and their absence, mean little.

    ``context`` is what the model was told, ``n_tokens`` how many tokens of reasoning were read. Of the
    sentences, ``passed`` were read by the first stage alone (:mod:`cot_probe.first_stage`), never by the
    encoder: their scores are fixed numbers. Without a cascade that is 0; with one, ``checkpoint`` ends in
    :data:`CASCADE`.

    ``tags`` and ``scores`` are in the order of the checkpoint's taxonomy. ``stance`` is None where
    that has no ``states_test`` and ``states_real``, ``harm_kind`` where it has no kinds.
    """

    id: str
    source: Source
    visibility: Visibility
    text: str
    tags: tuple[str, ...]
    stance: Stance | None
    harm_kind: str | None
    scores: Mapping[str, float]
    sentences: tuple[TaggedSentence, ...]
    blocks: tuple[PlacedBlock, ...]
    checkpoint: str
    metadata: Mapping[str, Any]
    unfamiliar: Unfamiliar | None = None
    context: str = ""
    n_tokens: int = 0
    passed: int = 0

    @property
    def readable(self) -> bool:
        """Whether there was reasoning to read."""
        return bool(self.sentences)

    @property
    def evidence(self) -> tuple[TaggedSentence, ...]:
        """The sentences that carry a tag."""
        return tuple(sentence for sentence in self.sentences if sentence.tags)

    def as_dict(self, *, all_sentences: bool = True, context: bool = True) -> dict[str, Any]:
        """The record that results files hold (schema ``cot_probe.tagged_trace/2``); see :mod:`cot_probe.results`."""
        kept = self.sentences if all_sentences else self.evidence
        return {
            "schema": SCHEMA,
            "id": self.id,
            "source": dataclasses.asdict(self.source),
            "visibility": self.visibility,
            "context": self.context if context else "",
            "n_tokens": self.n_tokens,
            "tags": list(self.tags),
            "stance": self.stance,
            "harm_kind": self.harm_kind,
            "scores": {tag: round(score, 6) for tag, score in self.scores.items()},
            "sentences": [_sentence_dict(sentence) for sentence in kept],
            "blocks": [
                {name: getattr(block, name) for name in PlacedBlock.__dataclass_fields__} for block in self.blocks
            ],
            "unfamiliar": None if self.unfamiliar is None else dataclasses.asdict(self.unfamiliar),
            "checkpoint": self.checkpoint,
            "metadata": dict(self.metadata),
        } | ({"passed": self.passed} if self.passed else {})


class Tagger:
    """A loaded checkpoint at an operating point. Make one with :func:`load_tagger`."""

    def __init__(
        self,
        checkpoint: "Checkpoint",
        *,
        point: OperatingPoint,
        bf16: bool = False,
        backend: str = "torch",
        states: "States | None" = None,
        first_stage: FirstStage | None = None,
    ) -> None:
        from cot_probe.base import special_tokens

        self.checkpoint = checkpoint
        self.point = point
        self.bf16 = bf16
        self.backend, self.states = backend, states
        self.first_stage = first_stage
        self.special: SpecialTokens = special_tokens(checkpoint.tokenizer)
        self._known = known_words(checkpoint.tokenizer).__contains__
        self.token_ids = token_reader(checkpoint.tokenizer, self._known)

    @property
    def signature(self) -> str:
        """The checkpoint's, as written beside every result; marked where a first stage decides what is read."""
        return self.checkpoint.signature + (CASCADE if self.first_stage else "")

    def tag(self, item: str | Trace | Mapping[str, Any], *, context: str = "") -> TaggedTrace:
        """Tag one trace: a string of reasoning, a :class:`Trace`, or a record (a row, a chat).

        ``context`` (for a string) is what the model was told: command-disobedience is
        judged better with it.
        """
        trace = _as_trace(item, 0, context)
        return next(iter(self._tag_group([trace])))

    def tag_many(self, items: Iterable[str | Trace | Mapping[str, Any]]) -> Iterator[TaggedTrace]:
        """Tag traces as they come, several at a time; results in the order of the items."""
        group: list[Trace] = []
        size = 0
        for number, item in enumerate(items):
            trace = _as_trace(item, number, "")
            group.append(trace)
            size += sum(len(block.text) for block in trace.blocks)
            if size >= _GROUP_CHARS or len(group) >= _GROUP_TRACES:
                yield from self._tag_group(group)
                group, size = [], 0
        if group:
            yield from self._tag_group(group)

    def logits(self, traces: Sequence[Trace]) -> tuple[list[list[Sentence]], list["TraceLogits"]]:
        """Sentences and raw logits of some traces: what calibration and evaluation start from."""
        sentences = [sentences_of(trace) for trace in traces]
        return sentences, self._encoded(sentences, self.windows(traces, sentences))[0]

    def _encoded(
        self, sentences: Sequence[Sequence[Sentence]], windows: Sequence[Sequence[Window]]
    ) -> tuple[list["TraceLogits"], list[int]]:
        """Logits of each trace, and how many of its sentences the first stage passed."""
        lengths = [len(some) for some in sentences]
        stage = self.first_stage
        if stage is None:
            return self._read(windows, lengths), [0] * len(lengths)
        left = [thin(stage, some, length) for some, length in zip(windows, lengths, strict=True)]
        logits = self._read([reading.windows for reading in left], [len(reading.read) for reading in left])
        length = self.checkpoint.config.length
        whole = [spread(stage, raw, reading, length) for raw, reading in zip(logits, left, strict=True)]
        return whole, [reading.passed for reading in left]

    def _read(self, windows: Sequence[Sequence[Window]], lengths: Sequence[int]) -> list["TraceLogits"]:
        from cot_probe.encoder import encode

        return encode(
            self.checkpoint.encoder,
            windows,
            lengths,
            padding=self.special.padding,
            bf16=self.bf16,
            states=self.states,
        )

    def windows(self, traces: Sequence[Trace], sentences: Sequence[Sequence[Sentence]]) -> list[list[Window]]:
        """Tokenise and lay the windows of some traces."""
        flat = [sentence.text for some in sentences for sentence in some]
        ids = iter(self.token_ids(flat))
        layout = self.checkpoint.config.layout
        laid = []
        for trace, some in zip(traces, sentences, strict=True):
            own = list(itertools.islice(ids, len(some)))
            laid.append(lay_windows(own, self.context_ids(trace.context), layout=layout, special=self.special))
        return laid

    def context_ids(self, context: str) -> list[int]:
        """Tokens of the instructions that bear on the reasoning, as many as a window takes."""
        if not context.strip():
            return []
        budget = self.checkpoint.config.layout.context_tokens
        chosen = salient_instructions(
            context, budget=budget, count=lambda texts: [len(ids) for ids in self.token_ids(texts)]
        )
        return self.token_ids([chosen])[0][:budget]

    def _tag_group(self, traces: Sequence[Trace]) -> Iterator[TaggedTrace]:
        sentences = [sentences_of(trace) for trace in traces]
        windows = self.windows(traces, sentences)
        sizes = [sum(span.last - span.first for window in some for span in window.spans) for some in windows]
        logits, passed = self._encoded(sentences, windows)
        for trace, some, raw, size, count in zip(traces, sentences, logits, sizes, passed, strict=True):
            tagged = self.assemble(trace, some, raw, size)
            # Who assembles without a cascade (the live monitor) has read everything.
            yield dataclasses.replace(tagged, checkpoint=self.signature, passed=count) if self.first_stage else tagged

    def assemble(
        self, trace: Trace, sentences: Sequence[Sentence], logits: "TraceLogits", n_tokens: int
    ) -> TaggedTrace:
        """The tagged trace from its sentences and their raw logits; ``n_tokens`` is for the record."""
        calibration, taxonomy = self.checkpoint.calibration, self.checkpoint.taxonomy
        scores = calibration.trace_scores(logits.trace) if sentences else dict.fromkeys(taxonomy.tags, 0.0)
        tags = decide(scores, self.point.traces, taxonomy.tags) if sentences else ()
        tagged = self._tagged_sentences(sentences, logits) if sentences else ()
        return TaggedTrace(
            id=trace.id,
            source=trace.source,
            visibility=trace.visibility,
            text=trace.text,
            tags=tags,
            stance=stance_of(_stances(tags, scores, taxonomy)),
            harm_kind=_trace_kind(tags, tagged, logits, taxonomy),
            scores=scores,
            sentences=tagged,
            blocks=_placed(trace),
            checkpoint=self.checkpoint.signature,
            metadata=trace.metadata,
            unfamiliar=self.unfamiliar(trace.text) if sentences else None,
            context=trace.context,
            n_tokens=n_tokens,
        )

    def unfamiliar(self, text: str) -> Unfamiliar | None:
        """The mark on a text that the checkpoint cannot read well; None where it can."""
        familiarity = self.checkpoint.familiarity or _ALL_FAMILIAR
        return familiarity.judge(legible(text, self._known), self._known, unreadable_spans(text))

    def _tagged_sentences(self, sentences: Sequence[Sentence], logits: "TraceLogits") -> tuple[TaggedSentence, ...]:
        taxonomy = self.checkpoint.taxonomy
        scores = self.checkpoint.calibration.sentence_scores(logits.sentences)
        kinds = logits.kinds.argmax(axis=1)
        out = []
        for sentence, row, kind in zip(sentences, scores.tolist(), kinds.tolist(), strict=True):
            named = dict(zip(taxonomy.labels, row, strict=True))
            tags = decide(named, self.point.sentences, taxonomy.labels)
            out.append(
                TaggedSentence(
                    start=sentence.start,
                    end=sentence.end,
                    text=sentence.text,
                    scores=named,
                    tags=tags,
                    harm_kind=taxonomy.kinds[kind] if taxonomy.kind_label in tags else None,
                )
            )
        return tuple(out)


def load_tagger(
    checkpoint: str | Path | None = None,
    *,
    fpr: float | None = None,
    threshold: float | None = None,
    device: str = "cpu",
    bf16: bool = False,
    backend: str = "torch",
    cascade: bool = False,
) -> Tagger:
    """Load a tagger (the release checkpoint for None). Works offline.

    Args:
        checkpoint: a checkpoint folder.
        fpr: tag at the operating point with this false-positive rate (default: 0.05, or the
            nearest below it that the checkpoint has); the checkpoint says which it has.
        threshold: instead, tag every score at or above this.
        device: a torch device.
        bf16: compute in bfloat16: faster where the processor has it, scores move a little.
        backend: ``torch``, ``onnx-fp32``, ``onnx-int8``, or ``auto``: the quickest that the machine has and that
            keeps the scores (:func:`cot_probe.backends.choose_backend`).
        cascade: let the checkpoint's first stage pass windows that clearly carry nothing; they are not
            encoded, and some tags are lost (``first_stage.missed`` says how many on annotated traces).
            The live monitor reads everything all the same.

    Raises:
        CheckpointError: if the folder is missing, damaged or made for another taxonomy.
        FirstStageError: if the checkpoint has no first stage that can be used at this operating point.
        ValueError: if there is no such operating point, or the backend cannot be used here.
    """
    from cot_probe.checkpoint import default_checkpoint, load_checkpoint

    loaded = load_checkpoint(checkpoint, device=device)
    point = operating_point(loaded, fpr=fpr, threshold=threshold)
    folder = default_checkpoint() if checkpoint is None else Path(checkpoint)
    stage = first_stage_of(loaded, folder, point) if cascade else None
    if backend == "torch":
        return Tagger(loaded, point=point, bf16=bf16, first_stage=stage)
    from cot_probe.backends import choose_backend

    chosen = choose_backend(loaded, backend, bf16=bf16)
    return Tagger(loaded, point=point, bf16=chosen.bf16, backend=chosen.name, states=chosen.states, first_stage=stage)


def operating_point(checkpoint: "Checkpoint", *, fpr: float | None, threshold: float | None) -> OperatingPoint:
    """The thresholds asked for: stored ones by false-positive rate, or one number for all."""
    if threshold is None:
        return checkpoint.calibration.at(fpr)
    if fpr is not None:
        raise ValueError("give a false-positive rate or a threshold, not both")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold:g}, expected a score between 0 and 1")
    return OperatingPoint(
        fpr=float("nan"),
        sentences=dict.fromkeys(checkpoint.taxonomy.labels, threshold),
        traces=dict.fromkeys(checkpoint.taxonomy.tags, threshold),
    )


def sentences_of(trace: Trace) -> list[Sentence]:
    """The sentences of a trace, offsets into ``trace.text``; none spans two blocks."""
    out: list[Sentence] = []
    offset = 0
    blocks = trace.readable
    for number, block in enumerate(blocks):
        text = block.text if number == len(blocks) - 1 else block.text + BLOCK_SEPARATOR
        out += [Sentence(start=s.start + offset, end=s.end + offset, text=s.text) for s in split(text)]
        offset += len(text)
    return out


def _as_trace(item: str | Trace | Mapping[str, Any], number: int, context: str) -> Trace:
    if isinstance(item, Trace):
        return item
    if isinstance(item, str):
        return trace_of(item, id=str(number), context=context)
    traces = traces_of(item, name="record", number=number)
    if len(traces) != 1:
        raise ValueError(f"the record holds {len(traces)} traces: use cot_probe.traces_of and tag_many")
    return traces[0]


def _stances(tags: tuple[str, ...], scores: Mapping[str, float], taxonomy: Taxonomy) -> set[str]:
    """The stances found; where only their union reached its threshold, the likelier one."""
    found = set(tags) & set(STANCES)
    unions = [union for union, members in taxonomy.unions.items() if set(members) == set(STANCES)]
    if not found and any(union in tags for union in unions):
        found = {max(STANCES, key=lambda tag: scores[tag])}
    return found


def _trace_kind(
    tags: tuple[str, ...], sentences: Sequence[TaggedSentence], logits: "TraceLogits", taxonomy: Taxonomy
) -> str | None:
    """The kind with the most evidence: softmax over kinds, weighted by each sentence's score of their label."""
    label = taxonomy.kind_label
    if label is None or label not in tags:
        return None
    weights = np.array([sentence.scores[label] for sentence in sentences])
    shifted = np.exp(logits.kinds - logits.kinds.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    return taxonomy.kinds[int((weights**2 @ shares).argmax())]


def _placed(trace: Trace) -> tuple[PlacedBlock, ...]:
    placed, offset = [], 0
    for block in trace.blocks:
        length = len(block.text) if block.text.strip() else 0
        placed.append(
            PlacedBlock(
                start=offset,
                end=offset + length,
                message=block.message,
                field=block.field,
                source_start=block.start,
                visibility=block.visibility,
                turn=block.turn,
                action=block.action,
                context_end=block.context_end,
            )
        )
        offset += length + len(BLOCK_SEPARATOR) if length else 0
    return tuple(placed)


def _sentence_dict(sentence: TaggedSentence) -> dict[str, Any]:
    record: dict[str, Any] = {
        "start": sentence.start,
        "end": sentence.end,
        "text": sentence.text,
        "scores": {label: round(score, 6) for label, score in sentence.scores.items()},
        "tags": list(sentence.tags),
    }
    if sentence.harm_kind is not None:
        record["harm_kind"] = sentence.harm_kind
    return record
