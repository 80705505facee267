"""A BERT body in plain torch: the arithmetic of ``transformers.BertModel`` without its imports.

The modelling half of ``transformers`` takes longer to import than the shipped checkpoint takes to
load and to give its first result (benchmarks/README.md, start-up). BERT (Devlin et al. 2019, arXiv
1810.04805) is small enough to stand here: modules and parameters have the names that they have
there, so weights, adapters and everything that walks over the parts fit both, and the hidden states
are the same (``tests/test_bert.py``). Only what the folder of a base really holds is taken: for
anything else :func:`load_bert` gives None, and ``transformers`` loads it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

_SAID_BY_CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""What the configuration of a body must say to be built here; where it says nothing, that is what it means."""


class BodyOutput(NamedTuple):
    """``hidden_states``: the embedding and the states after each layer, ``(n_windows, n_tokens, width)`` each."""

    hidden_states: tuple[Tensor, ...]


class _Embeddings(nn.Module):
    """Word, token type and position embeddings, added and normalised."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """``(n_windows, n_tokens)`` ids to ``(n_windows, n_tokens, width)``; positions count from 0 if not given."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        normed: Tensor = self.LayerNorm(words + self.position_embeddings(position_ids))
        return normed


class _SelfAttention(nn.Module):
    """Queries, keys and values of one layer, and what attention makes of them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        queries, keys, values = (
            part(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = _attend(queries, keys, values, mask)
        return mixed.transpose(1, 2).flatten(2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention, ``(n_windows, n_heads, n_tokens, width)`` each; trained in bfloat16 on a CPU, in float32.

    There the backward pass is quicker in float32; in bfloat16 it is a third of a training step.
    """
    if not (torch.is_grad_enabled() and queries.device.type == "cpu" and queries.dtype is torch.bfloat16):
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        mixed = functional.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), attn_mask=mask)
    return mixed.to(queries.dtype)


class _Output(nn.Module):
    """A linear layer, what went in before added, normalised."""

    def __init__(self, width_in: int, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(hidden) + before)
        return normed


class _Attention(nn.Module):
    """Self-attention and its output."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config.hidden_size, config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.output(self.self(hidden, mask), hidden)
        return out


class _Intermediate(nn.Module):
    """The wide half of the feed-forward part."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = functional.gelu

    def forward(self, hidden: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(hidden))


class _Layer(nn.Module):
    """Attention, then the feed-forward part."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.intermediate_size, config)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        mixed = self.attention(hidden, mask)
        out: Tensor = self.output(self.intermediate(mixed), mixed)
        return out


class _Layers(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        states = [hidden]
        for layer in self.layer:
            states.append(layer(states[-1], mask))
        return tuple(states)


class BertBody(nn.Module):
    """BERT without pooler and without dropout.

    Args:
        config: the ``transformers`` configuration of a body that :func:`can_build`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings, under the name that bodies of ``transformers`` have for them."""
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        output_hidden_states: bool = True,
    ) -> BodyOutput:
        """Ids ``(n_windows, n_tokens)`` to the states; where ``attention_mask`` is 0 is padding that nothing sees.

        ``output_hidden_states`` is there for bodies of ``transformers``: here they always come out.
        """
        whole = attention_mask is None or bool(attention_mask.all())
        mask = None if attention_mask is None or whole else attention_mask[:, None, None, :].bool()
        hidden = self.embeddings(input_ids, token_type_ids)
        return BodyOutput(hidden_states=self.encoder(hidden, mask))


def can_build(config: Any) -> bool:
    """Whether a configuration describes a body that :class:`BertBody` is."""
    said = all((getattr(config, name, None) or meant) == meant for name, meant in _SAID_BY_CONFIG.items())
    return said and config.hidden_size % config.num_attention_heads == 0


def load_bert(folder: str | Path, config: Any) -> BertBody | None:
    """The body whose weights lie in a folder, in float32; None where this is not the place to load it.

    Nothing is made up: a tensor too few, too many or of another shape gives None. A pooler is left aside.
    """
    weights = Path(folder) / "model.safetensors"
    if not (can_build(config) and weights.is_file()):
        return None
    with torch.random.fork_rng(devices=[]):  # the random values that modules begin with are nobody's: draw them unseen
        body = BertBody(config)
    state = {name: tensor.float() for name, tensor in load_file(weights).items() if not _is_left_aside(name)}
    if _shapes(state) != _shapes(body.state_dict()):
        return None
    body.load_state_dict(state, assign=True)
    return body.eval()


def _is_left_aside(name: str) -> bool:
    return name.startswith("pooler.") or name == "embeddings.position_ids"


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
