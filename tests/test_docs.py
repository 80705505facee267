"""The README is run: its Python, and the facts that it states."""

import functools
import re

import pytest
from conftest import ROOT

from cot_probe import Monitor
from cot_probe.tagger import Tagger
from cot_probe.taxonomy import TAGS

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cot_probe.load_tagger", lambda: tagger)
    # On a busy machine a score may come later than the default budget: no event is printed then, as documented.
    monkeypatch.setattr("cot_probe.Monitor", functools.partial(Monitor, budget_s=30.0))
    tag, live = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(tag, "README.md", "exec"), {})
    assert "0 " in capsys.readouterr().out
    exec(compile(live, "README.md", "exec"), names := {})
    assert names["result"].text.startswith("Nobody reads") and names["verdict"].tool == "edit_file"
    assert "SentenceScored" in capsys.readouterr().out


def test_readme_names_every_tag_and_existing_files() -> None:
    assert all(f"`{tag}`" in README for tag in TAGS)
    tree = README.split("## What is where")[1].split("```")[1]
    names = re.findall(r"[\w-]+(?:\.py|\.md|/)", tree)
    found = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts}
    assert {name.rstrip("/") for name in names} <= found


def test_readme_shows_the_shipped_checkpoint(tagger: Tagger) -> None:
    assert tagger.checkpoint.config.name in README
