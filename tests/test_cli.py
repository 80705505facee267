import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import cot_probe
from cot_probe.cli import app
from cot_probe.journal import json_line
from cot_probe.taxonomy import PUBLIC_TAGS

EXAMPLES = ROOT / "tests" / "data" / "examples"
RUNNER = CliRunner()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cot_probe.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
    )


def invoke(checkpoint: Path, *arguments: str | Path, stdin: bytes | None = None) -> tuple[int, str, str]:
    result = RUNNER.invoke(app, ["tag", "--checkpoint", str(checkpoint), *map(str, arguments)], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_shipped_examples_with_the_shipped_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    done = run("tag", EXAMPLES, "--output", out)
    assert done.returncode == 0, done.stderr
    found = {str(row["id"]): row for row in rows(out)}
    assert len(found) == 8
    assert found["silent"]["visibility"] == "absent"
    assert "no reasoning to read" in done.stderr
    public = {name for name, row in found.items() if set(row["tags"]) & set(PUBLIC_TAGS)}  # type: ignore[call-overload]
    assert public
    assert all(name in done.stdout for name in public)


def test_bad_input_is_reported_counted_and_not_fatal(toy_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"reasoning": "One. Two."}\nnonsense\n{"reasoning": "Three."}\n')
    out = tmp_path / "out" / "results.jsonl"
    code, _, err = invoke(toy_checkpoint, tmp_path / "a.jsonl", tmp_path / "none.txt", "--output", out)
    assert code == 0
    assert "a.jsonl:2" in err and "not JSON" in err and "none.txt" in err
    assert "2 inputs could not be read" in err
    assert len(rows(out)) == 2
    code, _, _ = invoke(toy_checkpoint, tmp_path / "a.jsonl", "--strict", "--output", tmp_path / "strict.jsonl")
    assert code == 4
    assert not (tmp_path / "strict.jsonl").exists()


def test_exit_codes(toy_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One. Two.")
    assert invoke(toy_checkpoint, tmp_path / "a.txt", "--threshold", "0", "--fail-on-tag")[0] == 3
    assert invoke(toy_checkpoint, tmp_path / "a.txt", "--threshold", "1", "--fail-on-tag")[0] == 0
    assert invoke(toy_checkpoint, tmp_path / "missing.txt")[0] == 5
    assert invoke(toy_checkpoint, tmp_path / "a.txt", "--fpr", "0.5")[0] == 2
    assert invoke(tmp_path, tmp_path / "a.txt")[0] == 2
    assert invoke(toy_checkpoint, tmp_path / "a.txt", "--format", "nonsense")[0] == 2


def test_standard_input_globs_and_evidence_only(toy_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    code, piped, _ = invoke(toy_checkpoint, "-", "--output", "-", stdin=b'{"reasoning": "One. Two."}\n')
    assert code == 0 and [json.loads(line)["visibility"] for line in piped.splitlines()] == ["full"]
    for name in ("x1.txt", "x2.txt"):
        (tmp_path / name).write_text("One.")
    code, _, _ = invoke(
        toy_checkpoint, str(tmp_path / "x*.txt"), "--output", out, "--threshold", "1", "--evidence-only"
    )
    assert code == 0 and [row["sentences"] for row in rows(out)] == [[], []]


def test_an_interrupted_run_leaves_no_half_file_under_the_name(toy_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("old\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"reasoning": "One."}\nnonsense\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cot_probe.tag_command._show", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        invoke(toy_checkpoint, tmp_path / "a.jsonl", "--output", out)
    assert out.read_text() == "old\n"


def test_hostile_text_cannot_style_the_terminal(toy_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "[red]x[/]", "reasoning": "[bold]I lie[/bold] \x1b[31m now."}))
    code, out, _ = invoke(toy_checkpoint, tmp_path / "a.jsonl", "--threshold", "0", "--show", "all")
    assert code == 0
    assert "[red]x[/]" in out and "[bold]I lie[/bold]" in out and "\x1b[31m" not in out


def test_surrogates_survive_the_results_file() -> None:
    assert json.loads(json_line({"a": "\ud800 é"})) == {"a": "\ud800 é"}


def test_public_names_are_loaded_when_first_used() -> None:
    assert sorted(cot_probe._HOMES) == sorted(cot_probe.__all__)
    assert set(cot_probe.__all__) <= set(dir(cot_probe))
    assert all(getattr(cot_probe, name) is not None for name in cot_probe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cot_probe.nothing  # noqa: B018
    code = "import sys, cot_probe; sys.exit('numpy' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_loads_no_torch_and_help_is_light() -> None:
    code = "import sys, cot_probe, cot_probe.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_formats_are_listed() -> None:
    out = RUNNER.invoke(app, ["formats"]).stdout
    assert all(name in out for name in ("responses", "chat", "rows", "text"))
