"""The BERT body in plain torch: what ``transformers`` computes, and nothing where it would be something else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy import make_base
from transformers import AutoConfig, BertConfig, BertModel

from cot_probe.bert import BertBody, can_build, load_bert
from cot_probe.checkpoint import load_body

SIZES = {"vocab_size": 60, "max_position_embeddings": 40, "hidden_size": 24, "intermediate_size": 40}


def both(folder: Path, *, pooler: bool = False, **sizes: int) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs, of the same random weights."""
    config = BertConfig(**{"num_hidden_layers": 2, "num_attention_heads": 3, **SIZES, **sizes})
    theirs = BertModel(config, add_pooling_layer=pooler).eval()
    theirs.save_pretrained(folder)
    ours = load_body(str(folder))
    assert isinstance(ours, BertBody)
    return ours, theirs


def states(body: nn.Module, **inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return tuple(body(**inputs, output_hidden_states=True).hidden_states)


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 3]),
    types=st.integers(1, 2),
    bf16=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_hidden_states_are_those_of_transformers(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    layers: int,
    heads: int,
    types: int,
    bf16: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    ours, theirs = both(
        tmp_path_factory.mktemp("base"), num_hidden_layers=layers, num_attention_heads=heads, type_vocab_size=types
    )
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    inputs = {
        "input_ids": torch.randint(0, SIZES["vocab_size"], shape),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, types, shape),
    }
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        mine, right = states(ours, **inputs), states(theirs, **inputs)
    assert len(mine) == len(right) == layers + 1
    for one, other in zip(mine, right, strict=True):
        torch.testing.assert_close(one[mask.bool()], other[mask.bool()])


def test_without_token_types_all_are_of_the_first(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path)
    ids = torch.randint(0, SIZES["vocab_size"], (2, 9))
    for one, other in zip(
        states(ours, input_ids=ids, attention_mask=torch.ones_like(ids)), states(theirs, input_ids=ids), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_gradients_in_bfloat16_are_those_of_transformers_in_float32_but_for_rounding(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, num_hidden_layers=3)
    ids = torch.randint(1, 60, (4, 33), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    grads = []
    for body, bf16 in ((ours, True), (theirs, False)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            state = body(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        state[mask.bool()].float().pow(3).sum().backward()
        grads.append({name: part.grad for name, part in body.named_parameters() if part.grad is not None})
    assert set(grads[0]) == set(grads[1])
    for name, wanted in grads[1].items():
        if not name.endswith("key.bias"):  # softmax does not see it: its gradient is nothing but rounding
            assert torch.nn.functional.cosine_similarity(grads[0][name].ravel(), wanted.ravel(), dim=0) > 0.99, name


def test_parameters_have_the_names_and_values_that_they_have_there(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, pooler=True)
    right = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("pooler.")}
    assert ours.state_dict().keys() == right.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_act", "relu"), ("position_embedding_type", "relative_key"), ("is_decoder", True)],
)
def test_other_kinds_of_bert_are_left_to_transformers(tmp_path: Path, name: str, value: object) -> None:
    make_base(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    found = AutoConfig.from_pretrained(tmp_path)
    assert not can_build(found)
    assert load_bert(tmp_path, found) is None


def test_weights_that_do_not_fit_are_left_to_transformers(tmp_path: Path) -> None:
    make_base(tmp_path)
    config, path = AutoConfig.from_pretrained(tmp_path), tmp_path / "model.safetensors"
    state = load_file(path)
    assert load_bert(tmp_path, config) is not None
    name = "encoder.layer.0.output.dense.weight"
    broken = [
        {key: tensor for key, tensor in state.items() if key != name},
        state | {"one.more": torch.zeros(2)},
        state | {name: state[name][:, :1].contiguous()},
        {f"bert.{key}": tensor for key, tensor in state.items()},
    ]
    for tensors in broken:
        save_file(tensors, path)
        assert load_bert(tmp_path, config) is None
    path.unlink()
    assert load_bert(tmp_path, config) is None


def test_weights_with_a_prefix_are_read_by_transformers(tmp_path: Path) -> None:
    make_base(tmp_path)
    before = load_body(str(tmp_path)).state_dict()
    path = tmp_path / "model.safetensors"
    save_file({f"bert.{key}": tensor for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    body = load_body(str(tmp_path))
    assert isinstance(body, BertModel)
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_tagging_with_the_shipped_checkpoint_imports_no_transformers() -> None:
    code = (
        "import sys; from cot_probe import load_tagger; load_tagger(); "
        "print(sorted(name for name in sys.modules if name in {'transformers', 'torch._dynamo', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
