"""Reading from left to right: each token is encoded once, what came before is kept as keys and values.

The provisional score of a sentence must not wait for the sentences after it, and must not cost
a new pass over those before it. A :class:`Reader` of a BERT body encodes the tokens of a new
sentence (which see each other and everything before them) and keeps their keys and values for
the sentences to come, as decoders do (Pope et al. 2022, arXiv 2211.05102). The body was trained
on whole windows; that earlier tokens have not seen later ones is what makes the score
provisional. Several streams are read in one pass: the linear layers see all their tokens side by
side, without padding; attention goes stream by stream.

Bodies of other kinds have no such path: their sentences are read anew, as short windows with the
neighbours left of them (:mod:`cot_probe.live_trace`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cot_probe.encoder import Encoder

_ROWS = 16
"""Rows that matrices are laid out for: about a sentence."""
_ROUND, _MANY, _ROUND_OF_MANY = 8, 64, 64
"""Passes have a multiple of so many rows; those of many rows a coarser one: kernels are kept for each number."""


class Cache:
    """Keys and values of the tokens that one stream's window holds so far.

    ``keys`` and ``values`` are ``(n_layers, n_heads, max_tokens, head_width)``. A reading writes from its
    ``start`` on: what stood there is gone.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Blocks of tokens to read from position ``start`` of ``cache`` on.

    A token sees its own block whole, the blocks before it, and what the cache holds before
    ``start``: so it makes no difference whether blocks are read together or one by one.
    """

    cache: Cache
    start: int
    blocks: tuple[tuple[int, ...], ...]
    types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens to read."""
        return len(self.types)


def can_read(encoder: Encoder) -> bool:
    """Whether the body is of the kind that :class:`Reader` takes: BERT with absolute positions."""
    config = getattr(encoder.body, "config", None)
    kind = getattr(config, "position_embedding_type", "absolute") or "absolute"
    return getattr(config, "model_type", "") == "bert" and kind == "absolute"


class Reader:
    """Encodes new tokens behind cached ones.

    Args:
        encoder: whose body :func:`can_read`.
        max_tokens: the longest window.
        bf16: compute the linear layers in bfloat16.
    """

    def __init__(self, encoder: Encoder, *, max_tokens: int, bf16: bool = False) -> None:
        if not can_read(encoder):
            raise ValueError("only BERT bodies with absolute positions can be read from left to right")
        body: Any = encoder.body  # a BertModel: its parts have no declared types
        config = body.config
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._max_tokens = max_tokens
        self._heads: int = config.num_attention_heads
        self._width: int = config.hidden_size
        self._pooled = encoder.layers
        self._embeddings = body.embeddings
        self._layers = [_Layer(layer, self._dtype) for layer in body.encoder.layer[: max(encoder.layers)]]
        self._device = next(encoder.parameters()).device

    def new_cache(self) -> Cache:
        """An empty cache for one stream."""
        shape = (len(self._layers), self._heads, self._max_tokens, self._width // self._heads)
        return Cache(shape, self._dtype, self._device)

    @torch.inference_mode()
    def read(self, readings: Sequence[Reading]) -> list[Tensor]:
        """Encode; gives ``(n_tokens, d)`` for each reading: the pooled layers' states side by side.

        Raises:
            ValueError: if the tokens of a reading do not fit into its cache.
        """
        for reading in readings:
            room = self._max_tokens - reading.start
            if reading.size > room:
                raise ValueError(f"{reading.size} tokens, room for {room}: start a new cache")
        sizes = [reading.size for reading in readings]
        masks = [_mask(reading, self._device) for reading in readings]
        # Rows that nobody reads, so that few shapes occur: kernels are compiled and kept for each.
        spare = -sum(sizes) % (_ROUND if sum(sizes) <= _MANY else _ROUND_OF_MANY)
        hidden = functional.pad(self._embedded(readings), (0, 0, 0, spare))
        empty = hidden.new_zeros((spare, self._width), dtype=self._dtype)
        states = {0: hidden}
        for at, layer in enumerate(self._layers):
            projected = (torch.split(part[: sum(sizes)], sizes) for part in layer.projected(hidden))
            mixed = [
                self._attended(reading, mask, at, *parts)
                for reading, mask, *parts in zip(readings, masks, *projected, strict=True)
            ]
            hidden = layer.finished(hidden, torch.cat([*mixed, empty]))
            states[at + 1] = hidden
        pooled = torch.cat([states[layer] for layer in self._pooled], dim=-1)
        return list(torch.split(pooled[: sum(sizes)].float(), sizes))

    def _embedded(self, readings: Sequence[Reading]) -> Tensor:
        def row(values: list[int]) -> Tensor:
            return torch.tensor([values], device=self._device)

        ids = row([token for reading in readings for block in reading.blocks for token in block])
        types = row([kind for reading in readings for kind in reading.types])
        places = row([at for reading in readings for at in range(reading.start, reading.start + reading.size)])
        embedded: Tensor = self._embeddings(input_ids=ids, token_type_ids=types, position_ids=places)
        return embedded[0]

    def _attended(
        self, reading: Reading, mask: Tensor | None, layer: int, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """One stream's attention; writes its keys and values into the cache."""

        def by_head(part: Tensor) -> Tensor:
            return part.view(part.shape[0], self._heads, -1).transpose(0, 1)

        cache, begin = reading.cache, reading.start
        end = begin + reading.size
        cache.keys[layer, :, begin:end] = by_head(keys)
        cache.values[layer, :, begin:end] = by_head(values)
        mixed = functional.scaled_dot_product_attention(
            by_head(queries), cache.keys[layer, :, :end], cache.values[layer, :, :end], attn_mask=mask
        )
        return mixed.transpose(0, 1).reshape(queries.shape[0], self._width)


def _mask(reading: Reading, device: torch.device) -> Tensor | None:
    """Which of the cached and new tokens each new token sees: ``(n_tokens, start + n_tokens)``; None for all."""
    if len(reading.blocks) == 1:
        return None
    sizes = [len(block) for block in reading.blocks]
    reach = torch.tensor([end for end, size in zip(accumulate(sizes), sizes, strict=True) for _ in range(size)])
    places = torch.arange(reading.start + reading.size)
    return (places[None, :] < reading.start + reach[:, None]).to(device)


class _Layer:
    """The parts of a BERT layer, its matrices in the wanted precision and query, key and value in one."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.attention
        inner, outer = attention.self, attention.output
        self._dtype = dtype
        three = (inner.query, inner.key, inner.value)
        self._inputs = _Linear(
            torch.cat([part.weight for part in three]), torch.cat([part.bias for part in three]), dtype
        )
        self._mix = _Linear(outer.dense.weight, outer.dense.bias, dtype)
        self._mix_norm = outer.LayerNorm
        up, down = layer.intermediate.dense, layer.output.dense
        self._up = _Linear(up.weight, up.bias, dtype)
        self._act = layer.intermediate.intermediate_act_fn
        self._down = _Linear(down.weight, down.bias, dtype)
        self._norm = layer.output.LayerNorm

    def projected(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, ``(n_tokens, width)`` each."""
        return self._inputs(hidden.to(self._dtype)).chunk(3, dim=-1)

    def finished(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention: ``(n_tokens, width)`` float32."""
        hidden = self._mix_norm(self._mix(mixed).float() + hidden)
        inner = self._act(self._up(hidden.to(self._dtype)))
        done: Tensor = self._norm(self._down(inner).float() + hidden)
        return done


class _Linear:
    """A linear layer in the wanted precision, its matrix laid out beforehand where torch has that.

    Of the milliseconds of a short pass in bfloat16 a fifth goes into laying out the same matrices anew.
    The operators are those that torch's own compiler uses; results are the same to the bit.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight, self._bias = _cast(weight, dtype), _cast(bias, dtype)
        self._laid_out = dtype == torch.bfloat16 and weight.device.type == "cpu" and _can_lay_out()
        if self._laid_out:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS)

    def __call__(self, inputs: Tensor) -> Tensor:
        if self._laid_out:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
            return out
        return functional.linear(inputs, self._weight, self._bias)


@cache
def _can_lay_out() -> bool:
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).contiguous()
