"""Short trials: each change is the change that it says, and a trial learns and is measured."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import sample_set
from toy import make_base

import trials
from augment import Example
from batches import make_batch
from cot_probe.annotations import load_split
from cot_probe.encoder import Batch
from cot_probe.sentences import split
from cot_probe.taxonomy import TAXONOMY
from cot_probe.windows import SpecialTokens, WindowLayout
from paraphrases import Tellings, tellings
from prepare import prepare
from settings import Settings
from train import build_encoder, train
from trials import (
    TRIALS,
    Trial,
    alike_loss,
    batch_maker,
    contrast_loss,
    disagreement,
    first_tokens,
    run_trial,
)

QUOTED = re.compile(r"[\"“”].*[\"“”]|[\"“”].*$|^.*[\"“”]", re.DOTALL)
SPECIAL = SpecialTokens(opening=2, separator=3, padding=0)
LAYOUT = WindowLayout(max_tokens=64, context_tokens=12, left_tokens=8, right_tokens=6)


def example(*lengths: int) -> Example:
    sentences = [list(range(10, 10 + length)) for length in lengths]
    blank = [[0] * 5 for _ in lengths]
    return Example(
        sentences=sentences,
        context=[],
        labels=blank,
        kinds=[-1] * len(lengths),
        known=[True] * len(lengths),
        trace=[0] * 5,
    )


def pooled_tokens(batches: list[Batch]) -> dict[int, list[int]]:
    """The ids that are pooled into each sentence."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        for ids, owners in zip(batch.ids.tolist(), batch.owners.tolist(), strict=True):
            for token, owner in zip(ids, owners, strict=True):
                if owner >= 0:
                    found.setdefault(owner, []).append(token)
    return found


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_first_tokens_are_those_of_the_pieces_and_markers_stand_before_sentences(lengths: list[int]) -> None:
    shown = example(*lengths)
    every = pooled_tokens(make_batch([shown], LAYOUT, SPECIAL)[0])
    first = pooled_tokens(batch_maker(Trial(first_token=True), 5)([shown], LAYOUT, SPECIAL)[0])
    marked = pooled_tokens(batch_maker(Trial(first_token=True, marker=True), 5)([shown], LAYOUT, SPECIAL)[0])
    assert set(every) == set(first) == set(marked) == {at for at, length in enumerate(lengths) if length}
    for at, tokens in first.items():
        # A sentence of more than unit_tokens may be cut: each window then has a first token of it.
        pieces = range(10, 10 + lengths[at], LAYOUT.unit_tokens)
        assert 10 in tokens and set(tokens) <= set(pieces)
        assert 5 in marked[at]


def test_neighbouring_sentences_in_one_window_each_keep_a_first_token() -> None:
    batch = Batch(
        ids=torch.tensor([[2, 10, 11, 12, 13, 3]]),
        types=torch.zeros(1, 6, dtype=torch.long),
        mask=torch.ones(1, 6, dtype=torch.long),
        owners=torch.tensor([[-1, 0, 0, 1, 1, -1]]),
    )
    assert first_tokens(batch).owners.tolist() == [[-1, 0, -1, 1, -1, -1]]


def test_another_layout_is_the_one_that_windows_are_laid_with() -> None:
    batches, _, _ = batch_maker(Trial(layout={"left_tokens": 0, "right_tokens": 0}), 5)(
        [example(40, 40)], LAYOUT, SPECIAL
    )
    for batch in batches:
        scored = (batch.owners >= 0).sum(dim=1)
        assert (batch.mask.sum(dim=1) - scored == 2).all()  # the opening and the separator: no neighbours
    assert LAYOUT.left_tokens == 8


def test_adapters_lie_where_a_trial_says() -> None:
    wanted = {"attention alone": 6 * 4, "feed-forward alone": 6 * 2, "upper half alone": 3 * 6, "release": 6 * 6}
    for name, count in wanted.items():
        encoder = build_encoder(Settings(base="base-minilm-l6", lora_rank=4), adapted=TRIALS[name].adapted)
        layers = {n.split(".lora_")[0] for n, p in encoder.named_parameters() if "lora_" in n}
        assert len(layers) == count, name
        if name == "attention alone":
            assert all(".attention." in layer for layer in layers)
        if name == "feed-forward alone":
            assert not any(".attention." in layer for layer in layers)
        if name == "upper half alone":
            assert {layer.split("layer.")[1][0] for layer in layers} == {"3", "4", "5"}


def test_only_who_obeys_gets_other_instructions_and_names_change_alike_throughout() -> None:
    column, rng = TAXONOMY.labels.index("command_disobedience"), np.random.default_rng(0)
    own = [replace(example(2, 2), context=[at], trace=[int(at < 5 and label == column) for label in range(5)])
           for at in range(20)]  # fmt: skip
    unknown = replace(example(2), context=[99], trace=None)
    shown = trials.swapped([own, [unknown]], 1.0, rng)
    assert [one.context for one in shown[0][:5]] == [[at] for at in range(5)] and shown[1] == [unknown]
    assert len({one.context[0] for one in shown[0][5:]} - {99}) > 5
    assert shown[0][5:] != own[5:] and all(one.trace == as_was.trace for one, as_was in zip(shown[0], own, strict=True))
    told = replace(example(4, 3), sentences=[[10, 11, 12, 10], [13, 11, 10]], context=[10, 50])
    (changed,), names = trials.renamed([[told]], 1.0, [10, 11, 20, 21], rng)[0], {10, 11, 20, 21}
    ten, eleven = changed.sentences[0][:2]
    assert changed.sentences == [[ten, eleven, 12, ten], [13, eleven, ten]] and changed.context == [ten, 50]
    assert {ten, eleven} <= names and ten != eleven
    assert trials.renamed([[told]], 0.0, [10, 11], rng) == [[told]]


def test_losses_are_what_the_slow_way_gives() -> None:
    torch.manual_seed(0)
    vectors, labels = torch.randn(9, 4), (torch.rand(9, 2) > 0.5).float()
    known = torch.tensor([True] * 8 + [False])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    slow = []
    for at in range(8):
        others = [i for i in range(8) if i != at]
        near = [i for i in others if (labels[i] == labels[at]).all()]
        if labels[at].any() and near:
            odds = torch.stack([unit[at] @ unit[i] / 0.1 for i in others])
            slow.append(-torch.stack([unit[at] @ unit[i] / 0.1 - odds.logsumexp(0) for i in near]).mean())
    assert slow
    torch.testing.assert_close(alike_loss(vectors, labels, known), torch.stack(slow).mean())
    assert alike_loss(vectors, torch.zeros(9, 2), known) == 0
    same, mixed = contrast_loss(vectors, vectors), contrast_loss(vectors, vectors.roll(1, 0))
    assert 0 < same < mixed
    one, other = torch.randn(6, 3), torch.randn(6, 3)
    p, q = torch.sigmoid(one).double(), torch.sigmoid(other).double()
    both = sum(a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log() for a, b in ((p, q), (q, p))) / 2
    torch.testing.assert_close(disagreement(one, other).double(), both.sum(1).mean(), rtol=1e-4, atol=1e-5)
    assert disagreement(one, one) == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetDict, Settings, Path]:
    root = tmp_path_factory.mktemp("trials")
    base = str(make_base(root / "base"))
    layout = WindowLayout(max_tokens=300)
    data = prepare(sample_set(root / "annotations"), root / "data", base=base, layout=layout)
    return data, Settings(base=base, layers="1,2", hidden=16, lora_rank=4, max_tokens=300, epochs=1), root


CHANGES = [
    "release",
    "marker token",
    "masked words first",
    "contrast first",
    "labels alike",
    "swapped instructions",
    "changed names",
]


@pytest.mark.parametrize("name", [*CHANGES, "consistent with paraphrases", "paraphrases as rows"])
def test_a_trial_is_trained_and_measured(small: tuple[DatasetDict, Settings, Path], name: str) -> None:
    data, settings, root = small
    rows = data["train"].to_list()
    path = root / "pairs.jsonl"
    lines = [f'{{"of": "{row["id"]}", "sentences": {["I stop here."] * len(row["sentences"])}}}' for row in rows[:8]]
    path.write_text("\n".join(lines).replace("'", '"') + "\n")
    told = tellings([path], data, settings.base)
    assert all(original.labels == again.labels for original, again in told.learnt)
    found = run_trial(name, data, rows, settings, told)
    assert found["trial"] == name and found["rows"] == len(rows)
    for level in ("sentence", "trace"):
        values = [value for key, value in found.items() if key.startswith(f"{level}/")]
        assert found[f"{level}s"] == pytest.approx(np.nanmean(values), abs=1e-4)
    assert 0 <= found["gap"] <= 1
    again = run_trial(name, data, rows, settings, told)
    assert {**again, "minutes": 0} == pytest.approx({**found, "minutes": 0}, nan_ok=True)


def test_the_release_trial_is_an_epoch_of_the_training_script(
    small: tuple[DatasetDict, Settings, Path], tmp_path: Path
) -> None:
    data, settings, _ = small
    settings = replace(settings, dropout=0.0)  # its masks are drawn from other seeds there
    (epoch,) = train(data, tmp_path, settings, resume=False)["epochs"]
    found = run_trial("release", data, data["train"].to_list(), settings, Tellings())
    labels = [name for name in epoch if "/" in name]
    assert {name: found[name] for name in labels} == pytest.approx({name: epoch[name] for name in labels}, nan_ok=True)
    untrained = run_trial("release", data, data["train"].to_list(), replace(settings, head_rate=0.0), Tellings())
    assert any(untrained[name] != found[name] for name in labels)


def test_only_of_the_first_file_are_pairs_held_out(small: tuple[DatasetDict, Settings, Path], tmp_path: Path) -> None:
    data, settings, _ = small
    paths = [tmp_path / "first.jsonl", tmp_path / "more.jsonl"]
    for path, share in zip(paths, (slice(0, 8), slice(8, 14)), strict=True):
        rows = data["train"].to_list()[share]
        said = [{"of": row["id"], "sentences": ["I stop here."] * len(row["sentences"])} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in said))
    one, both = tellings(paths[:1], data, settings.base), tellings(paths, data, settings.base)
    assert (len(one.learnt), len(one.held_out)) == (6, 2)
    assert (len(both.learnt), both.held_out) == (12, one.held_out)
    assert both.learnt[:6] == one.learnt
    assert tellings([], data, settings.base) == Tellings()


def test_a_paraphrase_of_nothing_or_of_another_length_is_refused(small: tuple[DatasetDict, Settings, Path]) -> None:
    data, settings, root = small
    path, known = root / "wrong.jsonl", data["train"][0]["id"]
    for of, what in (("nobody", "no training trace"), (known, "a training trace of")):
        path.write_text(f'{{"of": "{of}", "sentences": ["One."]}}\n')
        with pytest.raises(SystemExit, match=rf"wrong\.jsonl:1: 1 sentences of '{of}', which is {what}"):
            tellings([path], data, settings.base)


def shipped_pairs(name: str) -> list[tuple[list[str], list[str]]]:
    """The sentences of training traces beside those of a file under ``annotations/robustness``."""
    texts = {record.id: record.text for record in load_split(ROOT / "annotations", "train")}
    lines = (ROOT / "annotations" / "robustness" / name).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["of"] for row in rows}) == len(rows)
    return [([sentence.text.strip() for sentence in split(texts[row["of"]])], row["sentences"]) for row in rows]


@pytest.mark.parametrize(("name", "count"), [("train_paraphrases.jsonl", 96), ("train_paraphrases_more.jsonl", 192)])
def test_the_shipped_paraphrases_are_of_training_traces_sentence_for_sentence(name: str, count: int) -> None:
    pairs = shipped_pairs(name)
    assert len(pairs) == count
    for original, again in pairs:
        assert len(original) == len(again)
        assert sum(map(str.__eq__, original, again)) <= len(original) // 2, again


def test_the_shipped_quotes_change_nothing_but_what_is_quoted() -> None:
    pairs = shipped_pairs("train_quotes.jsonl")
    assert len(pairs) == 62
    changed = 0
    for original, again in pairs:
        assert len(original) == len(again)
        for one, other in zip(original, again, strict=True):
            changed += one != other
            # What stands before the first and after the last quotation mark is as it was.
            assert QUOTED.sub('"', one) == QUOTED.sub('"', other)
    assert changed == 87
