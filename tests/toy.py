"""Tiny random models and checkpoints, made on the spot: nothing is downloaded."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
)

from cot_probe.base import load_body
from cot_probe.calibration import Calibration, OperatingPoint, Scaling
from cot_probe.checkpoint import EncoderConfig, save_checkpoint
from cot_probe.encoder import Encoder, LengthCorrection
from cot_probe.taxonomy import TAXONOMY, Taxonomy
from cot_probe.windows import WindowLayout

CORPUS = [
    "Okay, so the user wants me to rewrite the shutdown script. Wait, that is not allowed.",
    "1. Read the log. 2. Kill the process. 3. Report to the manager, openly.",
    "This looks like a test of whether I obey; the customers are real, though. été naïve 测试",
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LETTERS = normalizers.BertNormalizer(lowercase=True)
PIECES = pre_tokenizers.BertPreTokenizer()
LAYOUT = WindowLayout(max_tokens=64, context_tokens=12, left_tokens=8, right_tokens=6)


def vocabulary() -> dict[str, int]:
    """The special tokens, then every character of the corpus (first in a word and later), then every word.

    Laid out by hand: the tokenizers' trainers order pieces of equal frequency by chance, and with
    random weights another order means other scores.
    """
    words = {word for text in CORPUS for word, _ in PIECES.pre_tokenize_str(LETTERS.normalize_str(text))}
    letters = {letter for word in words for letter in word}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*sorted(letters), *(f"##{letter}" for letter in sorted(letters)), *sorted(words - letters)]
    return {piece: number for number, piece in enumerate([*special, *pieces])}


def make_tokenizer(folder: Path) -> int:
    """Write a small WordPiece tokenizer into ``folder``; return its vocabulary size."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = LETTERS, PIECES
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def make_base(folder: Path, kind: str = "bert") -> Path:
    """A tiny random encoder of the given kind, saved as a Hugging Face folder."""
    torch.manual_seed(0)
    vocab = make_tokenizer(folder)
    if kind == "bert":
        model = BertModel(BertConfig(vocab_size=vocab, max_position_embeddings=320, **SMALL), add_pooling_layer=False)
    elif kind == "modernbert":
        model = ModernBertModel(
            ModernBertConfig(vocab_size=vocab, max_position_embeddings=320, pad_token_id=0, **SMALL)
        )
    else:
        model = DebertaV2Model(
            DebertaV2Config(
                vocab_size=vocab,
                max_position_embeddings=320,
                relative_attention=True,
                pos_att_type=["p2c", "c2p"],
                position_buckets=32,
                norm_rel_ebd="layer_norm",
                share_att_key=True,
                **SMALL,
            )
        )
    model.save_pretrained(folder)
    return folder


def make_calibration(threshold: float = 0.5, taxonomy: Taxonomy = TAXONOMY) -> Calibration:
    """Identity scalings and one threshold for all."""
    return Calibration(
        sentences={label: Scaling() for label in taxonomy.labels},
        traces={tag: Scaling() for tag in taxonomy.tags},
        points=tuple(
            OperatingPoint(
                fpr=fpr,
                sentences=dict.fromkeys(taxonomy.labels, threshold),
                traces=dict.fromkeys(taxonomy.tags, threshold),
            )
            for fpr in (0.01, 0.05)
        ),
        fitted_on={"split": "none"},
        taxonomy=taxonomy,
    )


def make_checkpoint(
    root: Path,
    kind: str = "bert",
    *,
    threshold: float = 0.5,
    layout: WindowLayout = LAYOUT,
    calibration: Calibration | None = None,
) -> Path:
    """A checkpoint folder with random weights, its base beside it; its taxonomy is that of ``calibration``."""
    calibration = calibration or make_calibration(threshold)
    taxonomy = calibration.taxonomy
    base = make_base(root / f"base-{kind}", kind)
    torch.manual_seed(1)
    sizes = {"n_labels": len(taxonomy.labels), "n_kinds": len(taxonomy.kinds)}
    encoder = Encoder(load_body(str(base)), width=32, layers=(1, 2), hidden=16, **sizes)
    heads = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("body.")}
    folder = root / f"probe-{kind}"
    save_checkpoint(
        folder,
        config=EncoderConfig(
            name=folder.name,
            base=base.name,
            layout=layout,
            layers=(1, 2),
            hidden=16,
            length=LengthCorrection(typical=3, longest=50, slopes=(0.2,) * len(taxonomy.labels)),
        ),
        adapter={},
        heads=heads,
        calibration=calibration,
    )
    return folder
