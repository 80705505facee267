"""A BERT body as an ONNX graph, written node by node from the merged weights.

Standard operators, but for eight-bit matrices: what can be fused, ONNX Runtime fuses when it opens
the graph. It takes ``ids``, ``types`` and ``mask``, ``(n_windows, n_tokens)`` int64, any number and
any length, and gives the hidden states that sentences are pooled from; layers above the deepest of
these are left out.

In ``int8`` the matrices of the last layer (:data:`INT8_LAYERS`) are in eight bits, a scale for every
:data:`BLOCK` weights, and the tokens that meet them are quantised likewise, each for itself: the states
of a window do not depend on the windows beside it. In earlier layers eight bits move scores too far:
what goes astray there, all later layers read. One scale for all tokens of a pass (ONNX Runtime's
dynamic quantisation) does not do either; ``benchmarks/backends.py --rejected`` shows both.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cot_probe.encoder import Encoder

BUILDER: Final = "2"
"""Version of the graphs that this module writes: those of another are not read."""
Precision = Literal["fp32", "int8"]
INT8_LAYERS: Final = 1
BLOCK: Final = 16
"""Weights, and numbers of a token, that share a scale."""
_OPSET: Final = 20
_FLOAT: Final = 1
"""ONNX's code of float32."""
_IR_VERSION: Final = 9
_CONTRIB: Final = "com.microsoft"
_OPERATORS: Final = frozenset(
    {
        *(("", kind) for kind in ("Add", "Cast", "Gather", "Gelu", "Identity", "LayerNormalization", "MatMul", "Mul")),
        *(("", kind) for kind in ("Reshape", "Shape", "Slice", "Softmax", "Split", "Sub", "Transpose", "Unsqueeze")),
        (_CONTRIB, "MatMulNBits"),
    }
)
_PLAIN_ATTRIBUTES: Final = frozenset({1, 2, 3, 6, 7, 8})
"""ONNX's codes of floats, integers, strings, and lists of these."""
_HIDDEN: Final = 10_000.0
"""Taken from the attention scores of padding: its weight is then exactly 0 in float32."""


class BackendError(ValueError):
    """A backend cannot be used here; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BertWeights:
    """What the graph is written from: the part of a BERT body up to the deepest pooled layer.

    Attributes:
        arrays: float32, by the names of Hugging Face's ``BertModel``.
        layers: the hidden states wanted, 0 being the embedding.
        heads: attention heads.
        epsilon: of the layer norms.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    layers: tuple[int, ...]
    heads: int
    epsilon: float

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        digest = hashlib.sha256(json.dumps([self.layers, self.heads, self.epsilon]).encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"\n{name} {array.shape} ".encode())
            digest.update(array.data.cast("B"))
        return digest.hexdigest()


def why_not(encoder: "Encoder") -> str | None:
    """Why no graph can be written of an encoder's body; None where one can."""
    config: Any = getattr(encoder.body, "config", None)
    kind = getattr(config, "model_type", type(encoder.body).__name__)
    if kind != "bert":
        return f"the body is {kind}, and only BERT bodies are written as ONNX graphs"
    position = getattr(config, "position_embedding_type", "absolute") or "absolute"
    if position != "absolute":
        return f"the body has {position} positions, expected absolute ones"
    if config.hidden_act != "gelu":
        return f"the body's activation is {config.hidden_act}, expected gelu"
    if config.is_decoder or config.type_vocab_size < 2:
        return "the body is a decoder or knows no token types, expected an encoder that tells two types apart"
    if config.hidden_size % BLOCK or config.intermediate_size % BLOCK:
        return f"the body's widths ({config.hidden_size}, {config.intermediate_size}) are no multiples of {BLOCK}"
    return None


def bert_weights(encoder: "Encoder") -> BertWeights:
    """The weights of an encoder's body as they are now, adapters merged.

    Raises:
        BackendError: for bodies other than BERT.
    """
    reason = why_not(encoder)
    if reason is not None:
        raise BackendError(f"{reason}: use the torch backend")
    deepest = max(encoder.layers)
    arrays = {
        name: np.ascontiguousarray(tensor.detach().float().cpu().numpy())
        for name, tensor in encoder.body.state_dict().items()
        if name.startswith("embeddings.") or _layer_of(name) < deepest
        if tensor.is_floating_point()
    }
    config: Any = encoder.body.config
    return BertWeights(
        arrays=arrays, layers=encoder.layers, heads=config.num_attention_heads, epsilon=config.layer_norm_eps
    )


def _layer_of(name: str) -> float:
    found = re.match(r"encoder\.layer\.(\d+)\.", name)
    return int(found[1]) if found else float("inf")


def onnx_graph(weights: BertWeights, precision: Precision, *, int8_from: int | None = None) -> bytes:
    """The graph; the same weights give the same bytes.

    Args:
        weights: of the body.
        precision: of its matrices.
        int8_from: the first layer, counted from 0, whose matrices are in eight bits in ``int8`` (default: the last
            :data:`INT8_LAYERS`, as far as they lie behind the first pooled state).

    Raises:
        BackendError: if the package onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise BackendError(f"{error}: pip install 'cot_probe[onnx]', or use the torch backend") from None
    deepest = max(weights.layers)
    if precision == "fp32":
        int8_from = deepest
    elif int8_from is None:
        int8_from = max(min(weights.layers), deepest - INT8_LAYERS)
    graph = _Graph(weights)
    states = [graph.embedded()]
    bias = graph.attention_bias()
    for at in range(deepest):
        states.append(graph.layer(at, states[-1], bias, int8=at >= int8_from))
    width = weights.arrays["embeddings.LayerNorm.weight"].shape[0]
    outputs = []
    for number, layer in enumerate(weights.layers):
        graph.add("Identity", states[layer], out=f"states_{number}")
        outputs.append(
            helper.make_tensor_value_info(f"states_{number}", TensorProto.FLOAT, ["windows", "tokens", width])
        )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["windows", "tokens"])
        for name in ("ids", "types", "mask")
    ]
    made = helper.make_graph(graph.nodes, "body", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="cot_probe")
    written: bytes = model.SerializeToString(deterministic=True)
    return written


class _Graph:
    """A graph while it is written; values and constants go by their names."""

    def __init__(self, weights: BertWeights) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._weights = weights

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """A constant, written once however often it is asked for."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, name: str) -> str:
        """A weight as it is."""
        return self.constant(name, self._weights.arrays[name])

    def add(self, kind: str, *inputs: str, out: str | Sequence[str] = "", domain: str = "", **attributes: Any) -> str:
        """A node; gives the name of its (first) output."""
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        outputs = [out or name] if isinstance(out, str) else list(out)
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def embedded(self) -> str:
        """Words, types and positions, normalised."""
        zero = self.constant("zero", np.zeros(1, dtype=np.int64))
        tokens = self.add("Shape", "ids", start=1, end=2)
        places = self.add("Slice", self._table("position"), zero, tokens, zero)
        words = self.add("Gather", self._table("word"), "ids")
        types = self.add("Gather", self._table("token_type"), "types")
        parts = (self.add("Cast", part, to=_FLOAT) for part in (words, types, places))
        return self._normed(
            "embeddings.LayerNorm", self.add("Add", self.add("Add", next(parts), next(parts)), next(parts))
        )

    def _table(self, kind: str) -> str:
        """An embedding table: in half precision where that holds the same numbers, as in bases stored so."""
        name = f"embeddings.{kind}_embeddings.weight"
        table = self._weights.arrays[name]
        with np.errstate(over="ignore"):
            half = table.astype(np.float16)
        return self.constant(name, half if np.array_equal(half.astype(np.float32), table) else table)

    def attention_bias(self) -> str:
        """What is added to attention scores: ``(n_windows, 1, 1, n_tokens)``, 0 for tokens."""
        one = self.constant("one", np.array(1, dtype=np.float32))
        padding = self.add("Sub", self.add("Cast", "mask", to=_FLOAT), one)
        bias = self.add("Mul", padding, self.constant("hidden", np.array(_HIDDEN, dtype=np.float32)))
        return self.add("Unsqueeze", bias, self.constant("axes", np.array([1, 2], dtype=np.int64)))

    def layer(self, at: int, hidden: str, bias: str, *, int8: bool) -> str:
        """One layer of the body."""
        name = f"encoder.layer.{at}"
        three = tuple(f"{name}.attention.self.{part}" for part in ("query", "key", "value"))
        mixed = self._attended(three, self._linear(three, hidden, int8=int8), bias)
        mixed = self._linear((f"{name}.attention.output.dense",), mixed, int8=int8)
        hidden = self._normed(f"{name}.attention.output.LayerNorm", self.add("Add", mixed, hidden))
        inner = self._linear((f"{name}.intermediate.dense",), hidden, int8=int8)
        inner = self.add("Gelu", inner, approximate="none")
        inner = self._linear((f"{name}.output.dense",), inner, int8=int8)
        return self._normed(f"{name}.output.LayerNorm", self.add("Add", inner, hidden))

    def _attended(self, names: tuple[str, ...], projected: str, bias: str) -> str:
        """Attention, from queries, keys and values side by side, which go by these names."""
        outputs = [f"{name}.states" for name in names]
        self.add("Split", projected, out=outputs, axis=-1, num_outputs=3)
        width = self._weights.arrays[f"{names[0]}.bias"].shape[0]
        heads = self._weights.heads
        by_head = self.constant("by_head", np.array([0, 0, heads, width // heads], dtype=np.int64))
        queries, keys, values = (
            self.add("Transpose", self.add("Reshape", part, by_head), perm=perm)
            for part, perm in zip(outputs, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scale = self.constant("scale", np.array((width // heads) ** -0.5, dtype=np.float32))
        scores = self.add("Add", self.add("Mul", self.add("MatMul", queries, keys), scale), bias)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), values)
        side_by_side = self.constant("side_by_side", np.array([0, 0, width], dtype=np.int64))
        return self.add("Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), side_by_side)

    def _normed(self, name: str, hidden: str) -> str:
        scale, offset = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", hidden, scale, offset, axis=-1, epsilon=self._weights.epsilon)

    def _linear(self, names: tuple[str, ...], hidden: str, *, int8: bool) -> str:
        """A matrix, or several side by side, and what is added."""
        arrays = self._weights.arrays
        matrix = np.concatenate([arrays[f"{name}.weight"] for name in names])
        bias = self.constant(f"{names[0]}.bias", np.concatenate([arrays[f"{name}.bias"] for name in names]))
        if not int8:
            return self.add("Add", self.add("MatMul", hidden, self.constant(f"{names[0]}.weight", matrix.T)), bias)
        codes, scales = quantised(matrix)
        inputs = (self.constant(f"{names[0]}.codes", codes), self.constant(f"{names[0]}.scales", scales), "", "", bias)
        outputs, width = matrix.shape
        return self.add(
            *("MatMulNBits", hidden, *inputs),
            domain=_CONTRIB,
            K=width,
            N=outputs,
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,
        )


def quantised(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Eight-bit codes ``(n_out, n_blocks, BLOCK)`` and scales ``(n_out, n_blocks)``: ``(code - 128) * scale``."""
    blocks = matrix.reshape(len(matrix), -1, BLOCK)
    scales = np.abs(blocks).max(axis=2) / 127
    scales[scales == 0] = 1
    codes = np.rint(blocks / scales[:, :, None]).clip(-127, 127) + 128
    return codes.astype(np.uint8), scales.astype(np.float32)


def check_graph(model: bytes) -> None:
    """Refuse what :func:`onnx_graph` does not write.

    Raises:
        ValueError: naming what it is.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.load_model_from_string(model)
    except DecodeError:
        raise ValueError("it is no ONNX model") from None
    graph = parsed.graph
    if parsed.functions or graph.sparse_initializer or parsed.training_info:
        raise ValueError("it holds functions, sparse tensors or training steps")
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise ValueError(f"tensor {tensor.name[:80]!r} lies in another file")
    for node in graph.node:
        if (node.domain, node.op_type) not in _OPERATORS:
            raise ValueError(f"it holds an operator {node.op_type[:80]!r}")
        if any(part.type not in _PLAIN_ATTRIBUTES for part in node.attribute):
            raise ValueError(f"an operator {node.op_type!r} holds a tensor or a graph")
