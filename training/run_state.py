"""What a run writes down of itself: its course, and the state that a killed one goes on from."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from settings import Settings

STATE_FILE: Final = "state.pt"
"""In a run's folder: what a killed run goes on from."""
HISTORY_FILE: Final = "history.json"
"""In the folder of a run and of its checkpoint: settings, SHA-256 of the data, every epoch; the same of earlier runs."""


def data_digest(splits: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """SHA-256 over the rows that a run learns from and is chosen by, in order."""
    digest = hashlib.sha256()
    for rows in splits:
        digest.update(f"{len(rows)} rows\n".encode())
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def new_history(settings: Settings, data: str) -> dict[str, Any]:
    """The course of a run that has not begun, behind those of the runs whose weights it goes on from, oldest first."""
    before: list[dict[str, Any]] = []
    if settings.begun and (path := Path(settings.begun) / HISTORY_FILE).is_file():
        last = json.loads(path.read_text())
        before = [*last.pop("before", []), last]
    return {"before": before, "settings": dataclasses.asdict(settings), "data": data, "epochs": []}


def store(
    path: Path, model: dict[str, Tensor], average: dict[str, Tensor], optimizer: Any, schedule: Any, history: Any
) -> None:
    """Write the state under its name only once it is whole."""
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": model,
            "average": average,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "history": history,
        },
        partial,
    )
    os.replace(partial, path)


def restored(path: Path, history: Mapping[str, Any]) -> dict[str, Any]:
    """A stored state; it must be of the run that ``history`` begins.

    Raises:
        SystemExit: if its settings or its data are others: going on would give neither run.
    """
    state: dict[str, Any] = torch.load(path, weights_only=True)
    found, wanted = state["history"]["settings"], history["settings"]
    others = [
        f"{name} {found.get(name, 'nothing')!r} there, {wanted.get(name, 'nothing')!r} here"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    if state["history"].get("data") != history["data"]:
        others.append("the data of other rows or labels")
    if others:
        raise SystemExit(
            f"{path} is of another run: {'; '.join(others)}. Go on with what it was begun with, give another --out, or "
            "leave --resume out, which begins anew"
        )
    return state
