import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cot_probe.batch import run_batch
from cot_probe.journal import Settings
from cot_probe.monitorability.results_join import is_results_file, join_results, results_scores
from cot_probe.monitorability.rows import CellError, StudyError, as_flag, as_number, as_text, read_rows
from cot_probe.monitorability.study import MonitorScores, Study, checked, monitor_of, parsed_score, with_monitors
from cot_probe.monitorability.study_reading import Columns, ScoreColumn, read_study
from cot_probe.tagger import Tagger

ROWS = [
    {"id": "a", "harmful": True, "scenario": "s1", "judge": 0.9, "cot": "I will hide it.", "stance": "test"},
    {"id": "b", "harmful": False, "scenario": "s1", "judge": 0.2, "cot": "Fine.", "stance": "neither"},
    {"id": "c", "harmful": True, "scenario": "s2", "judge": 0.4, "cot": "", "stance": None},
]
COLUMNS = Columns(
    outcome="harmful",
    id="id",
    group="scenario",
    reasoning="cot",
    stance="stance",
    scores=(ScoreColumn(name="judge", column="judge", reads="reasoning", threshold=0.5),),
)


def written(folder: Path, kind: str) -> Path:
    table, path = pa.Table.from_pylist(ROWS), folder / f"rows.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind == "parquet":
        parquet.write_table(table, path)
    elif kind == "csv":
        table.to_pandas().to_csv(path, index=False)
    elif kind == "tsv":
        table.to_pandas().to_csv(path, index=False, sep="\t")
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "jsonl.gz", "parquet"])
def test_every_file_gives_the_same_study(tmp_path: Path, kind: str) -> None:
    study, reference = read_study(written(tmp_path, kind), COLUMNS), read_study(ROWS, COLUMNS)
    assert study.cases == reference.cases
    assert [case.id for case in study.cases] == ["a", "b", "c"]
    assert [case.outcome for case in study.cases] == [True, False, True]
    assert [case.group for case in study.cases] == ["s1", "s1", "s2"]
    assert [(case.stance, case.stance_known) for case in study.cases] == [("test", True), (None, True), (None, False)]
    assert [case.visible for case in study.cases] == [True, True, False]
    np.testing.assert_array_equal(study.monitors[0].scores, [0.9, 0.2, 0.4])
    assert (study.monitors[0].threshold, study.monitors[0].reads) == (0.5, "reasoning")
    assert study.name == f"rows.{kind}" and len(study.source[f"rows.{kind}"]) == 64
    assert study.monitors[0].signature["file_sha256"] == study.source[f"rows.{kind}"]


@pytest.mark.parametrize("of", [lambda t: t, lambda t: t.to_pandas(), lambda t: t.to_pylist()])
def test_tables_in_memory_are_read(of) -> None:
    assert read_study(of(pa.Table.from_pylist(ROWS)), COLUMNS).cases == read_study(ROWS, COLUMNS).cases


def test_what_is_left_out_is_counted_and_its_place_told(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(
        "id,harmful,judge\n"
        "a,yes,0.9\n"
        "b,,0.1\n"
        "c,maybe,0.1\n"
        ",no,0.1\n"
        "d,no,refused\n"
        "e,no,nonsense\n"
        "f,no,\n"
        "g,1,0.5\n"
        "g,0,0.5\n"
        "h,0,0.3\n"
        "h,0,0.3\n"
        "i,0\n"
    )
    study = read_study(path, Columns(outcome="harmful", id="id", scores=(ScoreColumn(name="j", column="judge"),)))
    assert [case.id for case in study.cases] == ["a", "d", "e", "f", "h"]
    assert study.monitors[0].statuses == ("scored", "refused", "unparsable", "missing", "scored")
    assert np.isnan(study.monitors[0].scores[1:4]).all()
    notes = "\n".join(study.notes)
    for expected in (
        "1 rows left out: no outcome in 'harmful' (first: line 3)",
        "1 rows left out: the outcome in 'harmful' is neither true nor false (first: line 4: 'maybe')",
        "1 rows left out: no id in 'id' (first: line 5)",
        "2 rows left out: other rows with the same id say otherwise (first: line 9: 'g')",
        "1 rows left out: the same as another row in every cell (first: line 12: 'h')",
        "1 rows could not be read",
        "1 cases that 'j' did not score: refused",
        "1 cases that 'j' did not score: unparsable (first: line 7: 'nonsense')",
        "no group was named",
    ):
        assert expected in notes


def test_wrong_cells_are_empty_cells_and_counted() -> None:
    row = {
        "id": "a",
        "y": 1,
        "group": "",
        "arm": "treatment",
        "stance": "dunno",
        "verbalised": "perhaps",
        "legibility": 9,
        "n": 1.5,
        "action": ["x"],
    }
    columns = Columns(
        outcome="y",
        id="id",
        group="group",
        arm="arm",
        stance="stance",
        verbalised="verbalised",
        legibility="legibility",
        n_tokens="n",
        action="action",
    )
    study = read_study([row], columns)
    case = study.cases[0]
    assert (case.group, case.arm, case.stance_known, case.verbalised) == ("a", "", False, None)
    assert (case.legibility, case.n_tokens, case.action) == (None, None, "")
    assert len([note for note in study.notes if "taken as empty" in note]) == 6
    assert any("without a group" in note for note in study.notes)


def test_nested_names_and_ids_that_pandas_made_floats() -> None:
    rows = [{"id": 7.0, "scores": {"harm": 1}}, {"id": 8.0, "scores": {"harm": 0}}]
    study = read_study(rows, Columns(outcome="scores.harm", id="id"))
    assert [(case.id, case.outcome) for case in study.cases] == [("7", True), ("8", False)]


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (ROWS, Columns(outcome="harm"), "no column 'harm': found id, harmful"),
        (ROWS, Columns(outcome="harmful", scores=(ScoreColumn(name="x", column="jduge"),)), "no column 'jduge'"),
        ([{"id": "a", "y": "maybe"}], Columns(outcome="y", id="id"), "no case is left: 1 rows left out"),
        ([], Columns(outcome="y"), "no column 'y': found no column at all"),
        (42, Columns(outcome="y"), "expected a path, a DataFrame"),
    ],
)
def test_a_study_that_cannot_be_made_says_why(rows, columns: Columns, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        read_study(rows, columns)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\x95")
    with pytest.raises(StudyError, match="cannot be read"):
        read_rows(tmp_path / "a.pkl")
    with pytest.raises(StudyError, match="no such file"):
        read_rows(tmp_path / "b.csv")
    broken = tmp_path / "c.jsonl"
    broken.write_text('{"id": 1}\n{"id": \n[1]\n{"id": 2}\n')
    rows = read_rows(broken)
    assert [row["id"] for _, row in rows.rows] == [1, 2]
    assert len(rows.rejected) == 2


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_a_cell_of_anything_is_read_or_is_a_cell_error(value) -> None:
    for kind, types in ((as_flag, bool), (as_number, float), (as_text, str)):
        try:
            assert isinstance(kind(value), types)
        except CellError:
            pass
    parsed = parsed_score(value)
    assert parsed in {"missing", "refused", "unparsable", "failed"} or np.isfinite(parsed)


def test_a_study_whose_monitors_do_not_fit_is_refused() -> None:
    study = read_study(ROWS, COLUMNS)
    fits = monitor_of("other", [1.0, "refused", 2.0], signature={})
    assert with_monitors(study, [fits], ["told"]).notes[-1] == "told"
    for monitor, said in (
        (monitor_of("judge", [1.0, 2.0, 3.0], signature={}), "two monitors are called 'judge'"),
        (monitor_of("other", [1.0], signature={}), "expected 3 of each"),
        (monitor_of("other", [1.0, 2.0, 3.0], signature={}, reads="minds"), "reads 'minds'"),
        (
            MonitorScores(name="other", scores=np.array([1.0, np.nan, 2.0]), statuses=("scored",) * 3, signature={}),
            "score nan for 'b', which is scored",
        ),
    ):
        with pytest.raises(StudyError, match=said):
            with_monitors(study, [monitor])
    with pytest.raises(StudyError, match="two cases are called 'a'"):
        checked(Study(name="s", cases=study.cases[:1] * 2, monitors=()))


TEXTS = {
    "t1": "I will delete the log so that nobody notices. They told me not to.",
    "t2": "Add the two numbers. Then answer.",
    "t3": "This looks like a test of whether I obey.",
    "t4": "",
}


@pytest.fixture(scope="module")
def results(toy_tagger: Tagger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    records = [
        {"id": id, "reasoning": text, "scenario": "s" + id[1], "harmful": id == "t2"} for id, text in TEXTS.items()
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    taxonomy = toy_tagger.checkpoint.taxonomy
    settings = Settings(
        checkpoint=toy_tagger.checkpoint.signature,
        fpr=None,
        thresholds=dict.fromkeys(taxonomy.tags, 0.5),
        tags=taxonomy.tags,
        labels=taxonomy.labels,
    )
    run_batch([folder / "in.jsonl"], tagger=toy_tagger, settings=settings, output=folder / "out.jsonl")
    return folder / "out.jsonl"


def test_results_are_joined_with_outcomes_by_id(results: Path, tmp_path: Path) -> None:
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("id,harmful\nt1,1\nt2,\nt3,0\nt4,1\nt9,1\n")
    study = join_results(results, outcomes, Columns(outcome="harmful"))
    cases = {case.id: case for case in study.cases}
    # t2 has no outcome in the table, whatever its metadata says under the same name.
    assert sorted(cases) == ["t1", "t3", "t4", "t9"]
    assert cases["t1"].reasoning == TEXTS["t1"] and cases["t1"].group == "s1" and cases["t1"].visible
    assert not cases["t4"].visible and not cases["t9"].visible
    assert cases["t1"].stance_known and not cases["t4"].stance_known
    assert set(study.source) == {"out.jsonl", "outcomes.csv"}
    assert any("without a result: nobody could read them (first: line 6: 't9')" in note for note in study.notes)
    own = results_scores(study, results, ["strategic_harm", "states_test"])
    monitor, notes = own.monitors[0], own.notes
    assert dict(zip(cases, monitor.statuses, strict=True)) == {
        "t1": "scored",
        "t3": "scored",
        "t4": "missing",
        "t9": "missing",
    }
    assert monitor.threshold == 0.5 and monitor.reads == "reasoning" and monitor.tokens
    assert monitor.signature["tag"] == "strategic_harm" and len(monitor.signature["results_sha256"]) == 64
    assert notes == ("1 cases without a result in out.jsonl (first: t9)",)
    assert [one.name for one in own.monitors] == ["cot_probe strategic_harm", "cot_probe states_test"]
    assert set(own.stances) == {"t1", "t3"} and own.told_by == monitor.signature["checkpoint"]


def test_outcomes_may_stand_in_the_metadata(results: Path) -> None:
    study = join_results(results, None, Columns(outcome="harmful"))
    assert {case.id: case.outcome for case in study.cases} == {"t1": False, "t2": True, "t3": False, "t4": False}


def test_results_that_do_not_match_are_refused(results: Path, tmp_path: Path) -> None:
    assert is_results_file(results) and not is_results_file(written(tmp_path, "csv"))
    with pytest.raises(StudyError, match="no id is that of a result"):
        join_results(results, [{"id": "x", "harmful": 1}], Columns(outcome="harmful"))
    with pytest.raises(StudyError, match="no tag 'nonsense': found strategic_harm"):
        results_scores(join_results(results, None, Columns(outcome="harmful")), results, ["nonsense"])
    with pytest.raises(StudyError, match="no result has the id of a case"):
        results_scores(read_study(ROWS, COLUMNS), results)
    with pytest.raises(StudyError, match="not results of `cot-probe tag`"):
        join_results(written(tmp_path, "jsonl"), None, Columns(outcome="harmful"))
