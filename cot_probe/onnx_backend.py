"""A BERT body in ONNX Runtime, its graph built once and kept in the user's cache.

A file of the cache is read whole and checked against its SHA-256 before anything is made of it, and
it may hold nothing but what :mod:`cot_probe.onnx_graph` writes: no other operator, no data elsewhere.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from cot_probe.onnx_graph import BUILDER, BackendError, BertWeights, Precision, bert_weights, check_graph, onnx_graph

if TYPE_CHECKING:
    from cot_probe.encoder import Batch, Encoder

CACHE_VARIABLE: Final = "COT_PROBE_CACHE"
_MAX_RECORD_BYTES: Final = 65_536
_ABANDONED_S: Final = 3_600.0
"""Age after which what a killed build left is removed."""
_LOG: Final = logging.getLogger(__name__)


class OnnxBody:
    """A session: a batch of windows to the hidden states of the pooled layers.

    Args:
        model: a graph of :func:`onnx_graph`.
        threads: of each pass (default: as many as torch takes now, which heeds ``OMP_NUM_THREADS``).
    """

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        self.threads = options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Between passes the processor belongs to the tokenizer and the heads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, batch: "Batch") -> Sequence[Tensor]:
        """``(n_windows, n_tokens, width)`` float32 for each pooled layer, in their order."""
        feeds = {"ids": batch.ids.numpy(), "types": batch.types.numpy(), "mask": batch.mask.numpy()}
        return [torch.from_numpy(state) for state in self._session.run(None, feeds)]


def open_body(encoder: "Encoder", precision: Precision, *, threads: int | None = None) -> OnnxBody:
    """The encoder's body in ONNX Runtime, its graph from the cache or built into it.

    Raises:
        BackendError: if a package is missing, the body is no BERT, or the cache cannot be used.
    """
    weights = bert_weights(encoder)
    key = graph_key(weights, precision)
    model = kept(cache_folder() / "onnx" / key, lambda: onnx_graph(weights, precision))
    return OnnxBody(model, threads=threads)


def graph_key(weights: BertWeights, precision: Precision) -> str:
    """The name of a graph in the cache: of its weights, its precision, this builder and its packages."""
    parts = (weights.digest, precision, BUILDER, *sorted(packages().items()))
    return f"{precision}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"


def packages() -> dict[str, str]:
    """Versions of the packages that build and run graphs.

    Raises:
        BackendError: if one is missing.
    """
    found = {}
    for name in ("onnx", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise BackendError(
                f"the package {name} is not installed: pip install 'cot_probe[onnx]', or use the torch backend"
            ) from None
    return found


def installed() -> bool:
    """Whether the packages are there."""
    try:
        return bool(packages())
    except BackendError:
        return False


# The cache.


def cache_folder() -> Path:
    """``$COT_PROBE_CACHE``, else ``cot_probe`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``.

    Raises:
        BackendError: if there is no home folder either.
    """
    own = os.environ.get(CACHE_VARIABLE, "")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # others are to be ignored, says the XDG specification
        return Path(shared) / "cot_probe"
    try:
        return Path.home() / ".cache" / "cot_probe"
    except RuntimeError:
        raise BackendError(f"no home folder to keep built models in: set {CACHE_VARIABLE} to a folder") from None


def kept(place: Path, make: Callable[[], bytes]) -> bytes:
    """The model in folder ``place``; made, checked and put there first where it is missing or damaged.

    Several processes may do so at once: each writes a folder of its own, and the first to rename
    it to ``place`` is the one whose model the others find.

    Raises:
        BackendError: if the folder cannot be read or written.
    """
    try:
        model = _sound(place)
        if model is None:
            _LOG.info("building %s, once", place)
            model = make()
            check_graph(model)
            _put(place, model)
    except OSError as error:
        raise cache_error(place.parent, error) from None
    return model


def cache_error(folder: Path, error: OSError) -> BackendError:
    """What to say where the cache cannot be read or written."""
    return BackendError(
        f"the cache {folder} cannot be used ({error.strerror or error}): set {CACHE_VARIABLE} to a folder that can be "
        "written, or use the torch backend"
    )


def _sound(place: Path) -> bytes | None:
    """The model, if it is there and what its record says."""
    if not place.is_dir():
        return None
    try:
        if (place / "record.json").stat().st_size > _MAX_RECORD_BYTES:
            raise ValueError("its record is too large")
        record = json.loads((place / "record.json").read_bytes())
        size, expected = int(record["bytes"]), str(record["sha256"])
        found = (place / "model.onnx").stat().st_size
        if found != size:
            raise ValueError(f"{found} bytes, expected {size}")
        model = (place / "model.onnx").read_bytes()
        if hashlib.sha256(model).hexdigest() != expected:
            raise ValueError("its SHA-256 is not the recorded one")
        check_graph(model)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError) as error:
        _LOG.warning("%s is damaged (%s) and is built again", place, error)
        return None
    return model


def _put(place: Path, model: bytes) -> None:
    """Write the model beside ``place``, then rename: it is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_abandoned(place.parent)
    ours = place.with_name(f"{place.name}.{uuid.uuid4().hex}.tmp")
    record = {"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest(), "builder": BUILDER}
    try:
        ours.mkdir(mode=0o700)
        _write(ours / "model.onnx", model)
        _write(ours / "record.json", json.dumps(record | packages(), indent=1, sort_keys=True).encode())
        _sync(ours)
        _rename(ours, place)
        _sync(place.parent)
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _rename(ours: Path, place: Path) -> None:
    for _ in range(10):
        try:
            os.rename(ours, place)
            return
        except OSError:
            # Something stands there: another process was quicker, or it is what was found damaged.
            if _sound(place) is not None:
                return
            aside = place.with_name(f"{place.name}.{uuid.uuid4().hex}.tmp")
            try:
                os.rename(place, aside)
            except FileNotFoundError:
                continue
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)
    raise OSError(f"{place} cannot be replaced")


def _remove_abandoned(folder: Path) -> None:
    for left in folder.glob("*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and need not be
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
