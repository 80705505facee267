"""How the trace logits of innocent text rise with its length, and what to take off for it.

A trace of a day's work has thousands of sentences, the annotated ones a few dozen. Read as one, innocent
traces set one behind the other look worse the more there are of them. Their sentences' parts need not be
computed again for that: the trace head joins those of some traces as if they were of one.
"""

from collections.abc import Sequence
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
LEAST: Final = 40
"""With fewer innocent traces nothing is fitted: the quantile below would be that of one or two of them."""
QUANTILE: Final = 0.95
"""What is to stay where it is: the logit that one in twenty innocent traces exceeds, as at the default point."""


def innocent(records: Sequence[AnnotatedTrace]) -> list[AnnotatedTrace]:
    """The records that carry no label at all."""
    return [record for record in records if not record.trace and not record.sentences]


def parts_of(tagger: Tagger, records: Sequence[AnnotatedTrace]) -> list[SentenceParts]:
    """What the sentences of each trace bring to it."""
    encoder, out = tagger.checkpoint.encoder, []
    for at in range(0, len(records), 32):
        traces = [record.as_trace() for record in records[at : at + 32]]
        sentences = [sentences_of(trace) for trace in traces]
        lengths = [len(some) for some in sentences]
        windows = tagger.windows(traces, sentences)
        vectors, counts = sentence_vectors(encoder, windows, lengths, padding=tagger.special.padding)
        with torch.inference_mode():
            own = zip(vectors.split(lengths), counts.split(lengths), strict=True)
            out += [encoder.sentence_parts(some, count) for some, count in own if len(some)]
    return out


def fit_length(encoder: Encoder, parts: Sequence[SentenceParts], *, seed: int = 0) -> LengthCorrection | None:
    """The correction for innocent traces of these parts; None where they are too few.

    A line through the rise of the logits' upper quantile over the logarithm of the length, for each
    label, from the typical (median) length on; a label whose logits fall is left alone.
    """
    if len(parts) < LEAST:
        return None
    rng = np.random.default_rng(seed)
    typical = float(np.median([len(part.labels) for part in parts]))
    encoder.trace_head.length = None
    alone = _quantile([[part] for part in parts], encoder)
    lengths = typical * 2 ** np.arange(1, np.log2(LONGEST / typical) + 1e-9)
    rises = [_quantile([_company(parts, length, rng) for _ in range(DRAWS)], encoder) - alone for length in lengths]
    steps = np.log(lengths / typical)
    slopes = (steps[:, None] * np.stack(rises)).sum(axis=0) / (steps**2).sum()
    return LengthCorrection(typical=typical, slopes=tuple(round(max(0.0, float(slope)), 4) for slope in slopes))


def _company(parts: Sequence[SentenceParts], length: float, rng: np.random.Generator) -> list[SentenceParts]:
    """Traces drawn until they have ``length`` sentences together."""
    drawn: list[SentenceParts] = []
    while sum(len(part.labels) for part in drawn) < length:
        drawn.append(parts[int(rng.integers(len(parts)))])
    return drawn


def _quantile(groups: Sequence[Sequence[SentenceParts]], encoder: Encoder) -> NDArray[np.float64]:
    """The upper quantile of the trace logits ``(n_labels,)``, each group read as one trace."""
    with torch.inference_mode():
        logits = [
            encoder.trace_head.joined(
                torch.cat([part.scores for part in group]),
                torch.cat([part.values for part in group]),
                torch.cat([part.labels for part in group]),
            )
            for group in groups
        ]
    return np.quantile(torch.stack(logits).double().numpy(), QUANTILE, axis=0)
