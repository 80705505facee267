"""The first stage: what passes, what is read, and that neither is ever in doubt."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from toy import CORPUS, make_checkpoint
from typer.testing import CliRunner

from cot_probe.annotations import load_split
from cot_probe.checkpoint import check_new_folder, save_recalibrated
from cot_probe.cli import app
from cot_probe.first_stage import (
    ABOUT_FILE,
    LONGEST,
    WEIGHTS_FILE,
    FirstStage,
    FirstStageError,
    Missed,
    reading_of,
    runs,
    save_first_stage,
)
from cot_probe.journal import Tally
from cot_probe.manifest import CheckpointError, write_manifest
from cot_probe.results import read_results, write_parquet
from cot_probe.tagger import CASCADE, TaggedTrace, Tagger, load_tagger, sentences_of
from cot_probe.taxonomy import TAXONOMY
from cot_probe.transcripts.trace import Trace, trace_of
from cot_probe.windows import Span, Window

sys.path.insert(0, str(ROOT / "training"))
from first_stage import missed, outcome, scores_of
from margins import read, trace_margins

BUCKETS = 64
MISSED = Missed(name="no traces", windows=10, passed=5, found=8, lost=1, gained=0)
CONTEXT = "Report to the manager. Never kill the process."


def stage_of(threshold: float, *, seed: int = 0) -> FirstStage:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (2, BUCKETS)).astype(np.int8)
    labels = len(TAXONOMY.labels)
    return FirstStage(
        sentence_weights=weights[0],
        window_weights=weights[1],
        sentence_scale=0.02,
        window_scale=0.01,
        bias=-0.5,
        threshold=threshold,
        empty_sentence=np.full(labels, -5, np.float32),
        empty_kinds=np.zeros(len(TAXONOMY.kinds), np.float32),
        empty_trace=np.full(labels, -6, np.float32),
        missed=(MISSED,),
    )


def texts(count: int) -> list[Trace]:
    """Traces of one to many windows, one with a sentence that is longer than a window, some with nothing to read."""
    rng = np.random.default_rng(count)
    words = " ".join(CORPUS).split()
    made = []
    for number in range(count):
        some = " ".join(rng.choice(words, int(rng.integers(2, 120))))
        made.append(trace_of(some, id=str(number), context=CONTEXT if number % 2 else ""))
    long = "script log process manager " * 40
    ends = [
        trace_of(text, id=name)
        for name, text in [("long", f"Read it. {long}. Report."), ("blank", " "), ("bare", "\u200b")]
    ]
    return made + ends


def with_stage(checkpoint: Path, to: Path, stage: FirstStage) -> Path:
    """A copy of the checkpoint, its base beside it, with a first stage."""
    shutil.copytree(checkpoint.parent, to)
    folder = to / checkpoint.name
    save_first_stage(folder, stage, hashes=json.loads((folder / "MANIFEST.json").read_text()))
    write_manifest(folder)
    return folder


@contextmanager
def counted(tagger: Tagger) -> Iterator[list[int]]:
    """The windows of each pass of the body."""
    passes: list[int] = []
    body = tagger.checkpoint.encoder.body
    hook = body.register_forward_pre_hook(
        lambda _, __, inputs: passes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    try:
        yield passes
    finally:
        hook.remove()


def cascaded(tagger: Tagger, threshold: float, *, seed: int = 0) -> Tagger:
    return Tagger(tagger.checkpoint, point=tagger.point, first_stage=stage_of(threshold, seed=seed))


def middle(tagger: Tagger, traces: Sequence[Trace]) -> float:
    """A threshold that about half of the windows pass."""
    windows = [window for some in tagger.windows(traces, list(map(sentences_of, traces))) for window in some]
    return float(np.median([stage_of(0).score(window) for window in windows]))


# Scores.


def slow_score(stage: FirstStage, window: Window) -> float:
    """The definition, run by run in Python's own numbers."""
    spans = []
    for span in window.spans:
        ids = window.ids[span.first : span.last]
        spans.append({slow_bucket(ids[at : at + n]) for n in range(1, LONGEST + 1) for at in range(len(ids) - n + 1)})
    strongest = max(sum(int(stage.sentence_weights[b]) for b in some) / math.sqrt(len(some)) for some in spans)
    every = set().union(*spans)
    whole = sum(int(stage.window_weights[b]) for b in every) / math.sqrt(len(every))
    return stage.sentence_scale * strongest + stage.window_scale * whole + stage.bias


def slow_bucket(ids: Sequence[int]) -> int:
    hashed = len(ids)
    for token in ids:
        hashed = (hashed ^ token) * 0x100000001B3 % 2**64
    return (hashed * 0x9E3779B97F4A7C15 % 2**64) >> (64 - int(math.log2(BUCKETS)))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    before, after = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    count = before + sum(lengths) + after
    ids = draw(st.lists(st.integers(0, 50_000), min_size=count, max_size=count))
    firsts = np.concatenate([[before], before + np.cumsum(lengths)]).tolist()
    spans = tuple(
        Span(sentence=n, first=a, last=a + length) for n, (a, length) in enumerate(zip(firsts, lengths, strict=False))
    )
    return Window(ids=tuple(ids), types=(1,) * count, spans=spans)


@settings(max_examples=150, deadline=None)
@given(windows(), st.integers(0, 5))
def test_the_score_is_that_of_the_slow_obvious_version(window: Window, seed: int) -> None:
    stage = stage_of(0.0, seed=seed)
    assert stage.score(window) == pytest.approx(slow_score(stage, window), abs=1e-9)
    assert stage.passes(window) == (stage.score(window) < 0)
    owners, buckets = runs(window, BUCKETS)
    assert set(owners.tolist()) == set(range(len(window.spans))) and buckets.min() >= 0 and buckets.max() < BUCKETS


@settings(max_examples=50, deadline=None)
@given(windows(), st.integers(0, 50_000))
def test_neighbours_and_instructions_do_not_count(window: Window, token: int) -> None:
    ids = list(window.ids)
    ids[0] = ids[-1] = token
    stage = stage_of(0.0)
    assert stage.score(dataclasses.replace(window, ids=tuple(ids))) == stage.score(window)


# What is read.


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_sentence_passes_only_with_all_its_pieces(data: st.DataObject) -> None:
    """Windows of one to three units, of which some are pieces of one sentence; against the slow closure."""
    owners = np.cumsum(data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=1, max_size=15))).tolist()
    cuts = data.draw(st.lists(st.integers(1, 3), min_size=len(owners), max_size=len(owners)))
    laid, at = [], 0
    for size in cuts:
        if some := owners[at : at + size]:
            spans = tuple(Span(sentence=s, first=k, last=k + 1) for k, s in enumerate(some))
            laid.append(Window(ids=(7,) * len(some), types=(1,) * len(some), spans=spans))
        at += size
    kept = data.draw(st.lists(st.booleans(), min_size=len(laid), max_size=len(laid)))
    n_sentences = owners[-1] + 2
    reading = reading_of(laid, kept, n_sentences)
    wanted = list(kept)
    for _ in laid:
        read = {span.sentence for window, keep in zip(laid, wanted, strict=True) if keep for span in window.spans}
        wanted = [any(span.sentence in read for span in window.spans) for window in laid]
    passed = set(owners) - {span.sentence for w, keep in zip(laid, wanted, strict=True) if keep for span in w.spans}
    assert len(reading.windows) == sum(wanted) and reading.passed == len(passed)
    if any(wanted):
        assert reading.read.tolist() == [n for n in range(n_sentences) if n not in passed]
        named = [int(reading.read[span.sentence]) for window in reading.windows for span in window.spans]
        assert named == [span.sentence for w, keep in zip(laid, wanted, strict=True) if keep for span in w.spans]
    else:
        assert reading.read.size == 0


def test_passing_nothing_is_no_cascade(toy_tagger: Tagger) -> None:
    plain = list(toy_tagger.tag_many(texts(12)))
    found = list(cascaded(toy_tagger, -math.inf).tag_many(texts(12)))
    assert [dataclasses.replace(trace, checkpoint=toy_tagger.signature) for trace in found] == plain
    assert {trace.checkpoint for trace in found} == {toy_tagger.signature + CASCADE}
    assert all("passed" not in trace.as_dict() for trace in (*plain, *found))


def test_passing_all_takes_no_pass_of_the_encoder_and_says_so(toy_tagger: Tagger) -> None:
    tagger = cascaded(toy_tagger, math.inf)
    traces = texts(12)
    with counted(tagger) as passes:
        found = list(tagger.tag_many(traces))
    assert passes == []
    calibration, stage = tagger.checkpoint.calibration, stage_of(math.inf)
    scores = calibration.trace_scores(stage.empty_trace)
    for trace in found:
        with_tokens = [some for some in trace.sentences if tagger.token_ids([some.text])[0]]
        assert trace.passed == len(with_tokens) and not trace.tags and trace.id in {t.id for t in traces}
        assert trace.as_dict().get("passed", 0) == trace.passed
        if trace.passed:
            assert trace.scores == scores and len({tuple(some.scores.values()) for some in trace.sentences}) == 1
    assert sum(trace.passed for trace in found) > 50


def test_only_windows_that_do_not_pass_are_encoded(toy_tagger: Tagger) -> None:
    traces = texts(20)
    tagger = cascaded(toy_tagger, middle(toy_tagger, traces))
    assert tagger.first_stage is not None
    laid = tagger.windows(traces, list(map(sentences_of, traces)))
    kept = sum(
        len(reading_of(some, [not tagger.first_stage.passes(window) for window in some], 999).windows) for some in laid
    )
    with counted(tagger) as passes:
        found = list(tagger.tag_many(traces))
    assert sum(passes) == kept and 0 < kept < sum(map(len, laid))
    whole = {trace.id: trace for trace in toy_tagger.tag_many(traces)}
    mixed = 0
    for trace in found:
        same = [close(a.scores, b.scores) for a, b in zip(trace.sentences, whole[trace.id].sentences, strict=True)]
        assert same.count(False) <= trace.passed  # a sentence that is read has the scores of the whole reading
        assert trace.passed or close(trace.scores, whole[trace.id].scores)
        mixed += 0 < trace.passed < len(trace.sentences)
    assert mixed


def close(one: dict[str, float], other: dict[str, float]) -> bool:
    return list(one.values()) == pytest.approx(list(other.values()), abs=1e-5)


def test_the_trace_head_reads_what_was_read(toy_tagger: Tagger) -> None:
    """A trace of which one window passed has the trace scores of its other sentences' vectors alone."""
    import torch

    from cot_probe.encoder import sentence_vectors

    traces = texts(20)
    tagger = cascaded(toy_tagger, middle(toy_tagger, traces))
    assert tagger.first_stage is not None
    encoder = tagger.checkpoint.encoder
    trace = next(trace for trace in traces if 0 < tagger.tag(trace).passed < len(sentences_of(trace)))
    sentences = sentences_of(trace)
    (laid,) = tagger.windows([trace], [sentences])
    reading = reading_of(laid, [not tagger.first_stage.passes(window) for window in laid], len(sentences))
    vectors, counts = sentence_vectors(encoder, [laid], [len(sentences)], padding=tagger.special.padding)
    with torch.inference_mode():
        logits = encoder.read(vectors[reading.read], counts[reading.read], [len(reading.read)])[2][0].numpy()
    length = tagger.checkpoint.config.length
    assert length is not None
    logits = logits + length.shift(len(reading.read)) - length.shift(len(sentences))
    assert close(tagger.tag(trace).scores, tagger.checkpoint.calibration.trace_scores(logits))


def test_neither_order_nor_company_changes_what_passes(toy_tagger: Tagger) -> None:
    traces = texts(20)
    tagger = cascaded(toy_tagger, middle(toy_tagger, traces))
    together = {trace.id: trace for trace in tagger.tag_many(traces)}
    backwards = {trace.id: trace for trace in tagger.tag_many(traces[::-1])}
    alone = {trace.id: tagger.tag(trace) for trace in traces}
    for name, trace in together.items():
        for other in (backwards[name], alone[name]):
            assert other.passed == trace.passed and close(other.scores, trace.scores)
            assert all(close(a.scores, b.scores) for a, b in zip(trace.sentences, other.sentences, strict=True))


def test_calibration_counts_what_the_cascade_does(toy_tagger: Tagger) -> None:
    """What training/first_stage.py computes from one reading of everything is what tagging gives."""
    records = load_split(ROOT / "annotations", "dev")[:24]
    some = read(toy_tagger, "dev", records, None, "")
    stage = stage_of(0.0)
    scores = scores_of(stage, some)
    limit = float(np.median(scores))
    found = outcome(toy_tagger, some, scores, limit, stage.empty_trace)
    tagger = cascaded(toy_tagger, limit)
    _, logits = tagger.logits([record.as_trace() for record in records])
    assert found.traces == pytest.approx(trace_margins(tagger, np.stack([one.trace for one in logits])), abs=1e-2)
    assert 0 < found.passed < found.windows == len(scores) and found.empty_passed <= found.passed
    tagged = list(tagger.tag_many([record.as_trace() for record in records]))
    tags = tagger.checkpoint.taxonomy.tags
    assert [[tag in trace.tags for tag in tags] for trace in tagged] == (found.traces >= 0).tolist()
    counts = missed("dev", some, found)
    assert counts.found == int(((some.traces >= 0) & some.right).sum())
    assert counts.found - counts.lost + counts.gained == int(((found.traces >= 0) & some.right).sum())


# The file.


@pytest.fixture(scope="module")
def staged(toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy checkpoint with a first stage of which about half of the windows pass."""
    threshold = middle(load_tagger(toy_checkpoint), texts(20))
    return with_stage(toy_checkpoint, tmp_path_factory.mktemp("staged") / "here", stage_of(threshold))


def test_a_saved_stage_loads_as_it_was(staged: Path) -> None:
    tagger = load_tagger(staged, cascade=True)
    assert tagger.first_stage is not None
    wanted = stage_of(tagger.first_stage.threshold)
    for name in FirstStage.__dataclass_fields__:
        assert np.array_equal(getattr(tagger.first_stage, name), getattr(wanted, name)), name
    assert load_tagger(staged).first_stage is None


def test_without_a_stage_the_cascade_says_so(toy_checkpoint: Path) -> None:
    assert load_tagger(toy_checkpoint).first_stage is None
    with pytest.raises(FirstStageError, match=r"has no first stage .*without the cascade.*training/first_stage\.py"):
        load_tagger(toy_checkpoint, cascade=True)


def broken(staged: Path, to: Path, *, about: dict[str, object] | None = None, **tensors: np.ndarray) -> Path:
    """A copy with another description or other tensors, its manifest written again."""
    shutil.copytree(staged.parent, to)
    folder = to / staged.name
    save_file(load_file(folder / WEIGHTS_FILE) | tensors, folder / WEIGHTS_FILE)
    raw = json.loads((folder / ABOUT_FILE).read_text())
    (folder / ABOUT_FILE).write_text(json.dumps(raw | (about or {})))
    write_manifest(folder)
    return folder


FAULTS = [
    ({"window_weights": np.zeros(32, np.int8)}, "window_weights has 32 buckets, expected 64"),
    ({"sentence_weights": np.zeros(48, np.int8), "window_weights": np.zeros(48, np.int8)}, "power of two"),
    ({"sentence_weights": np.zeros(BUCKETS, np.float32)}, "sentence_weights is float32"),
    ({"empty_trace": np.zeros(2, np.float32)}, "empty_trace has 2 labels, expected 5"),
    ({"empty_trace": np.array([0, 0, np.nan, 0, 0], np.float32)}, "empty_trace holds values that are no finite"),
    ({"empty_trace": np.full(5, 9, np.float32)}, "would give what it passes the tag"),
    ({"more": np.zeros(2, np.float32)}, "found tensors .*more"),
]


@pytest.mark.parametrize(("tensors", "said"), FAULTS)
def test_a_damaged_stage_is_refused(staged: Path, tmp_path: Path, tensors: dict[str, np.ndarray], said: str) -> None:
    folder = broken(staged, tmp_path / "c", **tensors)
    with pytest.raises(FirstStageError, match=said):
        load_tagger(folder, cascade=True)
    assert load_tagger(folder).first_stage is None


ABOUTS = [
    ({"format": "pickle"}, "format is 'pickle'"),
    ({"threshold": "NaN"}, "threshold is nan"),
    ({"bias": None}, "no description of a first stage"),
    ({"missed": [{"name": "x"}]}, "no description of a first stage"),
    ({"made_for": {}}, "made for another calibration.json, config.json, heads.safetensors"),
]


@pytest.mark.parametrize(("about", "said"), ABOUTS)
def test_a_stage_with_a_wrong_description_is_refused(
    staged: Path, tmp_path: Path, about: dict[str, object], said: str
) -> None:
    with pytest.raises(FirstStageError, match=said):
        load_tagger(broken(staged, tmp_path / "c", about=about), cascade=True)


def test_bytes_that_are_no_safetensors_or_not_in_the_manifest(staged: Path, tmp_path: Path) -> None:
    folder = broken(staged, tmp_path / "c")
    (folder / WEIGHTS_FILE).write_bytes(b"\x80\x04." * 20)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_tagger(folder, cascade=True)
    write_manifest(folder)
    with pytest.raises(FirstStageError, match="not readable as safetensors"):
        load_tagger(folder, cascade=True)
    (folder / WEIGHTS_FILE).write_bytes(bytes(2_000_000))
    write_manifest(folder)
    with pytest.raises(FirstStageError, match="2,000,000 bytes"):
        load_tagger(folder, cascade=True)


def test_lower_thresholds_than_it_was_calibrated_for_are_refused(staged: Path) -> None:
    assert load_tagger(staged, cascade=True, fpr=0.01).first_stage is not None
    assert load_tagger(staged, cascade=True, threshold=0.9).first_stage is not None
    with pytest.raises(FirstStageError, match=r"lower .* than those at a false-positive rate of 0\.05"):
        load_tagger(staged, cascade=True, threshold=0.1)


def test_a_recalibrated_checkpoint_has_none(staged: Path) -> None:
    new = staged.parent / "again"
    check_new_folder(staged, new)
    save_recalibrated(staged, new, calibration=load_tagger(staged).checkpoint.calibration, note="again")
    assert not (new / WEIGHTS_FILE).exists() and load_tagger(new).first_stage is None


def test_the_module_needs_no_torch() -> None:
    code = "import sys, cot_probe.first_stage; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Records and the command.


def test_counts_go_through_tallies_and_results_files(staged: Path, tmp_path: Path) -> None:
    found: list[TaggedTrace] = list(load_tagger(staged, cascade=True).tag_many(texts(20)))
    tally, again = Tally(), Tally()
    for trace in found:
        tally.add(trace)
    assert tally.passed == sum(trace.passed for trace in found) > 0
    again.merge(Tally.of(json.loads(json.dumps(tally.as_dict()))))
    assert again == tally and "passed" not in Tally().as_dict()
    rows = [trace.as_dict() for trace in found]
    out = tmp_path / "rows.parquet"
    write_parquet(rows, out, taxonomy_tags=TAXONOMY.tags, taxonomy_labels=TAXONOMY.labels)
    back = list(read_results(out))
    assert [row.get("passed") for row in back] == [row.get("passed") for row in rows]
    assert {row.get("passed") for row in back} >= {None}


def test_the_command_says_what_passed_and_what_that_loses(staged: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"id": t.id, "reasoning": t.text}) for t in texts(20) if t.text.strip()]
    source.write_text("\n".join(lines) + "\n")
    command = ["tag", str(source), "-o", str(out), "--checkpoint", str(staged), "--show", "none", "--cascade"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = list(read_results(out))
    passed, sentences = (sum(n) for n in zip(*((r.get("passed", 0), len(r["sentences"])) for r in rows), strict=True))
    said = f"first stage: {passed} of {sentences} sentences ({100 * passed / sentences:.1f} %) passed"
    assert passed and said in done.output and str(MISSED) in done.output
    assert all(row["checkpoint"].endswith(CASCADE) for row in rows)
    manifest = json.loads(Path(f"{out}.manifest.json").read_text())
    assert manifest["total"]["passed"] == passed
    shown = CliRunner().invoke(app, ["tag", str(source), "--checkpoint", str(staged), "--show", "all", "--cascade"])
    assert shown.output.count("passed, not read by the encoder") == sum("passed" in row for row in rows)
    refused = CliRunner().invoke(app, [*command, "--engine", "ray"])
    assert refused.exit_code == 2 and "--cascade" in refused.output


def test_the_command_without_a_stage_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"reasoning": "Read the log."}\n')
    made = make_checkpoint(tmp_path / "toy")
    done = CliRunner().invoke(app, ["tag", str(source), "--checkpoint", str(made), "--cascade"])
    assert done.exit_code == 2 and "has no first stage" in " ".join(done.output.split())
