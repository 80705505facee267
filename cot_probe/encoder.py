"""Windows to logits: a Hugging Face encoder, mean pooling per sentence, small heads.

One pass over a window gives a vector for every sentence in it. Two heads read a sentence's
vector (labels, harm kind); the trace head reads all sentence vectors and logits of a trace,
because "considered and rejected" is not the maximum over sentences.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cot_probe.taxonomy import TAXONOMY
from cot_probe.windows import Window

_EMPTY_LOGIT = -20.0
"""Logit of a sentence without a token: nothing there can carry a label."""
_CPU_TOKENS = 2_048
"""Tokens in one pass on a CPU: more leave its caches, and are slower as well as larger in memory."""
_GPU_TOKENS = 65_536
_ROUND = 16
_PADDING = 0.05
"""Share of padding that is always borne."""
_PASS_SHARE = 16
"""More padding is borne up to this part of a full pass: about what beginning another one costs."""
_N_LABELS = len(TAXONOMY.labels)
_N_KINDS = len(TAXONOMY.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLogits:
    """What the encoder says of one trace.

    Attributes:
        sentences: ``(n_sentences, n_labels)`` float32.
        kinds: ``(n_sentences, n_kinds)`` float32.
        trace: ``(n_labels,)`` float32.
    """

    sentences: NDArray[np.float32]
    kinds: NDArray[np.float32]
    trace: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceParts:
    """What single sentences bring to a trace.

    Attributes:
        labels: logits, ``(n_sentences, n_labels)``.
        kinds: logits, ``(n_sentences, n_kinds)``.
        scores, values: what :meth:`TraceHead.joined` takes, ``(n_sentences, n_labels)`` and
            ``(n_sentences, hidden)``.
    """

    labels: Tensor
    kinds: Tensor
    scores: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Windows padded to one length.

    Attributes:
        ids, types, mask: ``(n_windows, n_tokens)`` int64.
        owners: ``(n_windows, n_tokens)`` int64: row of the sentence that a token is pooled
            into, counted over all traces of the call; -1 for context, special and padding.
    """

    ids: Tensor
    types: Tensor
    mask: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        if device.type == "cpu":
            return self
        return Batch(
            ids=self.ids.to(device),
            types=self.types.to(device),
            mask=self.mask.to(device),
            owners=self.owners.to(device),
        )


States = Callable[[Batch], Sequence[Tensor]]
"""A batch to the hidden states after each of the encoder's ``layers``, ``(n_windows, n_tokens, width)`` each."""


def collate(windows: Sequence[Window], first_rows: Sequence[int], *, padding: int, least_tokens: int = 0) -> Batch:
    """Pad windows; ``first_rows[k]`` is the row of sentence 0 of the trace of window ``k``.

    Lengths are rounded up (:func:`padded_length`): compiled kernels are kept for each shape that occurs.
    ``least_tokens`` makes them longer still.
    """
    longest = max(least_tokens, padded_length(max(len(window.ids) for window in windows)))
    shape = (len(windows), longest)
    ids = np.full(shape, padding, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    owners = np.full(shape, -1, dtype=np.int64)
    for row, (window, base) in enumerate(zip(windows, first_rows, strict=True)):
        length = len(window.ids)
        ids[row, :length] = window.ids
        types[row, :length] = window.types
        mask[row, :length] = 1
        for span in window.spans:
            owners[row, span.first : span.last] = base + span.sentence
    return Batch(
        ids=torch.from_numpy(ids),
        types=torch.from_numpy(types),
        mask=torch.from_numpy(mask),
        owners=torch.from_numpy(owners),
    )


def padded_length(tokens: int) -> int:
    """The length to which windows are padded whose longest has so many tokens."""
    return -(-tokens // _ROUND) * _ROUND


class Float32Linear(nn.Linear):
    """A linear layer that stays in float32 where the rest is cast to bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight, self.bias)


def keep_float32(body: nn.Module) -> None:
    """Compute queries and keys of a BERT body in float32 whatever the rest does; nothing else changes.

    They are a sixth of the matrices. In bfloat16 they make some attention jump from one token to
    another, and single scores move by over 0.01; without them none of the test split does.
    """
    for name, module in list(body.named_modules()):
        parent, _, own = name.rpartition(".")
        if parent.endswith("attention.self") and own in {"query", "key"} and type(module) is nn.Linear:
            exact = Float32Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            exact.weight, exact.bias = module.weight, module.bias
            body.get_submodule(parent).add_module(own, exact)


class SentenceHead(nn.Module):
    """Sentence vector ``(n, d)`` to label logits ``(n, n_labels)`` and kind logits ``(n, n_kinds)``.

    Without kinds there is one column that nothing reads, so that shapes stay the same.
    """

    def __init__(
        self, width: int, *, hidden: int, dropout: float, n_labels: int = _N_LABELS, n_kinds: int = _N_KINDS
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout))
        self.labels = nn.Linear(hidden, n_labels)
        self.kinds = nn.Linear(hidden, max(1, n_kinds))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(vectors)
        return self.labels(hidden), self.kinds(hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthCorrection:
    """What a long trace's logits are lowered by: the strongest of many harmless sentences is strong.

    From a trace of ``n`` sentences, more than ``typical``, ``slopes[label] * log(n / typical)`` is taken off, as if it
    had no more than ``longest``, beyond which nothing was fitted. It is fitted on innocent traces
    (``training/long_traces.py``) so that about as many of the long ones reach a threshold as of the short ones. The
    price: harmless text around a harmful passage lowers the trace's score (not those of its sentences).
    """

    typical: float
    longest: float
    slopes: tuple[float, ...]

    def shift(self, n_sentences: int) -> NDArray[np.float32]:
        """What to take off, ``(n_labels,)``."""
        n = min(max(n_sentences, self.typical), self.longest)
        return np.float32(np.log(n / self.typical)) * np.array(self.slopes, np.float32)


class TraceHead(nn.Module):
    """All sentences of one trace to its label logits.

    Rule: for each label, attention over the sentences (a learned query plus the sentence's
    own logit) pools their vectors; to this comes a linear reading of the strongest logits of
    every label, over the whole trace and over its last third. So a strong ``harm_rejected``
    can pull ``strategic_harm`` down, and what stands at the end can count for more. ``length``,
    fitted after training, takes off what mere length adds.
    """

    def __init__(self, width: int, *, hidden: int, dropout: float, n_labels: int = _N_LABELS) -> None:
        super().__init__()
        self.keys = nn.Linear(width, hidden)
        self.queries = nn.Linear(hidden, n_labels, bias=False)
        self.sharpness = nn.Parameter(torch.ones(n_labels))
        self.values = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU())
        self.read = nn.Parameter(torch.zeros(n_labels, hidden))
        self.strongest = nn.Linear(3 * n_labels, n_labels)
        self.length: LengthCorrection | None = None
        with torch.no_grad():
            self.strongest.weight.zero_()
            self.strongest.weight[:, :n_labels] = 0.5 * torch.eye(n_labels)

    def forward(self, vectors: Tensor, logits: Tensor) -> Tensor:
        """``(n_sentences, d)`` and ``(n_sentences, n_labels)`` to ``(n_labels,)``."""
        return self.joined(*self.parts(vectors, logits), logits)

    def parts(self, vectors: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What each sentence brings: attention scores ``(n_sentences, n_labels)``, values ``(n_sentences, hidden)``."""
        return self.queries(torch.tanh(self.keys(vectors))) + self.sharpness * logits, self.values(vectors)

    def joined(self, scores: Tensor, values: Tensor, logits: Tensor) -> Tensor:
        """The :meth:`parts` of all sentences, and their logits, to the trace's ``(n_labels,)``."""
        pooled = torch.softmax(scores, dim=0).T @ values
        top = min(3, logits.shape[0])
        late = logits[-max(1, -(-logits.shape[0] // 3)) :]
        features = torch.cat(
            [logits.max(dim=0).values, logits.topk(top, dim=0).values.mean(dim=0), late.max(dim=0).values]
        )
        out: Tensor = (pooled * self.read).sum(dim=1) + self.strongest(features)
        return out if self.length is None else out - torch.from_numpy(self.length.shift(len(logits))).to(out.device)


class Encoder(nn.Module):
    """A Hugging Face encoder body with sentence and trace heads.

    ``body`` is any model that returns ``hidden_states`` (BERT, ModernBERT, DeBERTa ...). A
    sentence's vector is the mean over its tokens, of the states after each of ``layers``
    (0 is the embedding), side by side: the last layer of a sentence-embedding base has
    forgotten much of what single sentences say, middle layers have not.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        width: int,
        layers: Sequence[int],
        hidden: int = 192,
        dropout: float = 0.1,
        n_labels: int = _N_LABELS,
        n_kinds: int = _N_KINDS,
    ) -> None:
        super().__init__()
        self.n_labels = n_labels
        self.body = body
        self.layers = tuple(layers)
        self.width = width * len(self.layers)
        # Layers differ in scale, and fresh heads learn slowly on vectors of small scale.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self.sentence_head = SentenceHead(
            self.width, hidden=hidden, dropout=dropout, n_labels=n_labels, n_kinds=n_kinds
        )
        self.trace_head = TraceHead(self.width, hidden=hidden // 2, dropout=dropout, n_labels=n_labels)
        kinds = getattr(getattr(body, "config", None), "type_vocab_size", 0) or 0
        self._takes_types = kinds > 1

    def states(self, batch: Batch) -> Sequence[Tensor]:
        """The hidden states of the body itself: what a :data:`States` of another backend stands for."""
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if self._takes_types:
            inputs["token_type_ids"] = batch.types
        states = self.body(**inputs, output_hidden_states=True).hidden_states
        return [states[layer] for layer in self.layers]

    def pool(self, batch: Batch, sums: Tensor, counts: Tensor, states: States | None = None) -> None:
        """Add each sentence's token vectors to ``sums`` ``(n_sentences, d)``, its tokens to ``counts``.

        ``states`` stands in for :meth:`states`.
        """
        hidden = torch.cat(tuple((states or self.states)(batch)), dim=-1)
        scored = batch.owners >= 0
        rows = batch.owners[scored]
        sums.index_add_(0, rows, hidden[scored].to(sums.dtype))
        counts.index_add_(0, rows, torch.ones_like(rows, dtype=counts.dtype))

    def forward(self, batches: Sequence[Batch], lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """One training step's pass: batches that together hold whole traces, to the logits of :meth:`read`."""
        vectors, counts = self.vectors(batches, sum(lengths))
        return self.read(vectors, counts, lengths)

    def vectors(
        self, batches: Iterable[Batch], n_sentences: int, states: States | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sentence vectors ``(n_sentences, d)`` and token counts ``(n_sentences,)`` over some batches."""
        device = next(self.parameters()).device
        sums = torch.zeros(n_sentences, self.width, device=device)
        counts = torch.zeros(n_sentences, device=device)
        for batch in batches:
            self.pool(batch, sums, counts, states)
        return sums / counts.clamp(min=1).unsqueeze(1), counts

    def normed(self, vectors: Tensor) -> Tensor:
        """Sentence vectors ``(n_sentences, d)`` with the part of each layer normalised."""
        parts = vectors.chunk(len(self.layers), dim=1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=1)

    def read(self, vectors: Tensor, counts: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Heads over sentence vectors of several traces of ``lengths`` sentences each.

        Returns sentence logits ``(n_sentences, n_labels)``, kind logits
        ``(n_sentences, n_kinds)`` and trace logits ``(n_traces, n_labels)``.
        """
        some = self.sentence_parts(vectors, counts)
        traces, begin = [], 0
        for length in lengths:
            here = slice(begin, begin + length)
            if length:
                traces.append(self.trace_head.joined(some.scores[here], some.values[here], some.labels[here]))
            else:
                traces.append(torch.full((self.n_labels,), _EMPTY_LOGIT, device=vectors.device))
            begin += length
        empty = some.labels.new_zeros((0, self.n_labels))
        return some.labels, some.kinds, torch.stack(traces) if traces else empty

    def sentence_parts(self, vectors: Tensor, counts: Tensor) -> SentenceParts:
        """What the heads make of sentence vectors ``(n_sentences, d)``, each for itself."""
        vectors = self.normed(vectors)
        labels, kinds = self.sentence_head(vectors)
        labels = torch.where(counts.unsqueeze(1) > 0, labels, torch.full_like(labels, _EMPTY_LOGIT))
        scores, values = self.trace_head.parts(vectors, labels)
        return SentenceParts(labels=labels, kinds=kinds, scores=scores, values=values)


def sentence_vectors(
    encoder: Encoder,
    traces: Sequence[Sequence[Window]],
    lengths: Sequence[int],
    *,
    padding: int,
    batch_tokens: int | None = None,
    bf16: bool = False,
    states: States | None = None,
) -> tuple[Tensor, Tensor]:
    """Vectors ``(n_sentences, d)`` and token counts ``(n_sentences,)`` of several traces; arguments as of :func:`encode`."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    work = [(window, int(starts[at])) for at, windows in enumerate(traces) for window in windows]
    work.sort(key=lambda item: len(item[0].ids))
    device = next(encoder.parameters()).device
    if batch_tokens is None:
        batch_tokens = _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        batches = (batch.to(device) for batch in _batches(work, padding=padding, batch_tokens=batch_tokens))
        return encoder.vectors(batches, int(starts[-1]), states)


def encode(
    encoder: Encoder,
    traces: Sequence[Sequence[Window]],
    lengths: Sequence[int],
    *,
    padding: int,
    batch_tokens: int | None = None,
    bf16: bool = False,
    states: States | None = None,
) -> list[TraceLogits]:
    """Score the windows of several traces in length-sorted batches.

    Args:
        encoder: in evaluation mode.
        traces: the windows of each trace.
        lengths: the number of sentences of each trace.
        padding: id of the padding token.
        batch_tokens: tokens (with padding) in one forward pass; for None what suits the device.
        bf16: run the body in bfloat16 where the processor has it; heads stay in float32.
        states: what stands in for the body (see :mod:`cot_probe.backends`); on the CPU only.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    vectors, counts = sentence_vectors(
        encoder, traces, lengths, padding=padding, batch_tokens=batch_tokens, bf16=bf16, states=states
    )
    with torch.inference_mode():
        labels, kinds, heads = (part.float().cpu().numpy() for part in encoder.read(vectors, counts, lengths))
    return [
        TraceLogits(sentences=labels[a:b], kinds=kinds[a:b], trace=heads[at])
        for at, (a, b) in enumerate(itertools.pairwise(starts))
    ]


def _batches(work: Sequence[tuple[Window, int]], *, padding: int, batch_tokens: int) -> Iterator[Batch]:
    """Cut length-sorted windows into batches of at most ``batch_tokens`` padded tokens.

    A batch also ends where the next window would bring more padding than another pass costs.
    """
    begin = 0
    while begin < len(work):
        end, held = begin + 1, len(work[begin][0].ids)
        while end < len(work):
            longest, count = len(work[end][0].ids), end + 1 - begin
            padded = padded_length(longest) * count
            spare = padded - held - longest
            if longest * count > batch_tokens or spare > max(_PADDING * padded, batch_tokens // _PASS_SHARE):
                break
            held, end = held + longest, end + 1
        some = work[begin:end]
        yield collate([window for window, _ in some], [base for _, base in some], padding=padding)
        begin = end
