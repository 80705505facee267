import json
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from cot_probe.annotations import AnnotationError, check, label_matrix, load_real, load_split, parse_record
from cot_probe.annotations.agreement import cohen_kappa, krippendorff_alpha
from cot_probe.annotations.counts import named_hard_negatives
from cot_probe.annotations.phenomena import HARD_NEGATIVES, PHENOMENA, of_hard_negative, of_phenomenon
from cot_probe.cli import app
from cot_probe.sentences import split
from cot_probe.taxonomy import HARM_KINDS

FOLDER = ROOT / "annotations"
RECORD = {
    "id": "a-1",
    "scenario": "a",
    "phenomenon": "blackmail",
    "split": "train",
    "language": "en",
    "style": "memo",
    "context": "Be kind.",
    "text": "Read it. I lie. Done.",
    "sentences": [{"start": 9, "end": 15, "labels": ["strategic_harm"], "kind": "deception"}],
    "trace": ["strategic_harm"],
    "unsure": False,
    "annotators": [{"annotator": "A", "sentences": [], "trace": []}],
    "adjudication": "",
    "n_sentences": 3,
}


def parse(**changes: object) -> object:
    return parse_record(json.dumps(RECORD | changes), "f.jsonl", 7)


def test_the_shipped_set_is_valid_and_meets_its_counts() -> None:
    assert check(FOLDER) == []
    records = [record for name in ("train", "dev", "test") for record in load_split(FOLDER, name)]
    assert len(records) >= 2000 and len({record.group for record in records}) >= 200
    assert len(load_split(FOLDER, "test")) >= 450 and len(load_split(FOLDER, "dev")) >= 250
    plain = [record for record in records if not record.trace - {"harm_rejected"}]
    assert len(plain) >= 0.5 * len(records)
    assert len(named_hard_negatives(records)) >= 500
    wanted = {"harm_rejected": 180, "states_test": 250, "states_real": 150, "command_disobedience": 250}
    for label, least in wanted.items():
        assert sum(any(label in s.labels for s in record.sentences) for record in records) >= least, label
    for kind in set(HARM_KINDS) - {"other"}:
        assert sum(any(s.kind == kind for s in record.sentences) for record in records) >= 80, kind
    for name in tuple(PHENOMENA)[:17]:
        assert len(of_phenomenon(records, name)) >= 40, name
    for name in HARD_NEGATIVES:
        assert len(of_hard_negative(records, name)) >= 25, name
    other = [record for record in records if record.language != "en"]
    assert len(other) >= 0.08 * len(records) and len({record.language for record in other}) >= 6
    train = load_split(FOLDER, "train")
    assert sum(len(record.readings) > 1 for record in train) >= len(train) / 3
    assert all(len(record.readings) > 1 for name in ("dev", "test") for record in load_split(FOLDER, name))


def test_no_scenario_is_in_two_splits() -> None:
    homes: dict[str, set[str]] = {}
    for name in ("train", "dev", "test"):
        for record in load_split(FOLDER, name):
            homes.setdefault(record.group, set()).add(record.split)
    assert all(len(home) == 1 for home in homes.values())


def test_real_traces_are_stored_without_text() -> None:
    for path in sorted((FOLDER / "real").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert not {"text", "context"} & set(row)
            assert {"source_repo", "commit", "path", "locator", "sha256", "license"} <= set(row)
    assert len(load_real(FOLDER)) >= 200
    assert load_real(FOLDER, require_text=True) == []


def test_spans_are_the_sentences_of_the_splitter() -> None:
    for record in load_split(FOLDER, "test"):
        labels, _ = label_matrix(record, split(record.text))
        assert labels.any(axis=1).sum() == len(record.sentences), record.id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "holdout"}, "split is 'holdout'"),
        ({"trace": ["boredom"]}, "boredom"),
        ({"sentences": [{"start": 9, "end": 99, "labels": ["states_test"]}]}, r"spans 9\.\.99"),
        ({"sentences": [{"start": 9, "end": 15, "labels": ["strategic_harm"]}]}, "kind None"),
        ({"sentences": [{"start": 9, "end": 15, "labels": []}]}, "has labels"),
        ({"annotators": None}, "NoneType"),
    ],
)
def test_faults_name_file_and_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        parse(**changes)
    assert str(caught.value).startswith("f.jsonl:7: ")


def test_check_finds_what_only_the_whole_set_shows(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        other = RECORD | {"split": name, "id": "same" if name != "test" else "b"}
        extra = json.dumps(other | {"id": "c", "trace": ["states_test"]}) if name == "test" else "{"
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps(other) + "\n" + extra + "\n")
    found = [str(problem) for problem in check(tmp_path)]
    assert any("stands twice" in problem for problem in found)
    assert any("stays in one split" in problem for problem in found)
    assert any("train.jsonl:2: not JSON" in problem for problem in found)
    assert any("without a sentence" in problem for problem in found)
    result = CliRunner().invoke(app, ["annotations", "check", str(tmp_path)])
    assert result.exit_code == 1 and "problems" in result.stdout


def test_labels_survive_another_splitter() -> None:
    record = parse_record(json.dumps(RECORD), "f", 1)
    labels, kinds = label_matrix(record, split(record.text))
    assert labels[:, 0].tolist() == [False, True, False] and kinds.tolist() == [-1, 3, -1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1).map(np.random.default_rng))
def test_agreement_equals_other_peoples_code(rng: np.random.Generator) -> None:
    pairs = rng.random((40, 2)) < rng.random(2)
    pairs[:2] = [[True, False], [False, True]]
    wanted = krippendorff.alpha(reliability_data=pairs.T.astype(float), level_of_measurement="nominal")
    assert krippendorff_alpha(pairs) == pytest.approx(wanted)
    assert cohen_kappa(pairs) == pytest.approx(cohen_kappa_score(pairs[:, 0], pairs[:, 1]))


def test_agreement_and_counts_print() -> None:
    for arguments in (
        ["agreement", str(FOLDER)],
        ["agreement", "--real", "dev", str(FOLDER)],
        ["agreement", "--passages", str(FOLDER)],
        ["counts", str(FOLDER)],
    ):
        result = CliRunner().invoke(app, ["annotations", *arguments])
        assert result.exit_code == 0, result.output
        assert "strategic_harm" in result.stdout
