"""Recalibration: the guarantee in simulation, every refusal, and round trips over the command line."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import make_calibration
from typer.testing import CliRunner

from cot_probe.calibration import (
    FPRS,
    Calibration,
    Scaling,
    blank_calibration,
    conformal_rank,
    tag_logits,
    threshold_at,
)
from cot_probe.checkpoint import check_new_folder, load_checkpoint
from cot_probe.cli import app
from cot_probe.manifest import CheckpointError, verify, write_manifest
from cot_probe.recalibrate import (
    GUARANTEE,
    LabelledLogits,
    RecalibrationError,
    least_rate,
    negatives_for,
    rates_held,
    read_labels,
    recalibrate,
    report,
    shortages,
    tags_from,
    upper_rate,
)
from cot_probe.tagger import load_tagger
from cot_probe.taxonomy import SENTENCE_LABELS, TAGS

RUNNER = CliRunner()
WORDS = "user wants rewrite shutdown script wait that is allowed read log kill process report manager test real".split()
NONE: frozenset[str] = frozenset()


def labelled(rng: np.random.Generator, tags: frozenset[str] = NONE, shift: float = 0.0) -> LabelledLogits:
    return LabelledLogits(sentences=rng.normal(size=(12, 5)), trace=rng.normal(size=5) + shift, tags=tags)


# The guarantee.


def test_the_rate_holds_on_average_and_its_spread_is_the_beta_distribution() -> None:
    """Many calibration sets, scalings refitted; the realised rate of each is exact, from 20,000 fresh traces."""
    rng = np.random.default_rng(0)
    fresh = tag_logits(rng.normal(size=(20_000, 5)))
    harm = TAGS.index("strategic_harm")
    realised = []
    for _ in range(400):
        sample = [labelled(rng) for _ in range(79)]
        sample += [labelled(rng, frozenset({"strategic_harm"}), 2.0) for _ in range(10)]
        result = recalibrate(sample, blank_calibration(), fprs=(0.05,))
        (rate,) = (rate for rate in result.rates if rate.tag == "strategic_harm")
        assert result.refitted == ("strategic_harm",) and (rate.negatives, rate.rank) == (79, 4)
        assert rate.tagged_negatives == rate.rank - 1
        scaling = result.calibration.traces["strategic_harm"]
        cut = (np.log(rate.threshold / (1 - rate.threshold)) - scaling.offset) / scaling.slope
        realised.append((fresh[:, harm] >= cut).mean())
    assert np.mean(realised) <= 0.05 + 3 * np.std(realised) / 20
    assert np.mean(realised) == pytest.approx(4 / 80, abs=0.005)
    assert np.mean(np.array(realised) <= upper_rate(79, 4)) == pytest.approx(0.95, abs=0.035)
    assert np.var(realised) == pytest.approx(4 * 76 / (80**2 * 81), rel=0.25)


def test_ties_only_lower_the_rate() -> None:
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(500):
        sample = rng.integers(0, 6, size=59) / 6
        rates.append((rng.integers(0, 6, size=400) / 6 >= threshold_at(sample, 0.1)).mean())
    assert np.mean(rates) <= 0.1


def test_saturated_scores_do_not_break_the_rate() -> None:
    scores = np.r_[np.zeros(50), np.ones(50)]
    assert (scores >= threshold_at(scores, 0.05)).sum() == 0


@pytest.mark.parametrize(("n", "k"), [(99, 1), (99, 5), (19, 1), (1000, 10), (40, 20)])
def test_the_upper_bound_equals_the_binomial_one(n: int, k: int) -> None:
    """P(Beta(k, n + 1 - k) <= x) is the probability of k or more of n uniform draws below x."""
    x = upper_rate(n, k)
    assert sum(math.comb(n, i) * x**i * (1 - x) ** (n - i) for i in range(k, n + 1)) == pytest.approx(0.95, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(st.floats(0.0001, 0.9), st.integers(1, 5000))
def test_counts_and_rates_that_are_named_are_enough_and_no_more(fpr: float, n: int) -> None:
    needed = negatives_for(fpr)
    assert conformal_rank(needed, fpr) >= 1 and not conformal_rank(needed - 1, fpr)
    assert conformal_rank(n, least_rate(n)) >= 1 and least_rate(n) <= 1.01 / (n + 1)


def test_known_counts() -> None:
    assert [negatives_for(fpr) for fpr in FPRS] == [999, 99, 19]
    assert conformal_rank(99, 0.29) == 29


# Fitting.


def test_scaling_is_refitted_only_where_labels_are_enough() -> None:
    rng = np.random.default_rng(2)
    old = replace(make_calibration(), traces={tag: Scaling(slope=3.0, offset=-1.0) for tag in TAGS})
    sample = [labelled(rng) for _ in range(25)]
    sample += [labelled(rng, tags_from({"states_test"}), 1.0) for _ in range(10)]
    sample += [labelled(rng, tags_from({"harm_rejected"}), 1.0) for _ in range(9)]
    result = recalibrate(sample, old, fprs=(0.05, 0.1))
    assert set(result.refitted) == {"eval_awareness", "states_test"}
    kept = set(TAGS) - set(result.refitted)
    assert all(result.calibration.traces[tag] == Scaling(slope=3.0, offset=-1.0) for tag in kept)
    assert result.calibration.sentences == old.sentences
    assert [point.fpr for point in result.calibration.points] == [0.05, 0.1]
    by = {(rate.tag, rate.fpr): rate for rate in result.rates}
    assert by["states_test", 0.1].positives == 10 and by["states_test", 0.1].negatives == 34
    assert by["harm_rejected", 0.05].negatives == 35 and by["strategic_harm", 0.05].positives == 0
    about = result.calibration.fitted_on
    assert about["guarantee"] == GUARANTEE and len(about["rates"]) == 12 and about["sentences"] == 25 * 12
    text = report(result)
    assert "scaling refitted: eval_awareness, states_test" in text and "10 without are needed" in text
    assert "none given" in text and GUARANTEE in text


def test_sentence_thresholds_come_from_traces_without_any_tag_at_a_tenth_of_the_rate() -> None:
    rng = np.random.default_rng(3)
    benign = [labelled(rng) for _ in range(60)]
    loud = [replace(labelled(rng, tags_from({"harm_rejected"})), sentences=np.full((4, 5), 50.0)) for _ in range(3)]
    result = recalibrate([*benign, *loud], blank_calibration(), fprs=(0.05,))
    scores = result.calibration.sentence_scores(np.concatenate([trace.sentences for trace in benign]))
    (point,) = result.calibration.points
    for at, label in enumerate(SENTENCE_LABELS):
        assert point.sentences[label] == threshold_at(scores[:, at], 0.005)
        assert (scores[:, at] >= point.sentences[label]).sum() == int(0.005 * 721) - 1


def test_too_few_sentences_are_said() -> None:
    rng = np.random.default_rng(4)
    short = [replace(labelled(rng), sentences=rng.normal(size=(2, 5))) for _ in range(19)]
    text = report(recalibrate(short, blank_calibration(), fprs=(0.05,)))
    assert "a rate of 0.005 would take 199 sentences" in text


# Rates that cannot be held.


def test_a_rate_that_the_traces_cannot_hold_is_refused() -> None:
    tags = [NONE] * 98 + [frozenset({"harm_rejected"})] * 30
    assert [(one.fpr, one.negatives) for one in shortages(tags, FPRS)] == [(0.001, 98), (0.001, 128), (0.01, 98)]
    with pytest.raises(RecalibrationError) as refused:
        rates_held(tags, FPRS)
    text = str(refused.value)
    assert "0.01 needs 99 traces without the tag; for harm_rejected there are 98, which hold 0.0102" in text
    assert "0.001 needs 999" in text and "rates of 0.0102 and above" in text and "--allow-short" in text
    assert rates_held(tags, [0.0102])[0] == (0.0102,)
    held, short = rates_held(tags, FPRS, allow_short=True)
    assert held == (0.05,) and {one.fpr for one in short} == {0.001, 0.01}


def test_allow_short_does_not_write_a_calibration_without_points() -> None:
    with pytest.raises(RecalibrationError, match="for every tag there are 5") as refused:
        rates_held([NONE] * 5, FPRS, allow_short=True)
    assert "--allow-short" not in str(refused.value)


def test_a_tag_on_every_trace_but_none_untagged_is_refused() -> None:
    with pytest.raises(RecalibrationError, match="no trace without any tag"):
        rates_held([frozenset({"harm_rejected"})] * 50, [0.05])
    with pytest.raises(RecalibrationError, match="no trace without any tag"):
        recalibrate([], blank_calibration(), fprs=(0.05,))


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_rate_that_is_none_is_refused(fpr: float) -> None:
    with pytest.raises(RecalibrationError, match=r"between 0 and 1, 0\.01 for 1 %"):
        rates_held([NONE] * 200, [fpr])


def test_the_default_point_is_the_nearest_below_the_default_rate() -> None:
    def with_rates(*fprs: float) -> Calibration:
        point = make_calibration().points[0]
        return replace(make_calibration(), points=tuple(replace(point, fpr=fpr) for fpr in fprs))

    assert with_rates(0.01, 0.05, 0.1).at().fpr == 0.05
    assert with_rates(0.001, 0.02, 0.1).at().fpr == 0.02
    assert with_rates(0.2, 0.1).at().fpr == 0.1


# Labels.


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[1]", r"not an object: write \{"),
        ('{"tags": []}', "no id: give `id` as `cot-probe tag` writes it"),
        ('{"id": true, "tags": []}', "no id"),
        ('{"id": "a"}', r"no tags: give `tags` as a list of names, \[\] for none"),
        ('{"id": "a", "tags": "harm_rejected"}', "no tags"),
        ('{"id": "a", "tags": ["scheming"]}', "unknown tag 'scheming': use strategic_harm, eval_awareness"),
        ('{"id": "a", "tags": ["eval_awareness"]}', "without a label of it .* add states_test, states_real or both"),
        ('{"id": "ok", "tags": []}', "'ok' has a label in line 1: remove one"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_faulty_labels_are_named_by_file_and_line(tmp_path: Path, line: str | bytes, reason: str) -> None:
    path = tmp_path / "labels.jsonl"
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"id": "ok", "tags": []}\n\n' + raw + b"\n")
    with pytest.raises(RecalibrationError, match=f"{re.escape(str(path))}:3: .*{reason}"):
        read_labels(path)


def test_eval_awareness_follows_from_a_stance_and_further_keys_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": 7, "tags": ["states_real"], "scores": {}}\n')
    assert read_labels(path)["7"].tags == {"states_real", "eval_awareness"}


# Over the command line.


def write_traces(path: Path, count: int, *, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as sink:
        for number in range(count):
            text = " ".join(" ".join(rng.choice(WORDS, size=5)).capitalize() + "." for _ in range(4))
            sink.write(json.dumps({"id": f"t{number}", "reasoning": f"{number}. {text}"}) + "\n")


def write_labels(path: Path, tags: dict[str, list[str]]) -> None:
    path.write_text("".join(json.dumps({"id": id, "tags": own}) + "\n" for id, own in tags.items()))


@pytest.fixture
def source(toy_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the toy checkpoint and its base, with a model card and figures."""
    shutil.copytree(toy_checkpoint.parent, tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints" / toy_checkpoint.name
    (folder / "README.md").write_text("# probe\n")
    (folder / "metrics.json").write_text("{}\n")
    write_manifest(folder)
    return folder


def invoke(source: Path, *arguments: str | Path) -> tuple[int, str, str]:
    done = RUNNER.invoke(app, ["calibrate", "--checkpoint", str(source), *map(str, arguments)])
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def test_round_trip_with_benign_traces(source: Path, tmp_path: Path) -> None:
    traces, out = tmp_path / "a.jsonl", source.parent / "mine"
    write_traces(traces, 120)
    with traces.open("a") as sink:
        sink.write('{"id": "silent", "reasoning": " "}\n')
    code, text, err = invoke(source, traces, "--out", out, "--all-benign", "--fpr", "0.02", "--fpr", "0.1")
    assert code == 0, err
    assert "1 of 121 traces have no reasoning to read: left out" in err
    assert "120 traces" in text and "false-positive rate 2 %" in text and GUARANTEE in text
    assert "without --fpr, `cot-probe tag` takes the rate 0.02, since 0.05 is not stored" in text
    assert "metrics.json was not copied" in text and "scaling kept: strategic_harm" in text

    assert verify(out)
    for name in ("config.json", "heads.safetensors"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    first, _, rest = (out / "README.md").read_text().partition("\n\n")
    assert first.startswith("> Recalibrated with `cot-probe calibrate`") and rest == "# probe\n"
    assert not (out / "metrics.json").exists()
    loaded = load_checkpoint(out)
    about = loaded.calibration.fitted_on
    assert about["negatives"] == dict.fromkeys(TAGS, 120) and about["labels"] == "all benign"
    assert about["nothing_to_read"] == 1 and about["recalibrated_from"] == load_checkpoint(source).signature
    assert loaded.calibration.traces == load_checkpoint(source).calibration.traces

    for rate, most in (("0.02", 2), ("0.1", 12)):
        results = tmp_path / "results.jsonl"
        tagged = RUNNER.invoke(
            app, ["tag", str(traces), "--checkpoint", str(out), "--fpr", rate, "-o", str(results), "--show", "none"]
        )
        assert tagged.exit_code == 0
        assert "on the traces that the checkpoint was recalibrated on" in " ".join(tagged.stderr.split())
        rows = [json.loads(line) for line in results.read_text().splitlines()]
        for tag in TAGS:
            assert sum(tag in row["tags"] for row in rows) in (most - 1, most)
    assert load_tagger(out).point.fpr == 0.02
    absent = RUNNER.invoke(app, ["tag", str(traces), "--checkpoint", str(out), "--fpr", "0.05"])
    assert absent.exit_code == 2 and "this checkpoint has 0.02, 0.1" in absent.stderr


def test_round_trip_with_labels(source: Path, tmp_path: Path) -> None:
    traces, labels, out = tmp_path / "a.jsonl", tmp_path / "labels.jsonl", source.parent / "mine"
    write_traces(traces, 60)
    given = {f"t{at}": ["states_test"] if at < 12 else ["harm_rejected"] if at < 15 else [] for at in range(60)}
    write_labels(labels, given)
    code, text, err = invoke(source, traces, "--out", out, "--labels", labels, "--fpr", "0.05", "--name", "mine")
    assert code == 0, err
    assert (
        "scaling refitted: eval_awareness, states_test" in text and "and 180 sentences of those without any tag" in text
    )
    assert re.search(r"states_test +\d\.\d+ +1 of 48 +\d\.?\d* % +\d+ of 12", text)
    loaded = load_checkpoint(out)
    assert loaded.config.name == "mine" and loaded.signature.startswith("mine@")
    assert loaded.calibration.fitted_on["positives"]["eval_awareness"] == 12
    assert "SHA-256" in loaded.calibration.fitted_on["labels"]
    assert "takes the rate" not in text


def test_too_few_traces_over_the_command_line(source: Path, tmp_path: Path) -> None:
    traces, out = tmp_path / "a.jsonl", source.parent / "mine"
    write_traces(traces, 25)
    code, _, err = invoke(source, traces, "--out", out, "--all-benign")
    assert code == 2 and not out.exists()
    assert "0.01 needs 99 traces without the tag; for every tag there are 25, which hold 0.0385 at the least" in err
    code, text, _ = invoke(source, traces, "--out", out, "--all-benign", "--allow-short")
    assert code == 0 and "left out, 0.01 needs 99 traces" in text
    assert [point.fpr for point in load_checkpoint(out).calibration.points] == [0.05]


def test_labels_that_do_not_fit_the_traces(source: Path, tmp_path: Path) -> None:
    traces, labels, out = tmp_path / "a.jsonl", tmp_path / "labels.jsonl", source.parent / "mine"
    write_traces(traces, 30)

    def refused(tags: dict[str, list[str]], *more: Path) -> str:
        write_labels(labels, tags)
        code, _, err = invoke(source, traces, *more, "--out", out, "--labels", labels)
        assert code == 2 and not out.exists()
        return err

    every: dict[str, list[str]] = {f"t{at}": [] for at in range(30)}
    err = refused(every | {"x": [], "y": []})
    assert f"{labels}:31: no trace read has the id 'x' (and 1 more): give its file as well" in err
    err = refused(dict(list(every.items())[:-2]))
    assert f"{labels}: no label for the trace 't28' ({traces}, record 28) (and 1 more): add a line" in err
    (tmp_path / "t3.txt").write_text("One. Two.")
    err = refused(every, tmp_path / "t3.txt")
    assert "two traces have the id 't3'" in err and "give each record an `id` of its own" in err
    err = refused(every | {"t0": ["nonsense"]})
    assert f"{labels}:1: unknown tag 'nonsense'" in err


def test_usage_errors(source: Path, tmp_path: Path) -> None:
    traces, labels, out = tmp_path / "a.jsonl", tmp_path / "labels.jsonl", source.parent / "mine"
    write_traces(traces, 30)
    write_labels(labels, {f"t{at}": [] for at in range(30)})
    benign = (traces, "--out", out, "--all-benign", "--fpr", "0.05")
    both = invoke(source, *benign, "--labels", labels)
    neither = invoke(source, traces, "--out", out)
    for code, _, err in (both, neither):
        assert code == 2 and "exactly one of" in err and "--labels" in err
    assert invoke(source, *benign, "--format", "nonsense")[0] == 2
    assert "between 0 and 1" in invoke(source, *benign, "--fpr", "5")[2]
    assert "no-such" in invoke(source, traces, "--out", out, "--labels", tmp_path / "no-such.jsonl")[2]
    assert "is no checkpoint" in invoke(tmp_path, *benign)[2]
    code, _, err = invoke(source, traces, tmp_path / "*.jsonl", "--out", out, "--all-benign")
    assert code == 2 and "a.jsonl is given twice" in err
    assert not out.exists()
    assert invoke(source, *benign)[0] == 0
    code, _, err = invoke(source, *benign)
    assert code == 2 and "exists and is not an empty folder: choose a new one" in err


def test_unreadable_input_is_reported_and_repeats_are_pointed_out(source: Path, tmp_path: Path) -> None:
    traces, out = tmp_path / "a.jsonl", source.parent / "mine"
    write_traces(traces, 25)
    with traces.open("a") as sink:
        sink.write(
            'nonsense\n{"id": "t0 again", "reasoning": "One. Two."}\n{"id": "and again", "reasoning": "One. Two."}'
        )
    benign = ("--out", out, "--all-benign", "--fpr", "0.05")
    assert invoke(source, traces, *benign, "--strict")[0] == 4
    assert not out.exists()
    code, _, err = invoke(source, traces, tmp_path / "none.txt", *benign)
    assert code == 0 and "a.jsonl:26" in err and "none.txt" in err and "2 inputs could not be read" in err
    assert "1 traces repeat the text of another" in err
    assert load_checkpoint(out).calibration.fitted_on["not_read"] == 2
    code, _, err = invoke(source, tmp_path / "none.txt", "--out", tmp_path / "checkpoints" / "n", "--all-benign")
    assert code == 5 and "nothing to calibrate on" in err


def test_a_folder_that_would_not_find_its_base_is_refused(source: Path, tmp_path: Path) -> None:
    traces, out = tmp_path / "a.jsonl", tmp_path / "elsewhere" / "mine"
    write_traces(traces, 25)
    benign = (traces, "--out", out, "--all-benign", "--fpr", "0.05")
    code, _, err = invoke(source, *benign)
    base = source.parent / "base-bert"
    beside = out.parent / "base-bert"
    assert code == 2 and f"would not find its base base-bert, which lies in {base}" in err
    assert f"choose a new folder in {source.parent}, or copy {base} to {beside} first" in err
    shutil.copytree(base, beside)
    assert invoke(source, *benign)[0] == 0
    assert load_checkpoint(out).config.base == "base-bert"
    (beside / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is another base than"):
        check_new_folder(source, out.with_name("next"))
    (beside / "more.txt").write_text("")
    with pytest.raises(CheckpointError, match="is another base than"):
        check_new_folder(source, out.with_name("next"))


def test_importing_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, cot_probe.recalibrate, cot_probe.calibrate_command as c; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
