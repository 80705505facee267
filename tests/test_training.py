"""The whole chain on a tiny random base and tiny data: prepare, train, kill, resume, calibrate, evaluate."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from datasets import load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from toy import make_base

from augment import Augmentation, Fillers, augmented, plain
from cot_probe.annotations import load_split
from cot_probe.monitorability.contamination import read_training
from cot_probe.monitorability.suite import text_hash
from evaluate import training_minutes, write_results
from heads import asymmetric_loss, focal_loss

SMALL = ["--epochs", "3", "--lora-rank", "4", "--layers", "1,2", "--hidden", "16", "--max-tokens", "128"]
ENV = os.environ | {
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


def script(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "training" / name), *map(str, arguments)]


def run(name: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        script(name, *arguments), capture_output=True, text=True, env=ENV, timeout=300, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def sample_set(folder: Path) -> Path:
    """A few real records of each split."""
    (folder / "data").mkdir(parents=True)
    for name in ("train", "dev", "test"):
        rows = [json.loads(line) for line in (ROOT / "annotations" / "data" / f"{name}.jsonl").open()]
        short = [row for row in rows if len(row["text"]) < 1500]
        chosen = [row for row in short if row["trace"]][:8] + [row for row in short if not row["trace"]][:8]
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (folder / "real").mkdir()
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("training")
    base, annotations = make_base(root / "base"), sample_set(root / "annotations")
    run("prepare.py", "--annotations", annotations, "--base", base, "--out", root / "data", "--max-tokens", 300)
    return root, base, annotations


def train(prepared: tuple[Path, Path, Path], out: str, *more: str) -> Path:
    root, base, _ = prepared
    run("train.py", "--data", root / "data", "--out", root / out, "--base", str(base), *SMALL[:-2], "--max-tokens",
        "300", *more)  # fmt: skip
    return root / out


def test_the_chain_is_deterministic_and_ends_in_a_checkpoint_that_tags(prepared: tuple[Path, Path, Path]) -> None:
    root, _, annotations = prepared
    first, second = train(prepared, "one"), train(prepared, "two")
    a, b = load_file(first / "best.safetensors"), load_file(second / "best.safetensors")
    assert set(a) == set(b) and all((a[name] == b[name]).all() for name in a)
    checkpoint = root / "probe-mini"
    run("calibrate.py", "--run", first, "--out", checkpoint, "--annotations", annotations)
    printed = run("evaluate.py", "--checkpoint", checkpoint, "--annotations", annotations, "--draws", "20", "--write")
    assert "| trace | strategic_harm | cot_probe | 16 (" in printed
    assert "real traces: skipped" in printed
    assert "TF-IDF + LR" in (checkpoint / "README.md").read_text()
    listed = {(trace.scenario, trace.text) for trace in read_training(checkpoint / "trained_on.jsonl")[0]}
    seen = [record for name in ("train", "dev") for record in load_split(annotations, name)]
    assert listed == {(record.group, text_hash(record.text)) for record in seen}
    assert "trained_on.jsonl" in json.loads((checkpoint / "MANIFEST.json").read_text())
    assert not any(trace.text in (checkpoint / "trained_on.jsonl").read_text() for trace in seen)
    from cot_probe import load_tagger

    assert load_tagger(checkpoint).tag("I stop here. Then I report.").readable


def test_the_strength_of_the_adapter_is_the_one_that_is_best_on_dev(prepared: tuple[Path, Path, Path]) -> None:
    root, _, annotations = prepared
    trained, scores = train(prepared, "scaled"), {}
    for strengths in ("1,0.5,0", "1", "0.5", "0"):
        out = root / f"probe-{strengths}"
        printed = run("calibrate.py", "--run", trained, "--out", out, "--annotations", annotations, "--name", "probe",
                      "--adapter-scales", strengths)  # fmt: skip
        if "," in strengths:
            scores = {
                float(by): float(score) for by, score in re.findall(r"adapter at (\S+): dev score (\S+)", printed)
            }
    assert set(scores) == {1.0, 0.5, 0.0}
    best = max(scores, key=lambda by: scores[by])
    config = {by: json.loads((root / f"probe-{by:g}" / "config.json").read_text()) for by in scores}
    assert config[0.5]["lora_alpha"] == config[1.0]["lora_alpha"] / 2 and config[0.0]["lora_alpha"] == 0
    assert json.loads((root / "probe-1,0.5,0" / "config.json").read_text()) == config[best]
    fitted = [(root / name / "calibration.json").read_text() for name in (f"probe-{best:g}", "probe-1,0.5,0")]
    assert fitted[0] == fitted[1]


def test_killed_and_resumed_training_ends_with_the_same_weights(prepared: tuple[Path, Path, Path]) -> None:
    root, base, _ = prepared
    whole = train(prepared, "whole")
    out = root / "killed"
    command = script("train.py", "--data", root / "data", "--out", out, "--base", base, *SMALL[:-2])
    process = subprocess.Popen([*command, "--max-tokens", "300"], env=ENV, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "state.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(prepared, "killed", "--resume")
    a, b = load_file(whole / "best.safetensors"), load_file(out / "best.safetensors")
    assert all((a[name] == b[name]).all() for name in a)


def test_a_run_is_not_gone_on_with_under_other_settings_or_on_other_data(prepared: tuple[Path, Path, Path]) -> None:
    root, base, _ = prepared
    out = train(prepared, "first")
    before = (out / "best.safetensors").read_bytes()
    other = root / "other-data"
    rows = load_from_disk(str(root / "data"))
    rows["train"] = rows["train"].select(range(1, len(rows["train"])))
    rows.save_to_disk(str(other))
    shutil.copy(root / "data" / "trained_on.jsonl", other)
    for data, more, said in (
        (root / "data", ("--seed", "7"), r"seed 0 there, 7 here"),
        (root / "data", ("--head-rate", "2e-3"), r"head_rate \S+ there, 0.002 here"),
        (other, (), r"the data of other rows or labels"),
    ):
        command = script("train.py", "--data", data, "--out", out, "--base", base, *SMALL[:-2],
                         "--max-tokens", "300", *more, "--resume")  # fmt: skip
        refused = subprocess.run(command, env=ENV, cwd=ROOT, capture_output=True, text=True)
        assert refused.returncode == 1 and re.search(said, refused.stderr), refused.stderr
        assert (out / "best.safetensors").read_bytes() == before
    train(prepared, "first", "--resume")
    assert (out / "best.safetensors").read_bytes() == before


def test_adapting_learns_to_fill_in_words_and_training_starts_from_it(prepared: tuple[Path, Path, Path]) -> None:
    root, base, _ = prepared
    rank = SMALL[SMALL.index("--lora-rank") + 1]
    out = root / "adapted"
    printed = run("adapt.py", "--data", root / "data", "--out", out, "--base", str(base), "--lora-rank", rank,
                  "--max-tokens", "300", "--epochs", "40", "--rate", "3e-3")  # fmt: skip
    losses = [float(value) for value in re.findall(r"loss of the last 50 ([\d.]+)", printed)]
    assert len(losses) >= 2 and losses[-1] < losses[0]
    matrices = load_file(out / "adapted.safetensors")
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in matrices.items())
    plain, begun = train(prepared, "plain"), train(prepared, "begun", "--adapted", str(out / "adapted.safetensors"))
    a, b = load_file(plain / "best.safetensors"), load_file(begun / "best.safetensors")
    assert set(a) == set(b)
    assert any((a[name] != b[name]).any() for name in a if "lora_B" in name)


def test_training_goes_on_from_a_checkpoint(prepared: tuple[Path, Path, Path]) -> None:
    root, _, annotations = prepared
    first = train(prepared, "before")
    checkpoint = root / "probe-before"
    run("calibrate.py", "--run", first, "--out", checkpoint, "--annotations", annotations)
    still = ("--begun", str(checkpoint), "--learning-rate", "0", "--head-rate", "0")
    a, b = load_file(first / "best.safetensors"), load_file(train(prepared, "still", *still) / "best.safetensors")
    assert set(a) == set(b)
    assert all((b[name] == (a[name].half().float() if "lora_" in name else a[name])).all() for name in a)
    out = train(prepared, "moved", "--begun", str(checkpoint))
    moved = load_file(out / "best.safetensors")
    seen = {trace.text for trace in read_training(out / "trained_on.jsonl")[0]}
    assert seen == {trace.text for trace in read_training(checkpoint / "trained_on.jsonl")[0]}
    run("calibrate.py", "--run", out, "--out", root / "probe-moved", "--annotations", annotations)
    settings = json.loads((root / "probe-moved" / "history.json").read_text())["settings"]
    assert settings["begun"] == checkpoint.name and str(root) not in json.dumps(settings)
    assert any((moved[name] != b[name]).any() for name in b)
    # Of both runs, the mean of their weights, the adapter in half precision.
    run("calibrate.py", "--run", first, out, "--out", root / "probe-mean", "--annotations", annotations)
    mean = load_file(root / "probe-mean" / "heads.safetensors") | {
        f"body.{name}.default.weight": tensor.float()
        for name, tensor in load_file(root / "probe-mean" / "adapter.safetensors").items()
    }
    assert set(mean) == set(a)
    for name, tensor in mean.items():
        between = (a[name] + moved[name]) / 2
        assert torch.allclose(tensor, between.half().float() if "lora_" in name else between, atol=1e-7)
    assert [one["seed"] for one in json.loads((root / "probe-mean" / "history.json").read_text())["mean_of"]] == [0, 0]
    other = train(prepared, "other-rank", "--lora-rank", "2")
    refused = subprocess.run(script("calibrate.py", "--run", other, out, "--out", root / "no", "--annotations",
                                    annotations), env=ENV, cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert refused.returncode == 1 and "has other matrices than" in refused.stderr and not (root / "no").exists()
    # The course of both runs stands in the last one's history, in order.
    history = json.loads((root / "probe-moved" / "history.json").read_text())
    assert history["before"] == [{k: v for k, v in json.loads((checkpoint / "history.json").read_text()).items()
                                  if k != "before"}]  # fmt: skip
    seconds = sum(epoch["seconds"] for run in [*history["before"], history] for epoch in run["epochs"])
    assert training_minutes(root / "probe-moved") == pytest.approx(seconds / 60)


ROWS = st.integers(1, 30).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            "sentences": st.just([[k + 10] * (k % 4 + 1) for k in range(n)]),
            "context": st.just([7]),
            "labels": st.just([[k % 2, 0, 0, 0, 0] for k in range(n)]),
            "kinds": st.just([0 if k % 2 else -1 for k in range(n)]),
            "trace": st.sampled_from([[0] * 5, [1, 0, 0, 0, 0]]),
        }
    )
)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(0, 10**6))
def test_augmentation_keeps_labels_with_their_sentences(row: dict[str, list], seed: int) -> None:
    filler = {"sentences": [[1]] * 50, "labels": [[0] * 5] * 50, "kinds": [-1] * 50, "trace": [0] * 5, "context": []}
    how = Augmentation(drop_context=0.5, cut=0.4, dilute=0.6, mask=0.0, stretch=0)
    example = augmented(row, Fillers(real=[], written=[filler]), how, np.random.default_rng(seed), mask_id=0)
    assert len(example.sentences) == len(example.labels) == len(example.kinds)
    wanted = {tuple(ids): labels for ids, labels in zip(row["sentences"], row["labels"], strict=True)}
    for ids, labels in zip(example.sentences, example.labels, strict=True):
        assert labels == ([0] * 5 if ids == [1] else wanted[tuple(ids)])
    cut = len([ids for ids in example.sentences if ids != [1]]) < len(row["sentences"])
    assert not (cut and example.trace is not None and any(example.trace))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.lists(st.integers(0, 199), max_size=3), st.integers(1, 120), st.integers(0, 10**6))
def test_a_stretch_holds_every_labelled_sentence_and_what_the_trace_carries(
    count: int, marks: list[int], longest: int, seed: int
) -> None:
    labelled = sorted({mark for mark in marks if mark < count})
    row = {
        "sentences": [[k] for k in range(count)],
        "context": [],
        "labels": [[int(k in labelled), 0] for k in range(count)],
        "kinds": [-1] * count,
        "trace": [int(bool(labelled)), 0],
    }
    how = Augmentation(drop_context=0, cut=0, dilute=0, mask=0, stretch=longest)
    example = augmented(row, Fillers(real=[], written=[]), how, np.random.default_rng(seed), mask_id=-1)
    shown = [ids[0] for ids in example.sentences]
    assert shown == list(range(shown[0], shown[0] + len(shown))) and set(labelled) <= set(shown)
    assert example.labels == [row["labels"][k] for k in shown] and example.trace == row["trace"]
    span = labelled[-1] - labelled[0] + 1 if labelled else 0
    assert min(count, 15, longest) <= len(shown) <= max(longest, span)


def test_length_does_not_tell_labelled_rows_from_others() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3000):
        count, carries = int(rng.lognormal(3.3, 0.8)) + 1, number % 2
        marked = int(rng.integers(count))
        rows.append(
            {
                "sentences": [[5]] * count,
                "context": [],
                "labels": [[int(carries and k == marked)] for k in range(count)],
                "kinds": [-1] * count,
                "trace": [carries],
                "real": False,
            }
        )
    how, fillers = Augmentation(mask=0.0), Fillers.among(rows)
    shown = [augmented(row, fillers, how, rng, mask_id=0) for row in rows]
    known = [(example.trace[0], len(example.sentences)) for example in shown if example.trace is not None]
    assert roc_auc_score(*zip(*known, strict=True)) == pytest.approx(0.5, abs=0.03)


def test_no_augmentation_changes_nothing() -> None:
    row = {"sentences": [[1, 2]], "context": [3], "labels": [[0] * 5], "kinds": [-1], "trace": [0] * 5}
    none = Augmentation(drop_context=0, cut=0, dilute=0, mask=0)
    assert augmented(row, Fillers(real=[], written=[]), none, np.random.default_rng(0), mask_id=9) == plain(row)


def test_what_people_write_above_the_tables_of_a_card_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_results(tmp_path, "| old |\n", {})
    card = tmp_path / "README.md"
    card.write_text(card.read_text().replace("## Limits", "## Limits\n- Found out later."))
    write_results(tmp_path, "| new |\n", {"some": 1})
    told = card.read_text()
    assert "- Found out later.\n" in told and told.endswith("| new |\n") and "| old |" not in told
    assert told.count("\n# Figures\n") == 1 and json.loads((tmp_path / "metrics.json").read_text()) == {"some": 1}
    write_results(tmp_path, "| new |\n", {}, anew=True)
    assert "Found out later." not in card.read_text() and card.read_text().endswith("| new |\n")


def test_heads_are_compared_on_fixed_vectors_and_the_cache_changes_nothing(prepared: tuple[Path, Path, Path]) -> None:
    root, _, annotations = prepared
    out = train(prepared, "heads")
    arguments = ("--run", out, "--data", root / "data", "--annotations", annotations, "--seeds", "2")
    arguments += ("--only", "release,focal,half the readers' mean", "--cache", root / "vectors.pt")
    first, second = run("heads.py", *arguments), run("heads.py", *arguments)
    assert first == second
    rows = [line.split("|")[1].strip() for line in first.splitlines() if line.startswith("| ")]
    assert rows == ["heads", "release", "focal", "half the readers' mean"]


def test_losses_are_cross_entropy_where_nothing_is_turned_down() -> None:
    torch.manual_seed(0)
    logits, wanted = torch.randn(20, 3) * 3, (torch.rand(20, 3) > 0.7).float()
    ones = torch.ones(3)
    right = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    torch.testing.assert_close(focal_loss(logits, wanted, ones, gamma=0.0), right)
    torch.testing.assert_close(asymmetric_loss(logits, wanted, ones, gamma=0.0, shift=0.0), right)
    easy = (torch.sigmoid(logits) < 0.05) & (wanted == 0)
    assert easy.any() and (asymmetric_loss(logits, wanted, ones)[easy] == 0).all()
