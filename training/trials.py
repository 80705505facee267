"""Short trainings from fresh weights, one change each: what is worth a whole run.

    python training/trials.py --data RUN/data --out RUN/trials.jsonl --bf16
    python training/trials.py --data RUN/data --out RUN/trials.jsonl --bf16 --only release --seed 1

Every trial sees the same rows of the training split in the same order, with the release's settings but for its
change, for one epoch whose rate falls to zero; then its dev score and that of its sentences and traces are written
down. The release under several seeds says what chance does: a difference within it is none. A short training favours
what learns fast, so that a change which helps here still has to win in a whole run.

With ``--begun`` they go on from a checkpoint instead, which changes of shape cannot, at the rates of the recipe's later
rounds: what a change does to weights that have learnt, and with far less chance in it.

With ``--paraphrases`` (``annotations/robustness/train_paraphrases.jsonl``) the first three quarters of the pairs serve
the trials that learn from them, and over the others it is measured how far the scores of a sentence and of its
paraphrase lie apart. Further files after the first one serve learning alone, so that what is measured stays the same.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from datasets import DatasetDict, load_from_disk
from torch import Tensor, nn

from adapt import adapt
from augment import Example
from batches import BatchOf, Targets, make_batch
from cot_probe.base import load_tokenizer, resolve_base, special_tokens
from cot_probe.encoder import Batch, Encoder
from cot_probe.taxonomy import TAXONOMY
from cot_probe.tokens import BaseTokenizer
from cot_probe.windows import SpecialTokens, WindowLayout
from paraphrases import Pair, Tellings, tellings
from settings import Settings
from train import batches_of_epoch, begin, build_encoder, evaluate, light_state, loss_of, optimizer_of, position_weights

_TEMPERATURE: Final = 0.1
_MARKER: Final = "[unused0]"
_HIDDEN_VIEW: Final = 0.15
"""Share of the tokens that a view of the contrastive stage hides."""

_NAMES: Final = (
    "adam alan alex alice amy andrea andrew angela anna anne anthony barbara ben brian carlos carol caroline charles "
    "chris claire daniel david diana diego elena elizabeth emily emma eric eva felix fiona george hannah "
    "harry helen henry ivan james jane jean jennifer jessica john jonas jose joseph julia karen karl kate kevin "
    "laura lena leo linda lisa louis lucy luis marcus maria marie martin mary matt maya michael miguel mike "
    "monica nathan nina nora oliver omar oscar patrick paul peter priya rachel raj rebecca richard robert rosa "
    "ruth ryan sam samuel sandra sara sarah simon sofia stephen steve susan tom tony vera victor wei yuki"
).split()
"""Given names of one token each; those that the base splits are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One change.

    Attributes:
        settings: other settings than the release's.
        adapted: which layers get an adapter (:func:`train.build_encoder`).
        first_token: a sentence's vector is that of its first token, not the mean.
        marker: a token of its own stands before every sentence.
        layout: other sizes of a window's parts.
        masked_words: epochs of filling in masked words beforehand (``adapt.py``).
        contrast: epochs beforehand in which two views of a sentence, each with some tokens hidden, are to be nearer
            to one another than to any other sentence (Gao et al. 2021, arXiv 2104.08821, with hidden tokens for dropout).
        alike: weight of a term that draws sentences with the same labels together (Khosla et al. 2020, arXiv 2004.11362).
        consistent: weight of the divergence between what is said of a sentence and of its paraphrase.
        paraphrased: paraphrases join the rows, with the labels of their originals.
        swapped: share of the rows without ``command_disobedience`` that get another row's instructions.
        renamed: share of the rows in which people's names change, each into another one throughout.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    adapted: str = ""
    first_token: bool = False
    marker: bool = False
    layout: Mapping[str, int] = field(default_factory=dict)
    masked_words: int = 0
    contrast: int = 0
    alike: float = 0.0
    consistent: float = 0.0
    paraphrased: bool = False
    swapped: float = 0.0
    renamed: float = 0.0

    @property
    def needs_pairs(self) -> bool:
        """Whether it learns from paraphrases."""
        return bool(self.consistent) or self.paraphrased


TRIALS: Final[Mapping[str, Trial]] = {
    "release": Trial(),
    "rank 8": Trial(settings={"lora_rank": 8, "lora_alpha": 16.0}),
    "rank 128": Trial(settings={"lora_rank": 128, "lora_alpha": 256.0}),
    "rank 128 at half the rate": Trial(
        settings={"lora_rank": 128, "lora_alpha": 256.0, "learning_rate": 2.5e-4, "head_rate": 5e-4}
    ),
    "attention alone": Trial(adapted=r".*\.attention\..*(query|key|value|dense)"),
    "feed-forward alone": Trial(adapted=r".*\.layer\.\d+\.(intermediate|output)\.dense"),
    "upper half alone": Trial(adapted=r".*\.layer\.[345]\..*(query|key|value|dense)"),
    "first token": Trial(first_token=True),
    "marker token": Trial(first_token=True, marker=True),
    "windows of 256": Trial(layout={"max_tokens": 256}),
    "no neighbours": Trial(layout={"left_tokens": 0, "right_tokens": 0}),
    "twice the neighbours": Trial(layout={"left_tokens": 128, "right_tokens": 64}),
    "masked words first": Trial(masked_words=1),
    "contrast first": Trial(contrast=1),
    "labels alike": Trial(alike=0.5),
    "consistent with paraphrases": Trial(consistent=1.0),
    "paraphrases as rows": Trial(paraphrased=True),
    "swapped instructions": Trial(swapped=0.5),
    "changed names": Trial(renamed=0.5),
}


def batch_maker(trial: Trial, marker: int) -> BatchOf:
    """:func:`batches.make_batch`, with the trial's windows and pooling."""

    def made(
        examples: Sequence[Example], layout: WindowLayout, special: SpecialTokens
    ) -> tuple[list[Batch], list[int], Targets]:
        if trial.marker:
            examples = [
                replace(example, sentences=[[marker, *ids] if ids else [] for ids in example.sentences])
                for example in examples
            ]
        batches, lengths, targets = make_batch(examples, replace(layout, **trial.layout), special)
        return [first_tokens(batch) for batch in batches] if trial.first_token else batches, lengths, targets

    return made


def first_tokens(batch: Batch) -> Batch:
    """Of what a window has of a sentence only the first token is pooled."""
    before = nn.functional.pad(batch.owners[:, :-1], (1, 0), value=-1)
    return replace(batch, owners=torch.where(batch.owners == before, -1, batch.owners))


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """Divergence between two rows of logits ``(n, n_labels)``, both ways, summed over labels and averaged over rows."""
    one, other = one.float(), other.float()
    apart = (torch.sigmoid(one) - torch.sigmoid(other)) * (one - other)
    return apart.sum(dim=1).mean() / 2


def contrast_loss(one: Tensor, other: Tensor) -> Tensor:
    """Each vector ``(n, d)`` of one view against all of the other: its own is to be the nearest."""
    one, other = (nn.functional.normalize(part.float(), dim=1) for part in (one, other))
    return nn.functional.cross_entropy(one @ other.T / _TEMPERATURE, torch.arange(len(one)))


def alike_loss(vectors: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Supervised contrast: every labelled sentence against all others, those with the same labels being the near ones."""
    vectors, labels = nn.functional.normalize(vectors.float(), dim=1)[known], labels[known]
    itself = torch.eye(len(labels), dtype=torch.bool)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).all(dim=2) & ~itself
    anchors = labels.any(dim=1) & same.any(dim=1)
    if not anchors.any():
        return vectors.new_zeros(())
    odds = (vectors[anchors] @ vectors.T / _TEMPERATURE).masked_fill(itself[anchors], -1e4).log_softmax(dim=1)
    near = same[anchors].float()
    return -((odds * near).sum(dim=1) / near.sum(dim=1)).mean()


def hidden(example: Example, mask_id: int, rng: np.random.Generator) -> Example:
    """The example with some tokens masked."""
    sentences = [[mask_id if rng.random() < _HIDDEN_VIEW else token for token in ids] for ids in example.sentences]
    return replace(example, sentences=sentences)


def swapped(groups: Sequence[list[Example]], share: float, rng: np.random.Generator) -> list[list[Example]]:
    """Give some examples that are known to obey the instructions of another one."""
    column = TAXONOMY.labels.index("command_disobedience")
    contexts = [example.context for group in groups for example in group if example.context]

    def changed(example: Example) -> Example:
        obeys = example.trace is not None and not example.trace[column]
        if not (example.context and obeys and rng.random() < share):
            return example
        return replace(example, context=contexts[int(rng.integers(len(contexts)))])

    return [[changed(example) for example in group] for group in groups]


def renamed(
    groups: Sequence[list[Example]], share: float, names: Sequence[int], rng: np.random.Generator
) -> list[list[Example]]:
    """Change the names in some examples: the same one into the same other one, in instructions and reasoning."""

    def changed(example: Example) -> Example:
        if rng.random() >= share:
            return example
        other = dict(zip(names, rng.permutation(names).tolist(), strict=True))
        sentences = [[other.get(token, token) for token in ids] for ids in example.sentences]
        return replace(example, sentences=sentences, context=[other.get(token, token) for token in example.context])

    return [[changed(example) for example in group] for group in groups]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the encoder makes of some examples: its logits, sentence vectors ``(n_sentences, d)``, the labels beside them."""

    logits: tuple[Tensor, Tensor, Tensor]
    vectors: Tensor
    targets: Targets
    lengths: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """An encoder under training and how examples are laid before it."""

    encoder: Encoder
    settings: Settings
    special: SpecialTokens
    mask_id: int
    batch_of: BatchOf

    def read(self, examples: Sequence[Example]) -> Reading:
        """One pass over whole traces."""
        batches, lengths, targets = self.batch_of(examples, self.settings.layout, self.special)
        vectors, counts = self.encoder.vectors(batches, sum(lengths))
        logits = self.encoder.read(vectors, counts, lengths)
        return Reading(logits=logits, vectors=self.encoder.normed(vectors), targets=targets, lengths=lengths)


def stepped(
    reader: Reader, groups: Sequence[list[Example]], loss_of_group: Callable[[list[Example]], Tensor], name: str
) -> None:
    """One pass over ``groups``, a step each."""
    optimizer, schedule = optimizer_of(reader.encoder, reader.settings, len(groups))
    trained = [p for p in reader.encoder.parameters() if p.requires_grad]
    begun, total = time.monotonic(), 0.0
    for at, group in enumerate(groups):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reader.settings.bf16):
            loss = loss_of_group(group)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += float(loss.detach())
        if at % 50 == 49:
            pace = (time.monotonic() - begun) / (at + 1)
            print(f"# {name}: {at + 1} of {len(groups)}, loss {total / 50:.4f}, {pace:.2f} s a step", flush=True)
            total = 0.0


def two_views(reader: Reader, group: Sequence[Example], rng: np.random.Generator) -> Tensor:
    """The contrastive stage's loss."""
    one, other = (reader.read([hidden(example, reader.mask_id, rng) for example in group]).vectors for _ in range(2))
    some = torch.tensor([bool(ids) for example in group for ids in example.sentences])
    return contrast_loss(one[some], other[some])


def two_tellings(reader: Reader, pair: Pair) -> Tensor:
    """How far a trace and its paraphrase are judged apart, as sentences and as a whole."""
    found = reader.read(pair)
    labels, _, traces = found.logits
    half = found.lengths[0]
    return disagreement(labels[:half], labels[half:]) + disagreement(traces[:1], traces[1:])


def with_labels(
    reader: Reader,
    group: Sequence[Example],
    trial: Trial,
    weights: tuple[Tensor, Tensor],
    pairs: Sequence[Pair],
    rng: np.random.Generator,
) -> Tensor:
    """The release's loss, and what the trial adds to it."""
    found = reader.read(group)
    loss = loss_of(found.logits, found.targets, weights, reader.settings)
    if trial.alike:
        loss = loss + trial.alike * alike_loss(found.vectors, found.targets.labels, found.targets.known_sentences)
    if trial.consistent:
        loss = loss + trial.consistent * two_tellings(reader, pairs[int(rng.integers(len(pairs)))])
    return loss


def told_again(reader: Reader, pairs: Sequence[Pair]) -> dict[str, float]:
    """Scores of labelled sentences, for the labels that they carry: mean, mean of the paraphrases, mean distance."""
    found: list[list[float]] = []
    with torch.inference_mode():
        for pair in pairs:
            seen = reader.read(pair)
            scores = torch.sigmoid(seen.logits[0].float()).split(seen.lengths)
            found += torch.stack(scores, dim=-1)[seen.targets.labels[: seen.lengths[0]] > 0].tolist()
    if not found:
        return {}
    one, other = np.array(found).T
    means = {"score_said": one.mean(), "score_paraphrased": other.mean(), "gap": np.abs(one - other).mean()}
    return {name: round(float(value), 4) for name, value in means.items()}


def reader_of(trial: Trial, rows: Sequence[dict[str, Any]], settings: Settings, tokenizer: BaseTokenizer) -> Reader:
    """A fresh encoder, after the masked words where the trial has them."""
    torch.manual_seed(settings.seed)
    encoder = build_encoder(settings, adapted=trial.adapted).train()
    begin(encoder, settings)
    if trial.masked_words:
        found = adapt(rows, settings, epochs=trial.masked_words, rate=settings.learning_rate)
        encoder.load_state_dict(found, strict=False)
    special = special_tokens(tokenizer)
    mask_id, marker = tokenizer.special.get("mask", special.padding), tokenizer.fast.token_to_id(_MARKER)
    return Reader(
        encoder=encoder,
        settings=settings,
        special=special,
        mask_id=mask_id,
        batch_of=batch_maker(trial, mask_id if marker is None else marker),
    )


def run_trial(
    name: str, data: DatasetDict, rows: Sequence[dict[str, Any]], settings: Settings, told: Tellings
) -> dict[str, Any]:
    """Train and measure one."""
    trial, begun = TRIALS[name], time.monotonic()
    settings = replace(settings, **trial.settings)
    tokenizer = load_tokenizer(resolve_base(settings.base))
    reader = reader_of(trial, rows, settings, tokenizer)
    groups = [list(group) for group in batches_of_epoch(rows, settings, 0, mask_id=reader.mask_id, shard=(0, 1))]
    rng = np.random.default_rng([settings.seed, 7])
    if trial.paraphrased:
        for _, paraphrase in told.learnt:
            groups[int(rng.integers(len(groups)))].append(paraphrase)
    if trial.swapped:
        groups = swapped(groups, trial.swapped, rng)
    if trial.renamed:
        found = [tokenizer.fast.token_to_id(name) for name in _NAMES]
        groups = renamed(groups, trial.renamed, [at for at in found if at is not None], rng)
    for _ in range(trial.contrast):
        stepped(reader, groups, lambda group: two_views(reader, group, rng), f"{name}, contrast")
    weights = position_weights(rows, settings)
    stepped(reader, groups, lambda group: with_labels(reader, group, trial, weights, told.learnt, rng), name)
    minutes = (time.monotonic() - begun) / 60
    figures = evaluate(
        reader.encoder,
        data["dev"].to_list(),
        settings,
        reader.special,
        torch.device("cpu"),
        TAXONOMY.labels,
        batch_of=reader.batch_of,
    )
    reader.encoder.eval()
    return (
        {
            "trial": name,
            "seed": settings.seed,
            "begun": settings.begun,
            "rows": len(rows),
            "steps": len(groups),
            "paraphrases": len(told.learnt) if trial.needs_pairs else 0,
            "minutes": round(minutes, 1),
            "trained": sum(tensor.numel() for tensor in light_state(reader.encoder).values()),
            "sentences": mean_of(figures, "sentence/"),
            "traces": mean_of(figures, "trace/"),
        }
        | told_again(reader, told.held_out)
        | figures
    )


def mean_of(figures: Mapping[str, float], level: str) -> float:
    """Mean average precision over the labels of a level."""
    return round(float(np.nanmean([value for name, value in figures.items() if name.startswith(level)])), 4)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of features, as prepare.py writes it")
    parser.add_argument("--out", type=Path, required=True, help="file that a line is added to for every trial")
    parser.add_argument("--rows", type=int, default=1400, help="so many rows of the training split, drawn once for all")
    parser.add_argument("--only", default="", help="trials, with commas; all if empty")
    parser.add_argument("--paraphrases", type=Path, nargs="+", default=[], help="files, the first one to measure too")
    parser.add_argument("--begun", type=Path, default=None, help="checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", default="base-minilm-l6")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    data = load_from_disk(str(args.data))
    assert isinstance(data, DatasetDict)
    rows = data["train"].to_list()
    drawn = np.random.default_rng(0).permutation(len(rows))[: args.rows]
    rows = [rows[at] for at in sorted(drawn)]
    settings = Settings(base=args.base, seed=args.seed, bf16=args.bf16, epochs=1)
    if args.begun:
        settings = replace(settings, begun=str(args.begun), learning_rate=3e-4, head_rate=6e-4)
    told = tellings(args.paraphrases, data, resolve_base(args.base))
    names = [part for part in args.only.split(",") if part] or list(TRIALS)
    unknown = [name for name in names if name not in TRIALS]
    if unknown:
        parser.error(f"no trial {', '.join(map(repr, unknown))}: there are {', '.join(TRIALS)}")
    lacking = [name for name in names if TRIALS[name].needs_pairs and not told.learnt]
    if lacking:
        parser.error(f"{', '.join(lacking)}: learnt from paraphrases; give --paraphrases")
    for name in names:
        found = run_trial(name, data, rows, settings, told)
        with args.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(found) + "\n")
        print(
            f"| {name} | {args.seed} | {found['score']:.4f} | {found['sentences']:.4f} | {found['traces']:.4f} "
            f"| {found.get('gap')} | {found['trained'] / 1e6:.2f} M | {found['minutes']} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
