"""What computes the encoder's body: chosen by what the machine has, kept to the scores of float32.

The measure is PyTorch in float32: another backend may move no score by more than
:data:`TOLERANCE` and change the tags of at most :data:`CHANGED` of the sentences. On the test
split ``benchmarks/backends.py`` measures that. Kernels differ between processors, though, and
checkpoints in how much they bear; so before it is used, a backend is compared with float32 once on
the machine at hand, on the texts of :mod:`cot_probe.proof_texts`, and what was found is kept in the
user's cache. One that goes too far is refused, and ``auto`` passes over it.
"""

import hashlib
import json
import logging
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cot_probe.calibration import decide
from cot_probe.encoder import States, TraceLogits, encode
from cot_probe.onnx_backend import cache_error, cache_folder, installed, open_body, packages
from cot_probe.onnx_graph import BUILDER, BackendError, why_not
from cot_probe.proof_texts import proof_traces

if TYPE_CHECKING:
    from cot_probe.checkpoint import Checkpoint

BACKENDS: Final = ("auto", "torch", "onnx-fp32", "onnx-int8")
TOLERANCE: Final = 0.01
"""Largest difference of any score, of a sentence or a trace, from that in float32."""
CHANGED: Final = 0.002
"""Largest share of sentences whose tags differ, at any stored operating point."""
_PROOF_SHARE: Final = 0.75
"""The largest difference among some hundred sentences is about so much of that among many thousands."""
_MAX_RECORD_BYTES: Final = 65_536
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend that was chosen.

    Attributes:
        name: ``torch``, ``onnx-fp32`` or ``onnx-int8``.
        bf16: whether torch computes in bfloat16.
        states: what gives the hidden states; None for the encoder's own body.
        why: in words, for people.
    """

    name: str
    bf16: bool = False
    states: States | None = None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """How far the scores of two passes over the same traces lie apart.

    Attributes:
        sentences: absolute differences, ``(n_sentences, n_labels)``.
        traces: the same, ``(n_traces, n_tags)``.
        sentences_changed: how many sentences have other tags, by the rate of the operating point.
        traces_changed: the same of traces.
    """

    sentences: NDArray[np.float64]
    traces: NDArray[np.float64]
    sentences_changed: dict[float, int]
    traces_changed: dict[float, int]

    @property
    def largest(self) -> float:
        """The largest difference of any score."""
        # Not Python's max, which passes over what is no number.
        return float(np.max([self.sentences.max(initial=0.0), self.traces.max(initial=0.0)]))

    @property
    def tolerable(self) -> bool:
        """Whether a backend may go so far."""
        return self.largest <= TOLERANCE and max(self.sentences_changed.values()) <= CHANGED * len(self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the comparison on this machine found: the largest difference, and sentences with other tags."""

    largest: float
    changed: int
    sentences: int

    @property
    def holds(self) -> bool:
        """Whether the backend may be used; of so few sentences one may always change."""
        return self.largest <= _PROOF_SHARE * TOLERANCE and self.changed <= max(1, CHANGED * self.sentences)


def choose_backend(checkpoint: "Checkpoint", name: str = "auto", *, bf16: bool = False) -> Backend:
    """The backend of that name; for ``auto`` the quickest that the machine has and that keeps the scores.

    Args:
        checkpoint: loaded, on its device.
        name: one of :data:`BACKENDS`.
        bf16: asks for bfloat16, which only torch computes in.

    Raises:
        BackendError: if what was asked for cannot be used here. ``auto`` always finds something.
        ValueError: if there is no such backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"no backend {name!r}: choose one of {', '.join(BACKENDS)}")
    device = next(checkpoint.encoder.parameters()).device.type
    if name == "torch" or bf16 or device != "cpu":
        if name not in {"auto", "torch"}:
            wish = "bfloat16" if bf16 else f"the device {device}"
            raise BackendError(f"{wish} needs the torch backend, {name} computes in its own way on the CPU: choose one")
        return Backend(name="torch", bf16=bf16, why="as asked for")
    if name != "auto":
        return _proved(checkpoint, name, bf16=False, why="as asked for")
    passed_over = []
    for candidate, in_bf16, why in _candidates(checkpoint):
        try:
            return _proved(checkpoint, candidate, bf16=in_bf16, why=why)
        except BackendError as error:
            passed_over.append(f"{_called(candidate, in_bf16)}: {error}")
            _LOG.info("backend %s is passed over: %s", _called(candidate, in_bf16), error)
    return Backend(name="torch", why="; ".join(["the measure of the others", *passed_over]))


def _candidates(checkpoint: "Checkpoint") -> list[tuple[str, bool, str]]:
    """Backends worth trying before torch in float32, quickest first: name, bfloat16, why.

    ``onnx-int8`` is none of them: so little of it can be in eight bits that it is hardly quicker than ``onnx-fp32``.
    """
    found = []
    if processor_flags() & {"avx512_bf16", "amx_bf16"}:
        found.append(("torch", True, "the processor multiplies in bfloat16"))
    if why_not(checkpoint.encoder) is None and installed():
        found.append(("onnx-fp32", False, "ONNX Runtime is installed"))
    return found


@cache
def processor_flags() -> frozenset[str]:
    """What the processor says it can, in the words of Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def _called(name: str, bf16: bool) -> str:
    return f"{name} in bfloat16" if bf16 else name


def _proved(checkpoint: "Checkpoint", name: str, *, bf16: bool, why: str) -> Backend:
    """A backend, once it is known to keep the scores on this machine.

    Raises:
        BackendError: if it does not, or cannot be used at all.
    """
    states = None
    if name != "torch":
        states = open_body(checkpoint.encoder, "int8" if name == "onnx-int8" else "fp32")
    proof = _known_proof(checkpoint, name, bf16, states)
    if not proof.holds:
        raise BackendError(
            f"on this machine {_called(name, bf16)} moves scores of {checkpoint.signature} by up to {proof.largest:.4f} "
            f"and changes the tags of {proof.changed} of {proof.sentences} sentences, which is too much (a score may "
            f"move by {_PROOF_SHARE * TOLERANCE:g}): use the torch backend"
        )
    return Backend(name=name, bf16=bf16, states=states, why=why)


def _known_proof(checkpoint: "Checkpoint", name: str, bf16: bool, states: States | None) -> Proof:
    """The proof in the cache; made and put there where it is missing or cannot be read.

    Raises:
        BackendError: if the cache cannot be written.
    """
    place = cache_folder() / "proofs" / f"{_proof_key(checkpoint, name, bf16)}.json"
    try:
        found = _read_proof(place)
        if found is None:
            _LOG.info("comparing %s with float32, once", _called(name, bf16))
            found = prove(checkpoint, states, bf16=bf16)
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            ours = place.with_name(f"{uuid.uuid4().hex}.tmp")
            ours.write_text(json.dumps(asdict(found)), encoding="utf-8")
            ours.replace(place)
    except OSError as error:
        raise cache_error(place.parent, error) from None
    return found


def _read_proof(place: Path) -> Proof | None:
    try:
        if place.stat().st_size > _MAX_RECORD_BYTES:
            return None
        raw = json.loads(place.read_bytes())
        return Proof(largest=float(raw["largest"]), changed=int(raw["changed"]), sentences=int(raw["sentences"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _proof_key(checkpoint: "Checkpoint", name: str, bf16: bool) -> str:
    """Of everything that the comparison depends on."""
    digest = hashlib.sha256()
    for tensor in checkpoint.encoder.state_dict().values():
        digest.update(tensor.detach().contiguous().cpu().numpy().data.cast("B"))
    versions = {"torch": str(torch.__version__)} | ({} if name == "torch" else packages())
    machine = (platform.machine(), *sorted(processor_flags()))
    parts = (checkpoint.digest, digest.hexdigest(), name, bf16, BUILDER, *sorted(versions.items()), machine)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def prove(checkpoint: "Checkpoint", states: States | None, *, bf16: bool = False) -> Proof:
    """Compare a backend with float32 on the texts kept for that."""
    from cot_probe.tagger import Tagger, sentences_of

    traces = proof_traces()
    sentences = [sentences_of(trace) for trace in traces]
    tagger = Tagger(checkpoint, point=checkpoint.calibration.default)
    windows, lengths = tagger.windows(traces, sentences), [len(some) for some in sentences]
    padding = tagger.special.padding
    reference = encode(checkpoint.encoder, windows, lengths, padding=padding)
    found = encode(checkpoint.encoder, windows, lengths, padding=padding, bf16=bf16, states=states)
    gaps = gaps_between(checkpoint, reference, found)
    return Proof(largest=gaps.largest, changed=max(gaps.sentences_changed.values()), sentences=len(gaps.sentences))


def gaps_between(checkpoint: "Checkpoint", reference: Sequence[TraceLogits], found: Sequence[TraceLogits]) -> Gaps:
    """Compare the logits of the same traces from two backends, as scores and as tags at every operating point."""
    calibration = checkpoint.calibration
    kept = [at for at, logits in enumerate(reference) if len(logits.sentences)]

    def scores(logits: Sequence[TraceLogits]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sentences = calibration.sentence_scores(np.concatenate([logits[at].sentences for at in kept]))
        return sentences, np.array([list(calibration.trace_scores(logits[at].trace).values()) for at in kept])

    (sentences, traces), (other_sentences, other_traces) = scores(reference), scores(found)
    labels, tags = calibration.taxonomy.labels, calibration.taxonomy.tags
    return Gaps(
        sentences=np.abs(sentences - other_sentences),
        traces=np.abs(traces - other_traces),
        sentences_changed={
            p.fpr: _changed(sentences, other_sentences, labels, p.sentences) for p in calibration.points
        },
        traces_changed={p.fpr: _changed(traces, other_traces, tags, p.traces) for p in calibration.points},
    )


def _changed(
    one: NDArray[np.float64], other: NDArray[np.float64], names: Sequence[str], thresholds: Mapping[str, float]
) -> int:
    rows = zip(one.tolist(), other.tolist(), strict=True)
    pairs = ((dict(zip(names, a, strict=True)), dict(zip(names, b, strict=True))) for a, b in rows)
    return sum(decide(a, thresholds, names) != decide(b, thresholds, names) for a, b in pairs)
