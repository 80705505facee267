"""The files of a checkpoint or a base, each checked by its SHA-256 before it is read."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = "MANIFEST.json"


class CheckpointError(ValueError):
    """A checkpoint folder that is missing, damaged, or made for another taxonomy."""


def write_manifest(folder: Path) -> str:
    """(Re)write ``MANIFEST.json`` over the files of a folder; return its digest."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    write_json(folder / MANIFEST, {path.name: sha256(path) for path in files})
    return sha256(folder / MANIFEST)


def verify(folder: Path) -> str:
    """Check every file against the manifest; return the manifest's digest.

    Raises:
        CheckpointError: naming the first file that is missing or altered.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no {MANIFEST}. Give the folder that holds one.")
    for name, expected in read_json(manifest).items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(f"{folder}: {name} is listed in {MANIFEST} but missing. Fetch the checkpoint again.")
        found = sha256(path)
        if found != expected:
            raise CheckpointError(
                f"{path}: SHA-256 is {found[:12]}…, the manifest says {str(expected)[:12]}…. The file was altered "
                "or is incomplete (Git LFS pointer?): fetch it again."
            )
    return sha256(manifest)


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file.

    Raises:
        CheckpointError: if the file is missing or is not JSON.
    """
    try:
        parsed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Fetch the checkpoint again.") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON ({error}). Fetch the checkpoint again.") from None
    return parsed


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys: the same value gives the same bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
