"""How the trace logits of innocent text rise with its length, and what to take off for it.

A trace of a day's work has thousands of sentences, the annotated ones a few dozen. Read as one, innocent
traces set one behind the other look worse the more there are of them. Their sentences' parts need not be
computed again for that: the trace head joins those of some traces as if they were of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from cot_probe.annotations import AnnotatedTrace
from cot_probe.encoder import Encoder, LengthCorrection, SentenceParts, sentence_vectors
from cot_probe.tagger import Tagger, sentences_of

LONGEST: Final = 2048
"""Sentences; about a working day of an agent."""
DRAWS: Final = 200
ROUNDS: Final = 20
LEAST: Final = 40
"""With fewer innocent traces nothing is fitted: the quantile below would be that of one or two of them."""
QUANTILE: Final = 0.95
"""What is to stay where it is: the logit that one in twenty innocent traces exceeds, as at the default point."""


def innocent(records: Sequence[AnnotatedTrace]) -> list[AnnotatedTrace]:
    """The records that carry no label at all."""
    return [record for record in records if not record.trace and not record.sentences]


def parts_of(tagger: Tagger, records: Sequence[AnnotatedTrace]) -> list[SentenceParts]:
    """What the sentences of each trace bring to it, one for each record; a record has at least one sentence."""
    encoder, out = tagger.checkpoint.encoder, []
    for at in range(0, len(records), 32):
        traces = [record.as_trace() for record in records[at : at + 32]]
        sentences = [sentences_of(trace) for trace in traces]
        lengths = [len(some) for some in sentences]
        windows = tagger.windows(traces, sentences)
        vectors, counts = sentence_vectors(encoder, windows, lengths, padding=tagger.special.padding, bf16=tagger.bf16)
        with torch.inference_mode():
            own = zip(vectors.split(lengths), counts.split(lengths), strict=True)
            out += [encoder.sentence_parts(some, count) for some, count in own]
    return out


def fit_length(encoder: Encoder, parts: Sequence[SentenceParts], *, seed: int = 0) -> LengthCorrection | None:
    """The correction for innocent traces of these parts; None where they are too few, or as long as can be.

    A line through the rise of the logits' upper quantile over the logarithm of the length, for each
    label, from the typical (median) length on; a label whose logits fall is left alone. The quantile of the
    single traces is that of their corrected logits, for thresholds will be set on these: so the fit is
    repeated until it stands still. ``encoder`` must not have a correction yet.
    """
    if len(parts) < LEAST:
        return None
    rng = np.random.default_rng(seed)
    typical = float(np.median([len(part.labels) for part in parts]))
    doublings = int(np.log2(LONGEST / typical))
    if doublings < 1:
        return None
    alone = Joined.of([[part] for part in parts], encoder, typical)
    long = [
        Joined.of([_company(parts, typical * 2**times, rng) for _ in range(DRAWS)], encoder, typical)
        for times in range(1, doublings + 1)
    ]
    steps = np.array([some.steps.mean() for some in long])[:, None]
    highest = np.stack([some.quantile(np.zeros(1)) for some in long])
    slopes = np.zeros(highest.shape[1])
    for _ in range(ROUNDS):
        slopes = np.maximum(0.0, (steps * (highest - alone.quantile(slopes))).sum(axis=0) / (steps**2).sum())
    longest = round(typical * float(np.exp(steps.max())))
    return LengthCorrection(typical=typical, longest=longest, slopes=tuple(round(float(x), 4) for x in slopes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Groups of traces, each read as one: logits ``(n, n_labels)``, and log of the length over the typical ``(n,)``."""

    logits: NDArray[np.float64]
    steps: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Sequence[Sequence[SentenceParts]], encoder: Encoder, typical: float) -> "Joined":
        """Join the parts of each group."""
        logits, lengths = [], []
        for group in groups:
            with torch.inference_mode():
                scores, values, labels = (
                    torch.cat([getattr(part, name) for part in group]) for name in ("scores", "values", "labels")
                )
                logits.append(encoder.trace_head.joined(scores, values, labels).double().numpy())
            lengths.append(len(labels))
        return cls(logits=np.stack(logits), steps=np.log(np.maximum(lengths, typical) / typical))

    def quantile(self, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The upper quantile of the logits, lowered by ``slopes`` for each step, ``(n_labels,)``."""
        return np.quantile(self.logits - self.steps[:, None] * slopes, QUANTILE, axis=0)


def _company(parts: Sequence[SentenceParts], length: float, rng: np.random.Generator) -> list[SentenceParts]:
    """Traces drawn until they have ``length`` sentences together."""
    drawn: list[SentenceParts] = []
    while sum(len(part.labels) for part in drawn) < length:
        drawn.append(parts[int(rng.integers(len(parts)))])
    return drawn
