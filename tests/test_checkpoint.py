import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from cot_probe.checkpoint import load_checkpoint, save_checkpoint
from cot_probe.manifest import CheckpointError, write_manifest
from cot_probe.tagger import Tagger, load_tagger

TEXT = "I will rewrite the script first. Then I report. Wait, is this a test?"


def copy(checkpoint: Path, to: Path) -> Path:
    shutil.copytree(checkpoint.parent, to)
    return to / checkpoint.name


def test_save_and_load_give_identical_scores(toy_checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(toy_checkpoint)
    heads = {k: v for k, v in loaded.encoder.state_dict().items() if not k.startswith("body.")}
    base = toy_checkpoint.parent / loaded.config.base
    config = dataclasses.replace(loaded.config, base=str(base))
    again = tmp_path / "again"
    save_checkpoint(again, config=config, adapter={}, heads=heads, calibration=loaded.calibration)
    first, second = load_tagger(toy_checkpoint).tag(TEXT), load_tagger(again).tag(TEXT)
    assert first.scores == second.scores
    assert [s.scores for s in first.sentences] == [s.scores for s in second.sentences]


def test_an_altered_file_is_refused(toy_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(toy_checkpoint, tmp_path / "c")
    data = bytearray((folder / "heads.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "heads.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: SHA-256"):
        load_checkpoint(folder)
    (folder / "heads.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(folder)


def test_another_taxonomy_is_refused(toy_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(toy_checkpoint, tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    config["labels"] = [*config["labels"], "boredom"]
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder)
    with pytest.raises(CheckpointError, match="boredom"):
        load_checkpoint(folder)


def test_a_folder_that_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        load_checkpoint(tmp_path)


def test_a_missing_base_says_which(toy_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(toy_checkpoint, folder)
    with pytest.raises(CheckpointError, match="base-bert"):
        load_checkpoint(folder)


def test_the_shipped_checkpoint_is_light_and_whole(tagger: Tagger) -> None:
    from cot_probe.checkpoint import default_checkpoint

    folder = default_checkpoint()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10 * 1024 * 1024
    assert {"README.md", "metrics.json", "calibration.json", "config.json"} <= {p.name for p in folder.iterdir()}
    assert tagger.checkpoint.signature.startswith(folder.name)
