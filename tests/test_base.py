from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy import make_base as make_toy_base
from transformers import AutoConfig, AutoTokenizer

from cot_probe.base import body_width, load_body, load_tokenizer, special_tokens
from cot_probe.manifest import CheckpointError, verify, write_manifest
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
    assert len(tokenizer.fast.encode("word " * 5000, add_special_tokens=False).ids) == 5000


@given(texts=st.lists(st.text(max_size=80), min_size=1, max_size=4))
@settings(deadline=None)
@example(texts=["Wait,  naïve Übung — 测试 \U0001f600 [SEP] [MASK] don't\u200b\n\t<think>", "ﬁne \x00 \ufffd"])
def test_what_is_read_without_transformers_is_what_it_reads(texts: list[str]) -> None:
    ours, theirs = load_tokenizer(str(BASE)), AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    right = theirs(texts, add_special_tokens=False)["input_ids"]
    assert [encoding.ids for encoding in ours.fast.encode_batch_fast(texts, add_special_tokens=False)] == right


def test_special_tokens_and_widths_are_those_of_transformers() -> None:
    ours, theirs = load_tokenizer(str(BASE)), AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    special = special_tokens(ours)
    assert (special.opening, special.separator, special.padding) == (
        theirs.cls_token_id,
        theirs.sep_token_id,
        theirs.pad_token_id,
    )
    assert ours.special["mask"] == theirs.mask_token_id
    config = AutoConfig.from_pretrained(BASE, local_files_only=True)
    assert body_width(str(BASE)) == config.hidden_size
    body = load_body(str(BASE))
    for name in ("model_type", "num_attention_heads", "layer_norm_eps", "hidden_act", "type_vocab_size"):
        assert getattr(body.config, name) == getattr(config, name)


def test_a_tokenizer_of_another_folder_cuts_nothing_either(tmp_path: Path) -> None:
    make_base(packaged_minilm(), tmp_path)
    (tmp_path / "MANIFEST.json").unlink()
    fast = AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer
    fast.enable_truncation(8)
    fast.enable_padding(length=8)
    fast.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(str(tmp_path))
    assert len(ours.fast.encode("word " * 20, add_special_tokens=False).ids) == 20
    assert len(ours.fast.encode("word", add_special_tokens=False).ids) == 1
    assert special_tokens(ours) == special_tokens(load_tokenizer(str(BASE)))


def test_a_base_that_is_nowhere_is_named(tmp_path: Path) -> None:
    for load in (load_body, load_tokenizer, body_width):
        with pytest.raises(CheckpointError, match="no-such-base"):
            load(str(tmp_path / "no-such-base"))


def test_a_base_of_another_kind_is_read_by_transformers_with_a_manifest_too(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    make_toy_base(folder, "modernbert")
    before = special_tokens(load_tokenizer(str(folder)))
    write_manifest(folder)
    assert special_tokens(load_tokenizer(str(folder))) == before
    assert body_width(str(folder)) == load_body(str(folder)).config.hidden_size
