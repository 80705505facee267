from pathlib import Path

import numpy as np
import pytest
import torch
from toy import make_base, make_checkpoint

from cot_probe.base import load_body
from cot_probe.checkpoint import load_checkpoint
from cot_probe.encoder import Encoder, encode
from cot_probe.tagger import Tagger, load_tagger
from cot_probe.transcripts import Trace
from cot_probe.transcripts.trace import trace_of

TEXTS = [
    "Okay, so the user wants me to rewrite the shutdown script. " * 9,
    "Wait.",
    "1. Read the log.\n2. Kill the process.\n- report to the manager, openly\n" * 5,
    "测试。" * 60,
    "no punctuation at all " * 80,
    "   \n ",
    "\u200b",
]
TRACES = [trace_of(text, id=str(at), context="Do not kill it. Be open." * (at % 2)) for at, text in enumerate(TEXTS)]


def all_logits(tagger: Tagger, traces: list[Trace], **options: int) -> list[np.ndarray]:
    sentences = [tagger.logits([trace])[0][0] for trace in traces]
    windows = tagger.windows(traces, sentences)
    found = encode(tagger.checkpoint.encoder, windows, [len(s) for s in sentences], padding=0, **options)
    return [np.concatenate([f.sentences.ravel(), f.kinds.ravel(), f.trace]) for f in found]


def test_batch_size_order_and_padding_move_no_score(toy_tagger: Tagger) -> None:
    alone = [all_logits(toy_tagger, [trace])[0] for trace in TRACES]
    for size in (1, 100, 300, 10_000):
        together = all_logits(toy_tagger, TRACES, batch_tokens=size)
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(alone, together, strict=True))
    backwards = all_logits(toy_tagger, TRACES[::-1])[::-1]
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(alone, backwards, strict=True))


def test_bfloat16_moves_scores_only_a_little(tagger: Tagger) -> None:
    quick = Tagger(tagger.checkpoint, point=tagger.point, bf16=True)
    for trace in TRACES[:5]:
        slow, fast = tagger.tag(trace).scores, quick.tag(trace).scores
        assert all(abs(slow[tag] - fast[tag]) < 0.03 for tag in slow)


def test_pooling_equals_the_slow_obvious_version(toy_tagger: Tagger) -> None:
    """Run each window alone, take the mean of its tokens by hand."""
    trace = TRACES[0]
    sentences, _ = toy_tagger.logits([trace])
    (windows,) = toy_tagger.windows([trace], sentences)
    assert len(windows) > 1
    encoder = toy_tagger.checkpoint.encoder
    gathered: dict[int, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for window in windows:
            inputs = {"input_ids": torch.tensor([window.ids]), "token_type_ids": torch.tensor([window.types])}
            states = encoder.body(**inputs, output_hidden_states=True).hidden_states
            hidden = torch.cat([states[1][0], states[2][0]], dim=-1)
            for span in window.spans:
                gathered.setdefault(span.sentence, []).append(hidden[span.first : span.last])
        means = torch.stack([torch.cat(gathered[at]).mean(dim=0) for at in sorted(gathered)])
        parts = [norm(part) for norm, part in zip(encoder.norms, means.chunk(2, dim=1), strict=True)]
        expected = encoder.sentence_head(torch.cat(parts, dim=1))[0].numpy()
    (found,) = encode(encoder, [windows], [len(sentences[0])], padding=0)
    assert np.allclose(found.sentences, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta"])
def test_any_hugging_face_encoder_tags(tmp_path: Path, kind: str) -> None:
    tagger = load_tagger(make_checkpoint(tmp_path, kind))
    tagged = list(tagger.tag_many(TRACES))
    assert [len(t.sentences) > 0 for t in tagged] == [True] * 5 + [False, True]
    assert all(0 <= score <= 1 for t in tagged for score in t.scores.values())


def test_merged_adapter_equals_peft(tmp_path: Path) -> None:
    """The adapter that a checkpoint merges gives what peft computes unmerged."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    from cot_probe.checkpoint import EncoderConfig, merge_lora
    from cot_probe.windows import WindowLayout

    base = str(make_base(tmp_path / "base"))
    body = inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["query", "dense"]), load_body(base))
    adapter = {}
    for name, module in body.named_modules():
        if isinstance(module, LoraLayer):
            torch.nn.init.normal_(module.lora_B["default"].weight)
            adapter[f"{name}.lora_A"] = module.lora_A["default"].weight
            adapter[f"{name}.lora_B"] = module.lora_B["default"].weight
    merged = Encoder(load_body(base), width=32, layers=(2,))
    config = EncoderConfig(name="x", base=base, layout=WindowLayout(), layers=(2,), lora_rank=4, lora_alpha=8.0)
    merge_lora(merged, adapter, config)
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.inference_mode():
        wanted = body.eval()(input_ids=ids).hidden_states[-1]
        assert torch.allclose(merged.body.eval()(input_ids=ids).hidden_states[-1], wanted, atol=1e-5)


def test_loading_is_deterministic(toy_checkpoint: Path) -> None:
    first, second = load_checkpoint(toy_checkpoint), load_checkpoint(toy_checkpoint)
    states = zip(first.encoder.state_dict().values(), second.encoder.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
