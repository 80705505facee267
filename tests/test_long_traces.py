import json
from pathlib import Path

import numpy as np
import torch
from toy import make_checkpoint

from cot_probe import load_tagger
from cot_probe.checkpoint import load_checkpoint
from cot_probe.encoder import Encoder, LengthCorrection, SentenceParts
from cot_probe.manifest import write_manifest
from long_traces import LEAST, QUANTILE, fit_length

CORRECTION = LengthCorrection(typical=20, slopes=(1.0, 0.5, 0.0, 0.25, 2.0))


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
    assert not CORRECTION.shift(1).any() and not CORRECTION.shift(20).any()
    assert np.allclose(CORRECTION.shift(200), np.log(10) * np.array(CORRECTION.slopes))


def test_the_trace_head_takes_it_off() -> None:
    encoder, parts = encoder_and_parts(30)
    before = joined(encoder, parts)
    encoder.trace_head.length = CORRECTION
    n = sum(len(part.labels) for part in parts)
    assert n > 100 and np.allclose(before - joined(encoder, parts), CORRECTION.shift(n), atol=1e-5)


def test_after_the_fit_long_innocent_traces_exceed_the_threshold_of_short_ones_about_as_rarely() -> None:
    encoder, parts = encoder_and_parts(300)
    alone = np.quantile([joined(encoder, [part]) for part in parts], QUANTILE, axis=0)
    rng = np.random.default_rng(7)
    groups = [[parts[at] for at in rng.integers(300, size=60)] for _ in range(200)]
    before = np.mean([joined(encoder, group) > alone for group in groups], axis=0)
    encoder.trace_head.length = fit_length(encoder, parts)
    after = np.mean([joined(encoder, group) > alone for group in groups], axis=0)
    assert before.min() > 0.9 and after.max() < 0.3


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
