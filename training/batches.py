"""Examples to what a training step takes: windows, padded, and the labels beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from augment import Example
from cot_probe.encoder import Batch, collate
from cot_probe.windows import SpecialTokens, WindowLayout, lay_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Labels of a batch: ``(n_sentences, n_labels)``, ``(n_sentences,)``, ``(n_traces, n_labels)``.

    ``known`` ``(n_traces,)`` is 0 where a trace was cut and its trace labels are unknown;
    ``known_sentences`` ``(n_sentences,)`` is False where nobody labelled a sentence.
    """

    labels: Tensor
    kinds: Tensor
    trace: Tensor
    known: Tensor
    known_sentences: Tensor


BatchOf = Callable[[Sequence[Example], WindowLayout, SpecialTokens], tuple[list[Batch], list[int], Targets]]
"""What :func:`make_batch` is, and what may stand in for it."""


def make_batch(
    examples: Sequence[Example], layout: WindowLayout, special: SpecialTokens
) -> tuple[list[Batch], list[int], Targets]:
    """Windows and labels of several traces; windows of like lengths are padded together."""
    windows, bases, lengths = [], [], []
    row = 0
    for example in examples:
        laid = lay_windows(example.sentences, example.context, layout=layout, special=special)
        windows += laid
        bases += [row] * len(laid)
        lengths.append(len(example.sentences))
        row += len(example.sentences)
    targets = Targets(
        labels=torch.tensor([line for e in examples for line in e.labels], dtype=torch.float32),
        kinds=torch.tensor([kind for e in examples for kind in e.kinds]),
        trace=torch.tensor([e.trace or [0] * len(e.labels[0]) for e in examples], dtype=torch.float32),
        known=torch.tensor([float(e.trace is not None) for e in examples]),
        known_sentences=torch.tensor([known for e in examples for known in e.known]),
    )
    order = sorted(range(len(windows)), key=lambda at: len(windows[at].ids))
    groups: list[list[int]] = []
    for at in order:
        if not groups or len(windows[at].ids) > 1.3 * len(windows[groups[-1][0]].ids):
            groups.append([])
        groups[-1].append(at)
    batches = [
        collate([windows[at] for at in group], [bases[at] for at in group], padding=special.padding) for group in groups
    ]
    return batches, lengths, targets
