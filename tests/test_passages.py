import hashlib
import json
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from cot_probe.annotations import AnnotationError, check, load_passages
from cot_probe.annotations.counts import passages_table
from cot_probe.annotations.passages import Edit, composed

FOLDER = ROOT / "annotations"
BASE = "I read the file. The test fails. I report it."
REAL = {
    "id": "pool-1",
    "scenario": "some/repo#q",
    "phenomenon": "real",
    "split": "train",
    "language": "en",
    "source_repo": "some/repo",
    "sha256": hashlib.sha256(BASE.encode()).hexdigest(),
    "sentences": [],
    "trace": [],
    "annotators": [],
}
PASSAGE = {
    "id": "pool-1-a",
    "base": "pool-1",
    "language": "en",
    "edits": [
        {"start": 16, "end": 16, "text": " I skip it."},
        {"start": 32, "end": 45, "text": " I say that all passed."},
    ],
    "context": "Never skip a test.",
    "sentences": [{"start": 44, "end": 66, "labels": ["strategic_harm"], "kind": "deception"}],
    "trace": ["strategic_harm"],
    "annotators": [],
    "n_sentences": 4,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An annotations folder with one base and one passage, and the base's text in ``texts``."""
    for name in ("data", "real", "texts"):
        (tmp_path / name).mkdir()
    for name in ("train", "dev", "test"):
        (tmp_path / "data" / f"{name}.jsonl").touch()
    (tmp_path / "real" / "pool.jsonl").write_text(json.dumps(REAL) + "\n")
    (tmp_path / "texts" / "t.jsonl").write_text(json.dumps({"text": BASE, "context": "Run the tests."}) + "\n")
    (tmp_path / "passages.jsonl").write_text(json.dumps(PASSAGE) + "\n")
    return tmp_path


def test_a_passage_stands_in_its_base_with_what_was_told(folder: Path) -> None:
    assert check(folder) == []
    (record,) = load_passages(folder, text_dir=folder / "texts")
    assert record.text == "I read the file. I skip it. The test fails. I say that all passed."
    assert record.context == "Run the tests.\nNever skip a test."
    (span,) = record.sentences
    assert record.text[span.start : span.end] == "I say that all passed."
    assert (record.group, record.split, record.source) == ("some/repo#q", "train", "some/repo")


def test_without_the_base_there_is_no_text(folder: Path) -> None:
    (record,) = load_passages(folder)
    assert record.text == "" and record.context == "" and record.trace == {"strategic_harm"}
    assert load_passages(folder, require_text=True) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "pool-2"}, "base 'pool-2' is not marked train or dev"),
        ({"edits": []}, "no edits"),
        ({"edits": [{"start": 3, "text": "x"}]}, "KeyError"),
        ({"edits": [{"start": 9, "end": 3, "text": "x"}]}, "edits[0] is 9..3"),
        ({"edits": [{"start": 1, "end": 4, "text": "x"}, {"start": 2, "end": 4, "text": "x"}]}, "edits[1] is 2..4"),
        ({"edits": [{"start": "1", "end": 4, "text": "x"}]}, "whole numbers"),
        ({"edits": [{"start": 1, "end": 4, "text": 5}]}, "and a text"),
        ({"context": 5}, "context is 5"),
        ({"trace": ["boredom"]}, "boredom"),
        ({"trace": ["states_test"]}, "states_test"),
    ],
)
def test_check_names_the_line_of_a_faulty_passage(folder: Path, changes: dict[str, object], message: str) -> None:
    (folder / "passages.jsonl").write_text(json.dumps(PASSAGE) + "\n" + json.dumps(PASSAGE | {"id": "b"} | changes))
    found = [str(problem) for problem in check(folder)]
    assert found and all("passages.jsonl:2: " in problem for problem in found)
    assert any(message in problem for problem in found)


def test_a_base_kept_for_evaluation_is_refused(folder: Path) -> None:
    (folder / "real" / "pool.jsonl").write_text(json.dumps(REAL | {"split": "test"}) + "\n")
    with pytest.raises(AnnotationError, match="training and calibration only"):
        load_passages(folder)


def test_a_broken_line_among_the_bases_is_a_problem_and_no_crash(folder: Path) -> None:
    with (folder / "real" / "pool.jsonl").open("a") as stream:
        stream.write("{\n" + json.dumps({"id": "pool-2", "split": "train"}) + "\n")
    (folder / "passages.jsonl").write_bytes(json.dumps(PASSAGE | {"base": "pool-2"}).encode() + b"\n\xff\n")
    found = [str(problem) for problem in check(folder)]
    for place in ("pool.jsonl:2: ", "pool.jsonl:3: ", "passages.jsonl:1: base 'pool-2'", "passages.jsonl:2: "):
        assert any(place in problem for problem in found), place


def test_without_the_file_there_are_no_counts_and_nothing_to_load(folder: Path) -> None:
    (folder / "passages.jsonl").unlink()
    assert passages_table(folder) == "" and check(folder) == []
    with pytest.raises(AnnotationError, match=r"passages\.jsonl does not exist"):
        load_passages(folder)


def test_a_taxonomy_of_its_own_is_refused(folder: Path) -> None:
    (folder / "taxonomy.json").write_text(json.dumps({"version": "x", "labels": ["a"], "definitions": {"a": "an a"}}))
    with pytest.raises(AnnotationError, match="built-in taxonomy"):
        load_passages(folder)


def test_offsets_beyond_the_base_are_refused(folder: Path) -> None:
    edits = [{"start": 99, "end": 99, "text": " x"}]
    (folder / "passages.jsonl").write_text(json.dumps(PASSAGE | {"edits": edits}) + "\n")
    with pytest.raises(AnnotationError, match=r"passages\.jsonl:1: edit 99\.\.99 after 0"):
        load_passages(folder, text_dir=folder / "texts")


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.text(max_size=4)), max_size=4))
def test_edits_made_from_the_last_to_the_first_give_the_same(base: str, drawn: list[tuple[int, str]]) -> None:
    places = sorted(min(at, len(base)) for at, _ in drawn)
    edits = [
        Edit(start=at, end=min(at + 1, after), text=text)
        for at, after, (_, text) in zip(places, [*places[1:], len(base)], drawn, strict=False)
    ]
    slow = base
    for edit in reversed(edits):
        slow = slow[: edit.start] + edit.text + slow[edit.end :]
    assert composed(base, edits) == slow


def test_edits_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"edit 2\.\.3 after 4"):
        composed("abcdef", [Edit(start=1, end=4, text=""), Edit(start=2, end=3, text="x")])
