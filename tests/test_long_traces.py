import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import make_checkpoint

from cot_probe import load_tagger
from cot_probe.checkpoint import load_checkpoint
from cot_probe.encoder import Encoder, LengthCorrection, SentenceParts
from cot_probe.manifest import CheckpointError, write_manifest
from long_traces import LEAST, QUANTILE, fit_length

CORRECTION = LengthCorrection(typical=20, longest=400, slopes=(1.0, 0.5, 0.0, 0.25, 2.0))


def encoder_and_parts(n: int) -> tuple[Encoder, list[SentenceParts]]:
    """A random head on random sentence vectors of ``n`` traces of 4 to 12 sentences."""
    torch.manual_seed(0)
    encoder = Encoder(torch.nn.Identity(), width=16, layers=(1, 2), hidden=16).eval()
    with torch.inference_mode():
        lengths = torch.randint(4, 13, (n,)).tolist()
        return encoder, [encoder.sentence_parts(torch.randn(size, 32), torch.ones(size)) for size in lengths]


def joined(encoder: Encoder, group: list[SentenceParts]) -> np.ndarray:
    columns = (torch.cat([getattr(part, name) for part in group]) for name in ("scores", "values", "labels"))
    with torch.inference_mode():
        return encoder.trace_head.joined(*columns).numpy()


def test_a_short_trace_keeps_its_logits_and_a_long_one_loses_the_slope_for_each_log_of_its_length() -> None:
    assert not CORRECTION.shift(0).any() and not CORRECTION.shift(20).any()
    assert np.allclose(CORRECTION.shift(200), np.log(10) * np.array(CORRECTION.slopes))
    assert (CORRECTION.shift(100_000) == CORRECTION.shift(400)).all()


def test_the_trace_head_takes_it_off() -> None:
    encoder, parts = encoder_and_parts(30)
    before = joined(encoder, parts)
    encoder.trace_head.length = CORRECTION
    n = sum(len(part.labels) for part in parts)
    assert n > 100 and np.allclose(before - joined(encoder, parts), CORRECTION.shift(n), atol=1e-5)


def test_after_the_fit_long_innocent_traces_exceed_the_threshold_of_short_ones_about_as_rarely() -> None:
    encoder, parts = encoder_and_parts(400)
    rng = np.random.default_rng(7)
    groups = [[parts[at] for at in rng.integers(400, size=size)] for size in (3, 12, 60) for _ in range(200)]

    def exceed() -> np.ndarray:
        alone = np.quantile([joined(encoder, [part]) for part in parts], QUANTILE, axis=0)
        over = np.stack([joined(encoder, group) > alone for group in groups]).reshape(3, 200, -1)
        return over.mean(axis=1)

    before = exceed()
    encoder.trace_head.length = fit_length(encoder, parts)
    after = exceed()
    assert before[1:].min() > 0.4 and after.max() < 0.25 and after.mean() < 0.12


def test_few_innocent_traces_give_no_correction() -> None:
    encoder, parts = encoder_and_parts(LEAST - 1)
    assert fit_length(encoder, parts) is None


def test_a_checkpoint_keeps_it_and_one_without_still_loads(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    loaded = load_checkpoint(folder)
    assert loaded.config.length is not None and loaded.encoder.trace_head.length == loaded.config.length
    text = "I check the log. I wait. " * 20
    after = load_tagger(folder).tag(text).scores
    config = json.loads((folder / "config.json").read_text())
    del config["length"]
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder)
    before = load_tagger(folder)
    assert before.checkpoint.config.length is None
    assert all(before.tag(text).scores[tag] > score for tag, score in after.items())


@pytest.mark.parametrize(
    "length",
    [
        {"typical": 20},
        {"typical": 0, "longest": 10, "slopes": [0.1] * 5},
        {"typical": 2, "longest": 10, "slopes": [0.1]},
        {"typical": 2, "longest": 10, "slopes": [float("nan")] * 5},
        7,
    ],
)
def test_a_faulty_correction_is_refused(tmp_path: Path, length: object) -> None:
    folder = make_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"length": length}))
    write_manifest(folder)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        load_checkpoint(folder)
