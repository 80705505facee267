"""The base encoder under a checkpoint: where it lies, its configuration, its body, its tokenizer.

A BERT base with a manifest was made by ``training/make_base.py``: its configuration and tokenizer
are read as they are. Any other folder or name goes to ``transformers``, which knows the exceptions
of every kind of model and takes more than a second to import.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer

from cot_probe.bert import load_bert
from cot_probe.encoder import padded_length
from cot_probe.manifest import MANIFEST, CheckpointError, read_json, verify
from cot_probe.tokens import BaseTokenizer
from cot_probe.windows import SpecialTokens, WindowLayout

_ROLES = ("cls", "sep", "pad", "bos", "eos", "mask")


def shipped_folders() -> tuple[Path, Path]:
    """Where checkpoints lie: in the installed package, in the clone around it."""
    package = Path(__file__).resolve().parent
    return package / "_checkpoints", package.parent / "checkpoints"


def resolve_base(base: str, *, beside: Path | None = None) -> str:
    """The base's folder where there is one: beside the checkpoint, a path, shipped; else its name."""
    places = [] if beside is None else [beside.parent / base]
    for folder in (*places, Path(base), *(shipped / base for shipped in shipped_folders())):
        if (folder / "config.json").is_file():
            return str(folder)
    return base


def load_body(base: str) -> torch.nn.Module:
    """Load a Hugging Face encoder from a folder or the local cache, in float32, never from a hub.

    Raises:
        CheckpointError: if it is neither, or its files were altered.
    """
    if (Path(base) / MANIFEST).is_file():
        verify(Path(base))
    config = _config(base)
    bert = load_bert(base, config)
    if bert is not None:
        return bert
    from transformers import AutoConfig, AutoModel

    try:
        # No pooler: sentences are pooled here, and a missing pooler would be made up at random.
        options = {"add_pooling_layer": False} if config.model_type in {"bert", "roberta", "xlm-roberta"} else {}
        body: torch.nn.Module = AutoModel.from_pretrained(
            base,
            config=AutoConfig.from_pretrained(base, local_files_only=True),
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            **options,
        )
    except OSError as error:
        raise _absent(base, error) from None
    return body


def body_width(base: str) -> int:
    """Width of the vectors that the base gives."""
    return int(_config(base).hidden_size)


def check_length(base: str, layout: WindowLayout) -> None:
    """Refuse windows that are longer than the base has positions for.

    Raises:
        CheckpointError: with both lengths.
    """
    config = _config(base)
    positions = getattr(config, "max_position_embeddings", None)
    longest = padded_length(layout.max_tokens)
    if positions is not None and longest > positions:
        raise CheckpointError(
            f"windows of {longest} tokens (padded), but the base {base} takes at most {positions}: choose shorter ones"
        )


def load_tokenizer(base: str) -> BaseTokenizer:
    """Load the base's tokenizer from a folder or the local cache.

    Raises:
        CheckpointError: if there is none, or none in the format of ``tokenizers``.
    """
    if _plain_config(base) is not None:
        folder = Path(base)
        return _of_file(
            Tokenizer.from_file(str(folder / "tokenizer.json")), read_json(folder / "tokenizer_config.json")
        )
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(base, local_files_only=True, use_fast=True)
    except OSError as error:
        raise _absent(base, error) from None
    if not getattr(found, "is_fast", False):
        raise CheckpointError(f"the base {base!r} has no tokenizer.json: save its tokenizer in the fast format first")
    ids = {role: getattr(found, f"{role}_token_id", None) for role in _ROLES}
    return BaseTokenizer(
        fast=_without_limits(found.backend_tokenizer), special={role: at for role, at in ids.items() if at is not None}
    )


def special_tokens(tokenizer: BaseTokenizer) -> SpecialTokens:
    """The ids with which windows are opened, parted and padded.

    Raises:
        CheckpointError: if the tokenizer has no token for one of these.
    """
    special = tokenizer.special
    opening, separator = special.get("cls", special.get("bos")), special.get("sep", special.get("eos"))
    padding = special.get("pad")
    if opening is None or separator is None or padding is None:
        raise CheckpointError("the tokenizer lacks a CLS, SEP or padding token: choose an encoder, not a decoder")
    return SpecialTokens(opening=opening, separator=separator, padding=padding)


def _plain_config(base: str) -> dict[str, Any] | None:
    """What the file says, of a BERT base with a manifest; None for any other."""
    if not (Path(base) / MANIFEST).is_file():
        return None
    said = read_json(Path(base) / "config.json")
    return said if said.get("model_type") == "bert" else None


def _config(base: str) -> Any:
    """The configuration: as its file says it, or as ``transformers`` reads it."""
    plain = _plain_config(base)
    if plain is not None:
        return SimpleNamespace(**plain)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base, local_files_only=True)
    except OSError as error:
        raise _absent(base, error) from None


def _of_file(fast: Tokenizer, about: dict[str, Any]) -> BaseTokenizer:
    ids = {role: fast.token_to_id(str(about.get(f"{role}_token"))) for role in _ROLES}
    return BaseTokenizer(fast=_without_limits(fast), special={role: at for role, at in ids.items() if at is not None})


def _without_limits(fast: Tokenizer) -> Tokenizer:
    """Nothing is cut or padded here: windows are laid over all tokens."""
    fast.no_truncation()
    fast.no_padding()
    return fast


def _absent(base: str, error: OSError) -> CheckpointError:
    return CheckpointError(f"the base encoder {base!r} is neither a folder nor in the local cache: {error}")
