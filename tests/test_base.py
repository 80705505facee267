from pathlib import Path

import torch
from conftest import ROOT
from safetensors.torch import load_file

from cot_probe.checkpoint import load_tokenizer, special_tokens, verify
from make_base import make_base, packaged_minilm

BASE = ROOT / "checkpoints" / "base-minilm-l6"


def test_the_shipped_base_is_what_the_package_holds(tmp_path: Path) -> None:
    make_base(packaged_minilm(), tmp_path)
    shipped, made = load_file(BASE / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert set(shipped) == set(made)
    assert all(torch.equal(shipped[name], made[name]) for name in made)
    assert "Apache License" in (BASE / "NOTICE").read_text()
    verify(BASE)


def test_the_shipped_tokenizer_cuts_nothing() -> None:
    tokenizer = load_tokenizer(str(BASE))
    ids = tokenizer("word " * 5000, add_special_tokens=False, verbose=False)["input_ids"]
    assert len(ids) == 5000
    assert special_tokens(tokenizer).opening == tokenizer.cls_token_id
