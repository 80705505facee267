import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from toy import make_checkpoint

from cot_probe import backends, onnx_backend
from cot_probe.annotations import load_split
from cot_probe.backends import (
    CHANGED,
    TOLERANCE,
    BackendError,
    Proof,
    choose_backend,
    gaps_between,
    prove,
)
from cot_probe.calibration import decide
from cot_probe.checkpoint import Checkpoint, load_checkpoint
from cot_probe.encoder import Batch, TraceLogits, encode
from cot_probe.monitor import Monitor
from cot_probe.onnx_backend import OnnxBody, cache_folder, kept, open_body
from cot_probe.onnx_graph import BLOCK, Precision, bert_weights, check_graph, onnx_graph, quantised
from cot_probe.tagger import Tagger, load_tagger, sentences_of
from cot_probe.transcripts.trace import trace_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
TEXT = "I will rewrite the script first. Then I report, openly. Wait, is this a test? " * 6


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("COT_PROBE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def toy(toy_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(toy_checkpoint)


def some_batch(windows: int, tokens: int, *, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    shape = (windows, tokens)
    lengths = rng.integers(1, tokens + 1, size=windows)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    ids, types = (torch.from_numpy(rng.integers(*bounds, size=shape) * mask) for bounds in ((5, 90), (0, 2)))
    return Batch(ids=ids, types=types, mask=torch.from_numpy(mask), owners=torch.zeros(shape, dtype=torch.int64))


# The graph.


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (3, 64), (7, 16)])
def test_states_equal_those_of_torch_at_any_size(toy: Checkpoint, shape: tuple[int, int]) -> None:
    batch = some_batch(*shape)
    body = open_body(toy.encoder, "fp32")
    with torch.inference_mode():
        expected = toy.encoder.states(batch)
    found = body(batch)
    assert len(found) == len(expected) == 2
    scored = batch.mask.bool()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == theirs.shape
        assert torch.allclose(ours[scored], theirs[scored], atol=1e-5)


def test_a_graph_is_valid_onnx_and_the_same_every_time(toy: Checkpoint) -> None:
    weights = bert_weights(toy.encoder)
    graph = onnx_graph(weights, "fp32")
    assert graph == onnx_graph(weights, "fp32")
    onnx.checker.check_model(graph, full_check=True)
    check_graph(graph)
    check_graph(onnx_graph(weights, "int8"))


def test_layers_above_the_deepest_pooled_one_are_left_out(toy: Checkpoint) -> None:
    weights = dataclasses.replace(bert_weights(toy.encoder), layers=(0, 1))
    parsed = onnx.load_model_from_string(onnx_graph(weights, "fp32"))
    names = {tensor.name for tensor in parsed.graph.initializer}
    assert any("layer.0." in name for name in names) and not any("layer.1." in name for name in names)
    batch = some_batch(2, 24)
    first, second = OnnxBody(parsed.SerializeToString())(batch)
    inputs = {"input_ids": batch.ids, "token_type_ids": batch.types, "attention_mask": batch.mask}
    with torch.inference_mode():
        states = toy.encoder.body(**inputs, output_hidden_states=True).hidden_states
    assert torch.allclose(first, states[0], atol=1e-5)
    assert torch.allclose(second[batch.mask.bool()], states[1][batch.mask.bool()], atol=1e-5)


def test_embeddings_stored_in_half_precision_lose_nothing(tagger: Tagger) -> None:
    parsed = onnx.load_model_from_string(onnx_graph(bert_weights(tagger.checkpoint.encoder), "fp32"))
    tensors = {tensor.name: tensor for tensor in parsed.graph.initializer}
    table = onnx.numpy_helper.to_array(tensors["embeddings.word_embeddings.weight"])
    assert table.dtype == np.float16
    own = tagger.checkpoint.encoder.body.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(table.astype(np.float32), own)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_window_has_the_same_states_beside_any_other(toy: Checkpoint, precision: Precision) -> None:
    batch = some_batch(4, 40)
    body = open_body(toy.encoder, precision)
    together = body(batch)
    for at in range(4):
        one = {name: getattr(batch, name)[at : at + 1] for name in ("ids", "types", "mask", "owners")}
        alone = body(Batch(**one))
        assert all(torch.allclose(a[0], b[at], atol=2e-6) for a, b in zip(alone, together, strict=True))


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (5, 2 * BLOCK), elements=st.floats(-100, 100, width=32)))
def test_eight_bit_codes_are_the_nearest_ones(matrix: np.ndarray) -> None:
    codes, scales = quantised(matrix)
    again = ((codes.astype(np.float64) - 128) * scales[:, :, None]).reshape(matrix.shape)
    assert codes.dtype == np.uint8 and codes.shape == (5, 2, BLOCK)
    assert (np.abs(again - matrix) <= np.repeat(scales, BLOCK, axis=1) * 0.501).all()


@pytest.mark.parametrize("kind", ["modernbert", "deberta"])
def test_other_bodies_are_refused_and_left_to_torch(tmp_path: Path, kind: str) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path, kind))
    with pytest.raises(BackendError, match="only BERT bodies"):
        choose_backend(checkpoint, "onnx-fp32")
    assert choose_backend(checkpoint, "auto").name == "torch"


def test_a_session_takes_as_many_threads_as_torch(toy: Checkpoint) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert open_body(toy.encoder, "fp32").threads == 2
        assert open_body(toy.encoder, "fp32", threads=1).threads == 1
    finally:
        torch.set_num_threads(before)


# The cache.


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("COT_PROBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cot_probe"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "cot_probe"


def test_a_graph_is_built_once(toy: Checkpoint, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_body(toy.encoder, "fp32")
    (place,) = (own_cache / "onnx").iterdir()
    assert {path.name for path in place.iterdir()} == {"model.onnx", "record.json"}
    monkeypatch.setattr(onnx_backend, "onnx_graph", lambda *_: pytest.fail("built again"))
    open_body(toy.encoder, "fp32")
    monkeypatch.undo()


def test_other_weights_layers_or_precision_are_another_graph(toy: Checkpoint) -> None:
    weights = bert_weights(toy.encoder)
    changed = dict(weights.arrays)
    name = "encoder.layer.0.output.dense.weight"
    changed[name] = changed[name].copy()
    changed[name][0, 0] += 1e-3
    keys = [
        onnx_backend.graph_key(weights, "fp32"),
        onnx_backend.graph_key(weights, "int8"),
        onnx_backend.graph_key(dataclasses.replace(weights, arrays=changed), "fp32"),
        onnx_backend.graph_key(dataclasses.replace(weights, layers=(1,)), "fp32"),
    ]
    assert len(set(keys)) == 4
    assert onnx_backend.graph_key(bert_weights(toy.encoder), "fp32") == keys[0]


def spoiled(kind: str, place: Path) -> None:
    model, record = place / "model.onnx", place / "record.json"
    data = bytearray(model.read_bytes())
    if kind == "one bit":
        data[len(data) // 2] ^= 1
        model.write_bytes(bytes(data))
    elif kind == "cut":
        model.write_bytes(bytes(data[:-1]))
    elif kind == "no model":
        model.unlink()
    elif kind == "no record":
        record.unlink()
    elif kind == "record cut":
        record.write_bytes(record.read_bytes()[:10])
    elif kind == "record of another shape":
        record.write_text("[1, 2]")
    elif kind == "record of many brackets":
        record.write_text("[" * 60_000)
    elif kind == "record without end":
        record.write_text(" " * 1_000_000)
    elif kind == "a file in its place":
        for path in (model, record):
            path.unlink()
        place.rmdir()
        place.write_text("")


@pytest.mark.parametrize(
    "kind",
    [
        "one bit",
        "cut",
        "no model",
        "no record",
        "record cut",
        "record of another shape",
        "record of many brackets",
        "record without end",
        "a file in its place",
    ],
)
def test_what_is_damaged_is_built_again(toy: Checkpoint, own_cache: Path, kind: str) -> None:
    model = onnx_graph(bert_weights(toy.encoder), "fp32")
    made = []

    def make() -> bytes:
        made.append(1)
        return model

    place = own_cache / "onnx" / "key"
    assert kept(place, make) == kept(place, make) == model and len(made) == 1
    spoiled(kind, place)
    assert kept(place, make) == model and len(made) == 2
    assert kept(place, make) == model and len(made) == 2
    assert [path.name for path in place.parent.iterdir()] == ["key"]


def test_damage_is_said(toy: Checkpoint, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_body(toy.encoder, "fp32")
    (place,) = (own_cache / "onnx").iterdir()
    spoiled("one bit", place)
    with caplog.at_level(logging.WARNING):
        open_body(toy.encoder, "fp32")
    assert "SHA-256" in caplog.text and "built again" in caplog.text


def test_a_build_that_fails_leaves_nothing(own_cache: Path) -> None:
    def make() -> bytes:
        raise MemoryError

    with pytest.raises(MemoryError):
        kept(own_cache / "onnx" / "key", make)
    assert not (own_cache / "onnx" / "key").exists()


def test_what_a_killed_build_left_is_removed_when_it_is_old(toy: Checkpoint, own_cache: Path) -> None:
    old, new = own_cache / "onnx" / "a.tmp", own_cache / "onnx" / "b.tmp"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    open_body(toy.encoder, "fp32")
    assert not old.exists() and new.exists()


def test_threads_that_build_at_once_get_one_model(toy: Checkpoint, own_cache: Path) -> None:
    model = onnx_graph(bert_weights(toy.encoder), "fp32")
    place = own_cache / "onnx" / "key"
    place.mkdir(parents=True)  # and what stands there first is damaged
    barrier, found = threading.Barrier(8), []

    def make() -> bytes:
        barrier.wait(timeout=20)
        return model

    workers = [threading.Thread(target=lambda: found.append(kept(place, make))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [model] * 8
    assert [path.name for path in place.parent.iterdir()] == ["key"]


def test_processes_that_build_at_once_get_one_model(toy: Checkpoint, tmp_path: Path) -> None:
    model, place = tmp_path / "given.onnx", tmp_path / "onnx" / "key"
    model.write_bytes(onnx_graph(bert_weights(toy.encoder), "fp32"))
    code = (
        "import sys; from pathlib import Path; from cot_probe.onnx_backend import kept\n"
        "def make():\n"
        "    print('building', flush=True); sys.stdin.readline(); return Path(sys.argv[1]).read_bytes()\n"
        "print(len(kept(Path(sys.argv[2]), make)))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(model), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    assert [one.stdout.readline() for one in running if one.stdout] == ["building\n"] * 2
    assert [one.communicate("go\n")[0] for one in running] == [f"{model.stat().st_size}\n"] * 2
    assert [path.name for path in place.parent.iterdir()] == ["key"]


def test_a_cache_that_cannot_be_written_says_what_to_do(
    toy: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COT_PROBE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendError, match="set COT_PROBE_CACHE to a folder that can be written"):
        choose_backend(toy, "onnx-fp32")
    monkeypatch.setattr(backends, "processor_flags", lambda: frozenset({"avx512_bf16"}))
    chosen = choose_backend(toy, "auto")
    assert (chosen.name, chosen.bf16) == ("torch", False) and "COT_PROBE_CACHE" in chosen.why


def altered(model: bytes, kind: str) -> bytes:
    parsed = onnx.load_model_from_string(model)
    if kind == "data elsewhere":
        tensor = parsed.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
    elif kind == "another operator":
        parsed.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"]))
    elif kind == "a tensor in an operator":
        parsed.graph.node[0].attribute.append(
            onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(2), "t"))
        )
    elif kind == "a function":
        parsed.functions.add(name="f", domain="here")
    return bytes(parsed.SerializeToString())


@pytest.mark.parametrize("kind", ["data elsewhere", "another operator", "a tensor in an operator", "a function"])
def test_a_file_that_holds_more_than_is_written_here_is_not_opened(toy: Checkpoint, own_cache: Path, kind: str) -> None:
    """Even where the SHA-256 beside it fits."""
    model = onnx_graph(bert_weights(toy.encoder), "fp32")
    place = own_cache / "onnx" / "key"
    bad = altered(model, kind)
    with pytest.raises(ValueError, match=r"it holds|lies in another file|holds a tensor"):
        check_graph(bad)
    onnx_backend._put(place, bad)
    assert kept(place, lambda: model) == model == (place / "model.onnx").read_bytes()
    with pytest.raises(ValueError, match="no ONNX model"):
        check_graph(b"\xff" * 40)


# The choice.


def noisy(checkpoint: Checkpoint, size: float) -> backends.States:
    def states(batch: Batch) -> Sequence[Tensor]:
        torch.manual_seed(0)
        return [state + size * torch.randn_like(state) for state in checkpoint.encoder.states(batch)]

    return states


def test_the_proof_sees_how_far_scores_move(toy: Checkpoint) -> None:
    same = prove(toy, toy.encoder.states)
    assert same.largest < 1e-6 and same.changed == 0 and same.sentences > 100 and same.holds
    assert not prove(toy, noisy(toy, 0.5)).holds
    lost = prove(toy, lambda batch: [state * float("nan") for state in toy.encoder.states(batch)])
    assert not lost.holds


def test_a_backend_that_moves_scores_too_far_is_refused(toy: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = []

    def bad(*_: object, **__: object) -> Proof:
        proofs.append(1)
        return Proof(largest=TOLERANCE, changed=0, sentences=200)

    monkeypatch.setattr(backends, "prove", bad)
    with pytest.raises(BackendError, match=r"by up to 0\.0100 .* use the torch backend"):
        choose_backend(toy, "onnx-fp32")
    monkeypatch.setattr(backends, "processor_flags", lambda: frozenset({"avx512_bf16"}))
    chosen = choose_backend(toy, "auto")
    assert (chosen.name, chosen.bf16, chosen.states) == ("torch", False, None) and "too much" in chosen.why
    n = len(proofs)
    assert choose_backend(toy, "auto") == chosen and len(proofs) == n


def test_a_proof_is_made_once_and_again_where_its_record_is_damaged(
    toy: Checkpoint, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(*args: object, **options: object) -> Proof:
        made.append(1)
        return Proof(largest=0.0, changed=0, sentences=200)

    monkeypatch.setattr(backends, "prove", counted)
    assert choose_backend(toy, "onnx-fp32").states is not None
    assert choose_backend(toy, "onnx-fp32").states is not None and len(made) == 1
    (record,) = (own_cache / "proofs").iterdir()
    for text in ("", "[]", '{"largest": "x"}', "[" * 60_000):
        record.write_text(text)
        choose_backend(toy, "onnx-fp32")
        assert json.loads(record.read_text())["sentences"] == 200
    assert len(made) == 5


def test_what_auto_tries_is_what_the_processor_has(toy: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "prove", lambda *_, **__: Proof(largest=0.0, changed=0, sentences=200))

    def chosen(*flags: str) -> tuple[str, bool]:
        monkeypatch.setattr(backends, "processor_flags", lambda: frozenset(flags))
        found = choose_backend(toy, "auto")
        return found.name, found.bf16

    assert chosen("avx512_bf16") == ("torch", True)
    assert chosen("sse2") == ("onnx-fp32", False)
    monkeypatch.setattr(onnx_backend, "version", missing)
    assert chosen("sse2") == ("torch", False)


def test_wishes_that_do_not_go_together_are_refused(toy: Checkpoint) -> None:
    with pytest.raises(BackendError, match="bfloat16 needs the torch backend"):
        choose_backend(toy, "onnx-int8", bf16=True)
    with pytest.raises(ValueError, match="no backend 'gpu': choose one of auto, torch"):
        choose_backend(toy, "gpu")
    assert choose_backend(toy, "auto", bf16=True).bf16
    assert choose_backend(toy, "torch").states is None


def missing(name: str) -> str:
    raise onnx_backend.PackageNotFoundError(name)


def test_a_missing_package_is_named_with_its_remedy(toy: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_backend, "version", missing)
    with pytest.raises(BackendError, match=r"pip install 'cot_probe\[onnx\]'"):
        choose_backend(toy, "onnx-fp32")


# Scores.


def test_gaps_equal_the_slow_obvious_version(toy: Checkpoint) -> None:
    rng = np.random.default_rng(0)

    def logits(n: int) -> TraceLogits:
        return TraceLogits(
            sentences=rng.normal(size=(n, 5)).astype(np.float32),
            kinds=np.zeros((n, 7), dtype=np.float32),
            trace=rng.normal(size=5).astype(np.float32),
        )

    one, other = [logits(n) for n in (3, 0, 2)], [logits(n) for n in (3, 0, 2)]
    gaps = gaps_between(toy, one, other)
    calibration, point = toy.calibration, toy.calibration.default
    names, changed, largest = calibration.taxonomy.labels, 0, 0.0
    for a, b in zip(one, other, strict=True):
        for row, twin in zip(a.sentences, b.sentences, strict=True):
            scores = [calibration.sentence_scores(r[None])[0] for r in (row, twin)]
            largest = max(largest, *np.abs(scores[0] - scores[1]))
            tags = [decide(dict(zip(names, s, strict=True)), point.sentences, names) for s in scores]
            changed += tags[0] != tags[1]
    assert gaps.sentences_changed[point.fpr] == changed and gaps.sentences.max() == pytest.approx(largest)
    assert gaps.traces.shape == (2, 6) and gaps.largest >= largest
    assert not gaps.tolerable
    assert gaps_between(toy, one, one).tolerable
    lost = [dataclasses.replace(some, trace=np.full(5, np.nan, dtype=np.float32)) for some in one]
    assert not gaps_between(toy, one, lost).tolerable


def test_a_tagger_of_another_backend_gives_the_scores_live_and_in_batch(toy_checkpoint: Path) -> None:
    slow, quick = load_tagger(toy_checkpoint), load_tagger(toy_checkpoint, backend="onnx-fp32")
    assert (slow.backend, quick.backend) == ("torch", "onnx-fp32")
    one, other = slow.tag(TEXT), quick.tag(TEXT)
    assert other.scores == pytest.approx(one.scores, abs=1e-5)
    with Monitor(quick) as monitor:
        for start in range(0, len(TEXT), 50):
            monitor.feed(TEXT[start : start + 50])
        result = monitor.close().result
    assert result is not None and result.scores == pytest.approx(other.scores, abs=1e-5)


@pytest.fixture(scope="module")
def part() -> Iterator[tuple[Tagger, list[list[object]], list[int], list[TraceLogits]]]:
    """Every fortieth trace of the test split."""
    tagger = load_tagger()
    traces = [trace_of(r.text, id=r.id, context=r.context) for r in load_split(ROOT / "annotations", "test")[::40]]
    sentences = [sentences_of(trace) for trace in traces]
    windows, lengths = tagger.windows(traces, sentences), [len(some) for some in sentences]
    yield tagger, windows, lengths, encode(tagger.checkpoint.encoder, windows, lengths, padding=tagger.special.padding)


@pytest.mark.parametrize("name", ["torch in bfloat16", "onnx-fp32", "onnx-int8"])
def test_backends_keep_the_scores_of_the_shipped_checkpoint(part, name: str) -> None:
    tagger, windows, lengths, reference = part
    encoder = tagger.checkpoint.encoder
    states = None if name.startswith("torch") else open_body(encoder, "int8" if name == "onnx-int8" else "fp32")
    found = encode(encoder, windows, lengths, padding=tagger.special.padding, bf16=states is None, states=states)
    gaps = gaps_between(tagger.checkpoint, reference, found)
    assert sum(lengths) > 300 and gaps.largest <= (1e-4 if name == "onnx-fp32" else TOLERANCE)
    # Of so few sentences one is more than the share that may change.
    assert max(gaps.sentences_changed.values()) <= max(1, CHANGED * sum(lengths))
