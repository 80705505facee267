"""A checkpoint folder to encoder, tokenizer and calibration, and back.

A checkpoint is light: a low-rank adapter (LoRA, Hu et al. 2021) and the heads, in
safetensors, beside JSON. The frozen base lies in a folder of its own, once. Every file is
checked against ``MANIFEST.json`` (SHA-256) before it is read; nothing is unpickled and no
code comes from a checkpoint.
"""

import dataclasses
import filecmp
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cot_probe.base import body_width, check_length, load_body, load_tokenizer, resolve_base, shipped_folders
from cot_probe.calibration import Calibration, calibration_from_json, calibration_to_json
from cot_probe.encoder import Encoder, LengthCorrection, keep_float32
from cot_probe.familiarity import Familiarity, familiarity_from_json, familiarity_to_json
from cot_probe.first_stage import ABOUT_FILE, WEIGHTS_FILE
from cot_probe.manifest import MANIFEST, read_json, verify, write_json, write_manifest
from cot_probe.manifest import CheckpointError as CheckpointError
from cot_probe.taxonomy import TAXONOMY, Taxonomy, TaxonomyError, taxonomy_from_json, taxonomy_to_json
from cot_probe.tokens import BaseTokenizer
from cot_probe.windows import WindowLayout

FORMATS: Final = ("cot_probe.checkpoint/1", "cot_probe.checkpoint/2")
"""With the second a correction for length is to be heeded, which readers of the first do not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What is needed to build the encoder around a base; stored as ``config.json``.

    ``base`` is a folder name beside the checkpoint, a path, or a Hugging Face name that is
    already in the local cache. ``layers`` are the hidden states that sentences are pooled from.
    Without ``length`` nothing is taken off the logits of long traces.
    """

    name: str
    base: str
    layout: WindowLayout
    layers: tuple[int, ...]
    hidden: int = 192
    lora_rank: int = 0
    lora_alpha: float = 0.0
    length: LengthCorrection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint: everything a tagger needs.

    ``digest`` identifies it: the SHA-256 of its manifest. Without ``familiarity`` no trace is
    marked unfamiliar for its words, only for unreadable stretches.
    """

    config: EncoderConfig
    encoder: Encoder
    tokenizer: BaseTokenizer
    calibration: Calibration
    digest: str
    familiarity: Familiarity | None = None

    @property
    def signature(self) -> str:
        """Name and digest, as written beside every result."""
        return f"{self.config.name}@{self.digest[:12]}"

    @property
    def taxonomy(self) -> Taxonomy:
        """The labels and tags that it scores."""
        return self.calibration.taxonomy


def default_checkpoint() -> Path:
    """The release checkpoint: from the installed package, else from the clone around it.

    Raises:
        CheckpointError: if neither has one.
    """
    for folder in shipped_folders():
        pointer = folder / "default.json"
        if pointer.is_file():
            return folder / str(json.loads(pointer.read_text())["checkpoint"])
    raise CheckpointError("no release checkpoint in this installation: reinstall cot_probe, or give a checkpoint path")


def load_checkpoint(path: str | Path | None = None, *, device: str = "cpu") -> Checkpoint:
    """Load a checkpoint folder (the release checkpoint for None).

    Raises:
        CheckpointError: if files are missing or altered, or the taxonomy is another.
    """
    folder = Path(path) if path is not None else default_checkpoint()
    digest = verify(folder)
    raw = read_json(folder / "config.json")
    taxonomy = _taxonomy(raw, folder)
    config = _config(raw, folder, taxonomy)
    base = resolve_base(config.base, beside=folder)
    check_length(base, config.layout)
    encoder = Encoder(
        load_body(base),
        width=body_width(base),
        layers=config.layers,
        hidden=config.hidden,
        n_labels=len(taxonomy.labels),
        n_kinds=len(taxonomy.kinds),
    )
    if config.lora_rank:
        merge_lora(encoder, load_file(folder / "adapter.safetensors"), config)
    keep_float32(encoder.body)
    heads = load_file(folder / "heads.safetensors")
    _fill_heads(encoder, heads, folder)
    encoder.trace_head.length = config.length
    calibration = _load_calibration(folder, taxonomy)
    return Checkpoint(
        config=config,
        encoder=encoder.to(device).eval(),
        tokenizer=load_tokenizer(base),
        calibration=calibration,
        digest=digest,
        familiarity=_load_familiarity(folder),
    )


def checkpoint_taxonomy(folder: Path) -> Taxonomy:
    """The taxonomy of a checkpoint folder, without loading its weights.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    return _taxonomy(read_json(folder / "config.json"), folder)


def checkpoint_calibration(folder: Path) -> Calibration:
    """Scalings and thresholds of a checkpoint folder, without loading its weights.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    return _load_calibration(folder, checkpoint_taxonomy(folder))


def _load_calibration(folder: Path, taxonomy: Taxonomy) -> Calibration:
    path = folder / "calibration.json"
    raw = read_json(path)
    try:
        return calibration_from_json(raw, taxonomy)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}. Calibrate the checkpoint again.") from None


def _load_familiarity(folder: Path) -> Familiarity | None:
    path = folder / "familiarity.json"
    return familiarity_from_json(read_json(path)) if path.is_file() else None


def save_checkpoint(
    folder: Path,
    *,
    config: EncoderConfig,
    adapter: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
    calibration: Calibration,
    familiarity: Familiarity | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Write a checkpoint folder and return its digest.

    Args:
        folder: made if missing.
        config: as loaded again.
        adapter: LoRA matrices by name (``<module>.lora_A`` / ``.lora_B``); may be empty.
        heads: the state of ``sentence_head`` and ``trace_head``.
        calibration: scalings and thresholds; a taxonomy of its own is written into the config.
        familiarity: the reference for unfamiliar text.
        extra: further text files by name (metrics.json, README.md).
    """
    folder.mkdir(parents=True, exist_ok=True)
    taxonomy = calibration.taxonomy
    about: dict[str, Any] = {
        "format": FORMATS[config.length is not None],
        "taxonomy": taxonomy.version,
        "labels": list(taxonomy.labels),
        "kinds": list(taxonomy.kinds),
    }
    if taxonomy != TAXONOMY:
        about["own_taxonomy"] = taxonomy_to_json(taxonomy)
    write_json(folder / "config.json", about | dataclasses.asdict(config))
    if adapter:
        save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "adapter.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in heads.items()}, folder / "heads.safetensors")
    write_json(folder / "calibration.json", calibration_to_json(calibration))
    if familiarity is not None:
        write_json(folder / "familiarity.json", familiarity_to_json(familiarity))
    for name, text in (extra or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return write_manifest(folder)


def check_new_folder(source: Path, folder: Path) -> None:
    """Check, before any work, that :func:`save_recalibrated` can write ``folder`` and that it will load.

    Raises:
        CheckpointError: if ``source`` is damaged, if something lies in ``folder`` already, or if the
            base would not be found from there.
    """
    verify(source)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not an empty folder: choose a new one, nothing is overwritten")
    base = str(read_json(source / "config.json")["base"])
    old, new = resolve_base(base, beside=source), resolve_base(base, beside=folder)
    if Path(old).resolve() == Path(new).resolve() or _same_files(Path(old), Path(new)):
        return
    beside = folder.resolve().parent / base
    if Path(new).resolve() == beside:
        raise CheckpointError(f"{beside} is another base than {old}, which {source} needs: choose a folder elsewhere")
    raise CheckpointError(
        f"a checkpoint in {folder} would not find its base {base}, which lies in {old}: "
        f"choose a new folder in {source.resolve().parent}, or copy {old} to {beside} first"
    )


def save_recalibrated(
    source: Path, folder: Path, *, calibration: Calibration, note: str, name: str | None = None
) -> str:
    """Write a checkpoint again under another calibration; return the new digest.

    Config and weights are copied byte for byte (the config's name apart, where one is given).
    ``metrics.json`` is left out: its figures are of other thresholds; so is the first stage, which was
    calibrated for these.

    Args:
        source: a checkpoint folder, checked against its manifest.
        folder: new or empty; see :func:`check_new_folder`.
        calibration: the new one.
        note: becomes the first line of the model card, where there is one.
        name: name in results (default: the old one).
    """
    check_new_folder(source, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in read_json(source / MANIFEST):
        if file not in {"metrics.json", "calibration.json", WEIGHTS_FILE, ABOUT_FILE}:
            shutil.copyfile(source / file, folder / file)
    card = folder / "README.md"
    if card.is_file():
        card.write_text(f"{note}\n\n{card.read_text(encoding='utf-8')}", encoding="utf-8")
    if name is not None:
        write_json(folder / "config.json", read_json(folder / "config.json") | {"name": name})
    write_json(folder / "calibration.json", calibration_to_json(calibration))
    return write_manifest(folder)


def merge_lora(encoder: Encoder, adapter: Mapping[str, Tensor], config: EncoderConfig) -> None:
    """Add ``alpha / rank * B @ A`` to each adapted weight, in place."""
    modules = dict(encoder.body.named_modules())
    for name, a in adapter.items():
        module_name, _, part = name.rpartition(".")
        if part != "lora_A":
            continue
        module = modules.get(module_name)
        if not isinstance(module, torch.nn.Linear):
            raise CheckpointError(f"the adapter changes {module_name}, which the base {config.base} does not have")
        b = adapter[f"{module_name}.lora_B"]
        with torch.no_grad():
            module.weight += (config.lora_alpha / config.lora_rank) * (b.float() @ a.float())


def _fill_heads(encoder: Encoder, heads: Mapping[str, Tensor], folder: Path) -> None:
    own = {name: tensor.shape for name, tensor in encoder.state_dict().items() if not name.startswith("body.")}
    if own != {name: tensor.shape for name, tensor in heads.items()}:
        raise CheckpointError(
            f"{folder}: heads.safetensors has other tensors than this version's heads for its taxonomy: retrain"
        )
    encoder.load_state_dict({name: tensor.float() for name, tensor in heads.items()}, strict=False)


def _config(raw: Mapping[str, Any], folder: Path, taxonomy: Taxonomy) -> EncoderConfig:
    plain = {field.name for field in dataclasses.fields(EncoderConfig)} - {"layout", "layers", "length"}
    try:
        return EncoderConfig(
            layout=WindowLayout(**raw["layout"]),
            layers=tuple(raw["layers"]),
            length=_length(raw.get("length"), len(taxonomy.labels)),
            **{name: raw[name] for name in plain},
        )
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error} is missing. Fetch the checkpoint again.") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}. Fetch the checkpoint again.") from None


def _length(raw: Mapping[str, Any] | None, n_labels: int) -> LengthCorrection | None:
    """The correction in a config, checked.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    if raw is None:
        return None
    typical, longest, slopes = float(raw["typical"]), float(raw["longest"]), tuple(map(float, raw["slopes"]))
    if not 1 <= typical <= longest < math.inf or len(slopes) != n_labels or not all(0 <= x < math.inf for x in slopes):
        raise ValueError(
            f"length is {dict(raw)}, expected 1 <= typical <= longest and a slope of 0 or more for each of {n_labels} "
            "labels"
        )
    return LengthCorrection(typical=typical, longest=longest, slopes=slopes)


def _taxonomy(raw: Mapping[str, Any], folder: Path) -> Taxonomy:
    """The taxonomy that a config holds; without one, the built-in, if the config fits that."""
    if raw.get("format") not in FORMATS:
        raise CheckpointError(f"{folder}: format is {raw.get('format')!r}, this version reads {' and '.join(FORMATS)}")
    if "own_taxonomy" in raw:
        try:
            return taxonomy_from_json(raw["own_taxonomy"], f"{folder / 'config.json'}, own_taxonomy")
        except TaxonomyError as error:
            raise CheckpointError(str(error)) from None
    same = raw.get("labels") == list(TAXONOMY.labels) and raw.get("kinds") == list(TAXONOMY.kinds)
    if raw.get("taxonomy") != TAXONOMY.version or not same:
        raise CheckpointError(
            f"{folder} was trained for taxonomy {raw.get('taxonomy')!r} ({', '.join(raw.get('labels', []))}); "
            f"this version has {TAXONOMY.version!r} ({', '.join(TAXONOMY.labels)}). Retrain it, or install its version."
        )
    return TAXONOMY


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    if not (one.is_dir() and other.is_dir()):
        return False
    names = sorted(path.name for path in one.iterdir() if path.is_file())
    if names != sorted(path.name for path in other.iterdir() if path.is_file()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
