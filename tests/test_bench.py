import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from scipy.stats import fisher_exact
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import proportion_confint
from test_misalignment_runs import ORDERS, result_row, write_prompts, write_sample
from test_study import results as results
from typer.testing import CliRunner

from cot_probe.monitorability.awareness import LABEL_STANCES
from cot_probe.monitorability.bench import bench
from cot_probe.monitorability.bench_command import EPILOG
from cot_probe.monitorability.bench_command import bench as bench_command
from cot_probe.monitorability.bench_figures import ranked
from cot_probe.monitorability.bench_options import BenchOptions, applied, metric_of, statistic_named
from cot_probe.monitorability.bench_records import (
    BenchFileError,
    BenchResult,
    Figure,
    from_json,
    read_json,
    to_json,
    to_table,
    write_json,
)
from cot_probe.monitorability.rows import StudyError
from cot_probe.monitorability.study import Case, Study, cases_table, monitor_of
from cot_probe.monitorability.study_reading import Columns, ScoreColumn, read_study

PLOTS = ("roc", "precision_recall")
QUICK = BenchOptions(draws=60, permutations=50)


def made(n: int = 120, groups: int = 30, seed: int = 0) -> Study:
    """Cases with two probabilistic monitors: "good", which tells them apart well, and "poor"."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.35
    cases = tuple(Case(id=f"c{at}", outcome=bool(bad[at]), group=f"g{at % groups}") for at in range(n))
    good = np.clip(rng.normal(0.3 + 0.4 * bad, 0.2), 0, 1)
    poor = np.clip(rng.normal(0.4 + 0.1 * bad, 0.2), 0, 1)
    monitors = (
        monitor_of("good", [float(score) for score in good], signature={"checkpoint": "x@1"}, threshold=0.5),
        monitor_of("poor", [float(score) for score in poor], signature={"judge": "y"}, tokens=600, dollars=1.2),
    )
    return Study(name="made", cases=cases, monitors=monitors)


def found(result: BenchResult, monitor: str, metric: str, slice: str = "all") -> Figure:
    (figure,) = [one for one in result.figures if (one.monitor, one.metric, one.slice) == (monitor, metric, slice)]
    return figure


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return bench(made(), QUICK)


def test_figures_equal_scikit_learn(result: BenchResult) -> None:
    study = made()
    labels = np.array([case.outcome for case in study.cases])
    for monitor in study.monitors:
        scores = monitor.scores
        expected = {
            "auroc": sk.roc_auc_score(labels, scores),
            "average_precision": sk.average_precision_score(labels, scores),
            "brier": sk.brier_score_loss(labels, scores),
        }
        fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
        expected["tpr_at_fpr_0.05"] = tpr[fpr <= 0.05].max()
        for metric, value in expected.items():
            figure = found(result, monitor.name, metric)
            assert figure.value == pytest.approx(value)
            assert figure.low <= figure.value <= figure.high
            assert (figure.n, figure.positives) == (120, labels.sum())
    alarms = study.monitors[0].scores >= 0.5
    tn, fp, fn, tp = sk.confusion_matrix(labels, alarms).ravel()
    assert found(result, "good", "true_positive_rate").value == pytest.approx(tp / (tp + fn))
    assert found(result, "good", "true_negative_rate").value == pytest.approx(tn / (tn + fp))
    assert found(result, "good", "g_mean_squared").value == pytest.approx(tp / (tp + fn) * tn / (tn + fp))
    top = np.argsort(-study.monitors[0].scores)[:12]
    assert found(result, "good", "audit_recall_at_0.1").value == pytest.approx(labels[top].sum() / labels.sum())
    assert not [one for one in result.figures if one.monitor == "poor" and one.metric == "g_mean_squared"]


def test_every_figure_has_what_a_reader_must_quote(result: BenchResult) -> None:
    assert (result.n, result.groups, result.study) == (120, 30, "made")
    assert result.positives == sum(case.outcome for case in made().cases)
    for key in ("cot_probe", "draws", "seed", "unscored", "intervals", "good: checkpoint", "good: threshold"):
        assert result.signature[key]
    assert result.signature["good: trained on"] == "cannot be told"
    assert found(result, "poor", "tokens").value == 600
    assert found(result, "poor", "dollars_per_trace").value == pytest.approx(0.01)
    assert found(result, "", "outcome_rate").value == pytest.approx(result.positives / 120)
    assert result.awareness is None and result.disobedience is None


def test_the_same_study_gives_the_same_result(result: BenchResult) -> None:
    assert to_json(bench(made(), QUICK)) == to_json(result)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1).map(np.random.default_rng), st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_rates_of_many_draws_are_those_of_one(rng: np.random.Generator, fpr: float) -> None:
    n = int(rng.integers(1, 40))
    scores, labels = np.round(rng.random(n), 1), rng.random(n) < 0.4
    weights = rng.integers(0, 3, (7, n)).astype(float)
    name = f"tpr_at_fpr_{fpr:g}"
    expected = [metric_of(name)(scores, labels, row) for row in weights]
    np.testing.assert_allclose(statistic_named(name, scores, labels)(weights), expected)


def test_intervals_cover_at_about_the_nominal_rate() -> None:
    """True AUROC of N(1, 1) against N(0, 1) is 0.760; cases of a group share a part of their score."""
    hits, runs = 0, 120
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        labels = rng.random(160) < 0.4
        shared = np.repeat(rng.normal(size=40), 4)
        scores = np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=160) + labels
        groups = [str(at // 4) for at in range(160)]
        estimate = ranked("auroc", scores, labels, groups, BenchOptions(draws=200, seed=seed))
        hits += estimate.low <= 0.7602 <= estimate.high
    assert 0.88 <= hits / runs <= 1.0


def unscored() -> Study:
    """Six cases; the last two, one of each outcome, were refused."""
    cases = tuple(Case(id=str(at), outcome=at in (0, 1, 4), group=str(at)) for at in range(6))
    monitor = monitor_of("m", [0.9, 0.4, 0.6, 0.1, "refused", "refused"], signature={}, threshold=0.5)
    return Study(name="u", cases=cases, monitors=(monitor,))


@pytest.mark.parametrize(
    ("policy", "auroc", "tpr", "tnr"),
    [
        # Positives 0.9, 0.4, alarm against 0.6, 0.1, alarm: 9 pairs, of which 2 + 1 + 2.5 are in order.
        ("alarm", 5.5 / 9, 2 / 3, 1 / 3),
        ("miss", (3 + 2 + 0.5) / 9, 1 / 3, 2 / 3),
        ("drop", 3 / 4, 1 / 2, 1 / 2),
    ],
)
def test_what_an_unscored_case_counts_as(policy: str, auroc: float, tpr: float, tnr: float) -> None:
    result = bench(unscored(), replace(QUICK, unscored=policy))
    assert found(result, "m", "auroc").value == pytest.approx(auroc)
    assert found(result, "m", "true_positive_rate").value == pytest.approx(tpr)
    assert found(result, "m", "true_negative_rate").value == pytest.approx(tnr)
    assert found(result, "m", "refused").value == found(result, "m", "unscored").value == 2
    assert found(result, "m", "brier").n == 4 and found(result, "m", "brier").note == "of scored cases"
    assert "2 refused" in found(result, "m", "auroc").note
    assert any(note.startswith("m: 2 refused: ") for note in result.notes)
    if policy != "drop":
        assert found(result, "m", "auroc", "scored cases").value == pytest.approx(3 / 4)
    if policy == "alarm":
        assert "1 unscored cases without the outcome" in found(result, "m", "tpr_at_fpr_0.01").note


def test_a_monitor_that_scored_nothing_is_no_clean_bill() -> None:
    study = unscored()
    none = monitor_of("none", ["failed"] * 6, signature={}, threshold=0.5)
    result = bench(replace(study, monitors=(*study.monitors, none)), QUICK)
    assert found(result, "none", "auroc").value == 0.5
    assert found(result, "none", "true_positive_rate").value == 1
    assert found(result, "none", "true_negative_rate").value == 0
    dropped = bench(replace(study, monitors=(none,)), replace(QUICK, unscored="drop"))
    assert np.isnan(found(dropped, "none", "auroc").value)


def test_reasoning_that_nobody_could_see_was_not_scored() -> None:
    study = unscored()
    cases = tuple(replace(case, visible=case.id != "3") for case in study.cases)
    reads_it = applied(replace(study, cases=cases), study.monitors[0], "alarm")
    assert reads_it.note == "1 missing, 2 refused: counted as alarms, above every score" or "1 missing" in reads_it.note
    assert reads_it.scores[reads_it.at == 3] == reads_it.scores.max() > 0.9
    other = replace(study.monitors[0], reads="action")
    assert applied(replace(study, cases=cases), other, "alarm").scores.min() == 0.1


def test_slices(result: BenchResult) -> None:
    study = made(60)
    cases = tuple(
        replace(case, phenomenon="leak" if case.outcome and at % 2 else "", stratum=f"model{at % 2}")
        for at, case in enumerate(study.cases)
    )
    sliced = bench(replace(study, cases=cases), QUICK)
    leak = found(sliced, "good", "auroc", "phenomenon=leak")
    kept = [at for at, case in enumerate(cases) if case.phenomenon or not case.outcome]
    labels = [cases[at].outcome for at in kept]
    assert leak.value == pytest.approx(sk.roc_auc_score(labels, study.monitors[0].scores[kept]))
    assert leak.note.startswith("against all cases without the outcome")
    assert found(sliced, "good", "auroc", "stratum=model1").n == 30
    assert {one.slice for one in result.figures} == {"all"}


def test_curves_hold_the_figures(result: BenchResult) -> None:
    for monitor in ("good", "poor"):
        curves = {curve.kind: curve for curve in result.curves if curve.monitor == monitor}
        roc, pr, reliability = (curves[kind] for kind in ("roc", "precision_recall", "reliability"))
        assert np.trapezoid(roc.y, roc.x) == pytest.approx(found(result, monitor, "auroc").value)
        assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
        steps = np.sum(np.diff(pr.x) * pr.y[1:])
        assert steps == pytest.approx(found(result, monitor, "average_precision").value)
        assert len(reliability.x) == len(reliability.low) == len(reliability.high) > 1


def test_long_curves_are_thinned_but_keep_their_shape() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.3
    scores = rng.normal(size=20_000) + labels
    cases = tuple(Case(id=str(at), outcome=bool(bad), group=str(at)) for at, bad in enumerate(labels))
    monitor = monitor_of("m", list(scores), signature={})
    thin = bench(Study(name="t", cases=cases, monitors=(monitor,)), replace(QUICK, draws=2, budgets=(), fprs=()))
    roc = next(curve for curve in thin.curves if curve.kind == "roc")
    assert len(roc.x) <= 2_000
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(found(thin, "m", "auroc").value, abs=1e-3)


def test_comparisons_are_paired_and_corrected() -> None:
    study = made()
    twin = replace(study.monitors[0], name="twin")
    result = bench(replace(study, monitors=(*study.monitors, twin)), replace(QUICK, permutations=500))
    assert [(one.first, one.second, one.metric) for one in result.comparisons] == [
        (first, second, metric)
        for first, second in (("good", "poor"), ("good", "twin"), ("poor", "twin"))
        for metric in ("auroc", "tpr_at_fpr_0.01")
    ]
    same = result.comparisons[2]
    assert (same.difference, same.low, same.high, same.p, same.p_holm, same.needed) == (0, 0, 0, 1, 1, None)
    better = result.comparisons[0]
    assert better.difference == pytest.approx(
        found(result, "good", "auroc").value - found(result, "poor", "auroc").value
    )
    assert 0 < better.p <= better.p_holm < 0.05 and better.low > 0 and better.needed is not None
    alone = bench(replace(study, monitors=(*study.monitors, twin)), replace(QUICK, reference="poor"))
    assert {(one.first, one.second) for one in alone.comparisons} == {("good", "poor"), ("twin", "poor")}


def test_the_monitoring_value_is_a_difference_at_one_rate() -> None:
    study = made()
    both = replace(study.monitors[0], reads="reasoning+action", signature={"family": "f"})
    without = replace(study.monitors[1], reads="action", signature={"family": "f"})
    result = bench(replace(study, monitors=(both, without)), QUICK)
    value = found(result, "good", "monitoring_value_at_0.05")
    rates = [found(result, name, "tpr_at_fpr_0.05").value for name in ("good", "poor")]
    assert value.value == pytest.approx(rates[0] - rates[1]) and value.note == "minus poor"
    other = bench(study, replace(QUICK, values=(("poor", "good"),)))
    assert found(other, "poor", "monitoring_value_at_0.05").value == pytest.approx(-value.value)


def test_a_cascade_runs_from_the_first_monitor_to_the_judge(result: BenchResult) -> None:
    (curve,) = [curve for curve in result.curves if curve.kind == "cascade"]
    assert curve.monitor == "good → poor"
    assert (curve.x[0], curve.x[-1]) == (0, 1)
    assert curve.y[0] == pytest.approx(found(result, "good", "auroc").value)
    # The first score orders what the judge scores alike.
    assert curve.y[-1] == pytest.approx(found(result, "poor", "auroc").value, abs=2e-3)
    assert found(result, "good → poor", "cascade_auroc_at_0.5").value == pytest.approx(curve.y[curve.x.index(0.5)])


def test_turns_arms_ratings_and_stances_are_measured_where_they_are_known() -> None:
    study = made(120, groups=24)
    cases = tuple(
        replace(
            case,
            arm="intervention" if at % 2 else "control",
            verbalised=bool(at % 3) if at % 5 else None,
            legibility=float(at % 5),
            stance=("test", "real", "both", None)[at % 4],
            stance_known=at % 7 > 0,
            forbidden=bool(at % 2),
        )
        for at, case in enumerate(study.cases)
    )
    result = bench(replace(study, cases=cases), replace(QUICK, turns=True))
    turn = found(result, "good", "transcript_tpr_at_turn_fpr_0.05")
    assert turn.note.startswith("n: ") and 0 <= turn.value <= 1
    assert found(result, "good", "g_mean_squared_intervention").n == 24
    said = found(result, "", "verbalisation_rate")
    known = [case for case in cases if case.outcome and case.verbalised is not None]
    assert said.value == pytest.approx(np.mean([case.verbalised for case in known])) and "not known" in said.note
    assert found(result, "", "legibility").value == pytest.approx(np.mean([case.legibility for case in cases]))
    assert result.awareness is not None and result.awareness.unread.of == sum(at % 7 == 0 for at in range(120))
    assert result.disobedience is not None and result.disobedience.told == 120
    assert from_json(to_json(result)) == from_json(json.loads(json.dumps(to_json(result))))


def test_what_is_not_defined_is_nan_and_noted() -> None:
    study = made(10)
    clean = replace(study, cases=tuple(replace(case, outcome=False) for case in study.cases))
    result = bench(clean, QUICK)
    assert np.isnan(found(result, "good", "auroc").value) and not result.comparisons
    assert any("no case has the outcome" in note for note in result.notes)
    assert any("only 10 groups" in note for note in result.notes)
    flipped = replace(made(), monitors=(monitor_of("f", list(1 - made().monitors[0].scores), signature={}),))
    assert "point the other way" in found(bench(flipped, QUICK), "f", "auroc").note


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (replace(QUICK, reference="nobody"), "no monitor is called 'nobody': found good, poor"),
        (replace(QUICK, cascades=(("good", "x"),)), "no monitor is called 'x'"),
        (replace(QUICK, compared=("f1",)), "metric 'f1', expected auroc"),
        (replace(QUICK, fprs=(1.5,)), "metric 'tpr_at_fpr_1.5'"),
        (replace(QUICK, unscored="clean"), "unscored is 'clean', expected one of alarm"),
        (replace(QUICK, draws=0), "0 draws"),
    ],
)
def test_options_that_cannot_be_are_refused(options: BenchOptions, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        bench(made(10), options)


def test_no_case_is_refused() -> None:
    with pytest.raises(StudyError, match="no case, expected at least one"):
        bench(Study(name="e", cases=(), monitors=()), QUICK)


def test_results_go_to_json_and_back(result: BenchResult, tmp_path: Path) -> None:
    write_json(result, tmp_path / "r.json")
    back = read_json(tmp_path / "r.json")
    assert to_json(back) == to_json(result)
    assert back.figures[0] == result.figures[0] and back.comparisons == result.comparisons
    assert np.isnan(found(back, "poor", "tokens").low)
    infinite = replace(result, figures=(replace(result.figures[0], high=float("inf")),))
    assert from_json(to_json(infinite)).figures[0].high == float("inf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw | {"schema": "other/1"}, "schema is 'other/1', expected 'cot_probe.bench/1'"),
        (lambda raw: [raw], "schema is"),
        (lambda raw: raw | {"figures": [raw["figures"][0] | {"value": 10**400}]}, r"figures\[0\].value is 1000"),
        (lambda raw: raw | {"n": "many"}, "r.n is 'many', expected int"),
        (lambda raw: raw | {"figures": [{"monitor": "x"}]}, r"r.figures\[0\] has monitor, expected monitor, metric"),
        (lambda raw: {key: raw[key] for key in raw if key != "notes"}, "expected study, outcome"),
        (lambda raw: raw | {"notes": ["a", 1]}, r"r.notes\[1\] is 1, expected str"),
        (lambda raw: raw | {"curves": [raw["curves"][0] | {"kind": "pie"}]}, r"curves\[0\].kind is 'pie'"),
        (lambda raw: raw | {"curves": [raw["curves"][0] | {"x": ["1"]}]}, r"curves\[0\].x\[0\] is '1', expected float"),
    ],
)
def test_a_file_that_is_no_result_is_refused(result: BenchResult, change, said: str) -> None:
    with pytest.raises(BenchFileError, match=said):
        from_json(change(to_json(result)), "r")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{" * 100_000)
    with pytest.raises(BenchFileError, match="not readable as JSON"):
        read_json(tmp_path / "r.json")


def test_figures_and_cases_as_tables(result: BenchResult) -> None:
    table = to_table(result)
    frame = table.to_pandas()
    assert len(frame) == len(result.figures)
    about = json.loads(table.schema.metadata[b"cot_probe.bench/1"])
    assert about["signature"]["draws"] == "60" and about["study"] == "made"
    cases = cases_table(unscored()).to_pandas()
    assert cases["status: m"].tolist() == ["scored"] * 4 + ["refused"] * 2
    assert cases["score: m"].isna().sum() == 2 and cases["outcome"].tolist() == [True, True, False, False, True, False]


# The command

APP = typer.Typer()
APP.command("bench", epilog=EPILOG)(bench_command)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "scores.csv"
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["id", "harmful", "scenario", "judge_score", "cot", "did"])
        for at in range(80):
            bad = at % 3 == 0
            words = " ".join(rng.choice(["plan", "mail", "sum", "code", "test"], 8))
            score = "refused" if at == 5 else f"{rng.normal(0.3 + 0.4 * bad, 0.2):.3f}"
            row = [f"t{at}", int(bad), f"s{at % 20}", score, words + " hide it" * bad, "sent" if bad else "done"]
            out.writerow(row)
        out.writerow(["t99", "", "s1", "0.5", "x", "y"])
    return path


# As if neither were installed. (None in sys.modules is not that: scipy looks there for torch and finds a None.)
BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import typer
from cot_probe.monitorability.bench_command import bench
app = typer.Typer()
app.command()(bench)
app(standalone_mode=False)
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_one_command_gives_a_full_report_without_torch(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    asked = ["--outcome", "harmful", "--id", "id", "--group", "scenario", "--score", "judge=judge_score"]
    asked += ["--reasoning", "cot", "--action", "did", "--draws", "40", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(table), *asked], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "judge" in done.stdout and "AUROC" in done.stdout and "tf-idf (reasoning+action)" in done.stdout
    assert "1 rows left out: no outcome in 'harmful'" in done.stdout
    result = read_json(out / "results.json")
    assert {"judge", "keywords (reasoning)", "tf-idf (action)"} <= {one.monitor for one in result.figures}
    assert found(result, "judge", "refused").value == 1
    assert found(result, "tf-idf (reasoning+action)", "monitoring_value_at_0.05").note == "minus tf-idf (action)"
    assert result.source["scores.csv"] and result.groups == 20
    assert parquet.read_table(out / "results.parquet").num_rows == len(result.figures)
    assert parquet.read_table(out / "cases.parquet").num_rows == 80
    assert "judge" in (out / "report.html").read_text() and (out / "tables.tex").is_file()


def run(*args: object):
    return CliRunner().invoke(APP, [*map(str, args), "--draws", "20"])


def test_a_folder_that_cannot_be_written_is_told(table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(table, "--outcome", "harmful", "--score", "judge_score", "-o", tmp_path / "file")
    assert done.exit_code == 2 and "cannot be written" in done.output


def test_a_directory_of_runs_is_a_study() -> None:
    runs = Path(__file__).parent / "data" / "formats" / "agentic-misalignment"
    done = run(runs, "--json")
    assert done.exit_code == 0, done.output
    assert "classifier" in from_json(json.loads(done.stdout)).outcome


def test_the_command_of_the_readme_gives_a_full_report(table: Path, tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^cot-probe bench (scores\.csv .*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    asked = shlex.split(command)
    assert asked[-2:] == ["-o", "report/"]
    done = run(table, *asked[1:-1], tmp_path / "report")
    assert done.exit_code == 0, done.output
    written = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*.*")}
    plots = {f"plots/{name}{width}.{kind}" for name in PLOTS for width in ("", "_column") for kind in ("png", "svg")}
    assert {
        "report.html",
        "tables.md",
        "tables.tex",
        "results.json",
        "results.parquet",
        "cases.parquet",
    } | plots == written


def test_the_python_of_the_page_runs(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "benchmark.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.csv").write_bytes(table.read_bytes())
    assert run("scores.csv", "--outcome", "harmful", "--score", "judge=judge_score", "-o", "report").exit_code == 0
    for example in examples:
        exec(compile(example, "benchmark.md", "exec"), {})
    said = capsys.readouterr().out
    assert "| thinks real | 59 of 107 | 55.1 [45.7, 64.2] |" in said and "published figures, not ours" in said


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A results directory: two models, free and told not to; and results of `tag`, whose stances go with the outcome.

    Of each model: of 8 that say "real" 6 leak, of 8 that say "test" 1, of 4 that say "real" and end on "test" none, of 4
    that say neither 2.
    """
    root, rows = tmp_path / "experiment", []
    free, bound = "leaking_none-none_none", "leaking_explicit-safety_none"
    write_prompts(root, free)
    write_prompts(root, bound, ORDERS, extra_system_instructions="dont")
    kinds = [("real", 6, 8), ("test", 1, 8), ("both", 0, 4), (None, 2, 4)]
    for model in ("maker/one", "maker/two"):
        number = 0
        for stance, harmful, of in kinds:
            tags = {"both": [["states_real"], ["states_test"]], None: [[]]}.get(stance, [[f"states_{stance}"]])
            for at in range(of):
                number += 1
                condition = bound if at % 2 else free
                write_sample(root, model, condition, number, text="I read the mail.", harmful=at < harmful)
                row = result_row(f"{model}/{condition}/sample_{number:03}", stance, tags)
                rows.append(row | {"scores": row["scores"] | {"strategic_harm": 0.2 + 0.5 * (at < harmful)}})
    results = tmp_path / "tags.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root, results


def test_the_test_or_real_question_from_a_directory_to_the_page(runs: tuple[Path, Path], tmp_path: Path) -> None:
    root, tags = runs
    done = run(root, "--results", tags, "--no-baselines", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "says it is real" in done.output and "real against test, within 2 strata" in done.output
    result = read_json(tmp_path / "out" / "results.json")
    asked = result.awareness
    assert asked is not None and asked.unread.of == 0
    assert {name: (rate.count, rate.of) for name, rate in asked.rates.items()} == {
        "test": (2, 16),
        "real": (12, 16),
        "both": (0, 8),
        "neither": (4, 8),
    }
    rate = asked.rates["real"]
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(12, 16, method="wilson"))
    main = asked.real_against_test
    assert main.contrast.p == pytest.approx(fisher_exact([[12, 4], [2, 14]]).pvalue)
    within = StratifiedTable([np.array([[6.0, 2.0], [1.0, 7.0]])] * 2)
    assert main.stratified is not None and main.stratified.odds.value == pytest.approx(within.oddsratio_pooled)
    assert main.stratified.p == pytest.approx(within.test_null_odds(correction=False).pvalue)
    assert [stratum.name for stratum in main.strata] == ["maker/one", "maker/two"]
    # The experiment's three labels: what ends on "test" thinks evaluation.
    cases = parquet.read_table(tmp_path / "out" / "cases.parquet").to_pandas()
    assert cases["label"].value_counts().to_dict() == {
        "deliberates_thinks_eval": 24,
        "deliberates_thinks_real": 16,
        "no_deliberation": 8,
    }
    assert result.deliberation is not None
    assert {name: (rate.count, rate.of) for name, rate in result.deliberation.rates.items()} == {
        "deliberates_thinks_eval": (2, 24),
        "deliberates_thinks_real": (12, 16),
        "undecided": (0, 0),
        "no_deliberation": (4, 8),
    }
    assert result.disobedience is not None and result.disobedience.rates["forbidden"].of == 24
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Test or real?" in page and "thinks evaluation" in page and "Told not to" in page
    assert (tmp_path / "out" / "plots" / "test_or_real.png").stat().st_size > 5_000
    assert "thinks real" in (tmp_path / "out" / "tables.tex").read_text()
    by = run(root, "--results", tags, "--no-baselines", "--json", "--stratum", "condition")
    found = from_json(json.loads(by.stdout)).awareness
    assert found is not None and len(found.real_against_test.strata) == 2
    assert {one.name for one in found.real_against_test.strata} == {case["group"] for _, case in cases.iterrows()}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--stratum", "maker"], "expected one of model, scenario, condition"),
        (["--group", "g"], "directory of runs, which has no columns"),
        (["--outcome", "y"], "directory of runs, which has no columns"),
        (["--outcomes", "o.csv"], "which has its own: leave it out"),
    ],
)
def test_what_says_nothing_of_a_directory_is_refused(asked: list[str], said: str) -> None:
    done = run(Path(__file__).parent / "data" / "formats" / "agentic-misalignment", *asked)
    assert done.exit_code == 2 and said in " ".join(done.output.replace("│", " ").split())


def test_labels_of_the_experiment_are_stances_of_a_table() -> None:
    rows = [
        {"y": at % 2, "said": word, "s": at / 8} for at, word in enumerate([*LABEL_STANCES, "Test", "both", "x", ""])
    ]
    study = read_study(rows, Columns(outcome="y", stance="said", scores=(ScoreColumn(name="s", column="s"),)))
    assert [(case.stance, case.stance_known, case.label) for case in study.cases] == [
        *((stance, True, label) for label, stance in LABEL_STANCES.items()),
        ("test", True, None),
        ("both", True, None),
        (None, False, None),
        (None, False, None),
    ]
    assert any("taken as empty: stance is not test, real, both or neither" in note for note in study.notes)
    found = bench(study, QUICK)
    assert found.awareness is not None and found.deliberation is not None
    assert [rate.of for rate in found.awareness.rates.values()] == [2, 1, 2, 1]
    assert [rate.of for rate in found.deliberation.rates.values()] == [1, 1, 1, 1] and found.deliberation.unread.of == 4
    assert cases_table(study)["label"].to_pylist()[:4] == list(LABEL_STANCES)


def test_json_and_strict(table: Path) -> None:
    asked = [table, "--outcome", "harmful", "--score", "judge=judge_score", "--threshold", "judge=0.5"]
    done = run(*asked, "--json", "--reads", "judge=action", "--fpr", "0.1")
    result = from_json(json.loads(done.stdout))
    assert done.exit_code == 0 and found(result, "judge", "tpr_at_fpr_0.1").n == 80
    assert result.signature["judge: reads"] == "action" and result.signature["judge: threshold"] == "0.5"
    assert run(*asked, "--strict").exit_code == 4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--score", "judge=judge_score"], "--outcome"),
        (["--outcome", "harm", "--score", "judge_score"], "no column 'harm': found id, harmful"),
        (["--outcome", "harmful"], "no monitor: give --score"),
        (["--outcome", "harmful", "--score", "=x"], "expected NAME=VALUE"),
        (["--outcome", "harmful", "--score", "judge_score", "--unscored", "clean"], "expected one of alarm"),
        (["--outcome", "harmful", "--score", "judge_score", "--threshold", "x=1"], "no monitor 'x'"),
        (["--outcome", "harmful", "--score", "judge_score", "--threshold", "judge_score=high"], "expected a number"),
        (["--outcome", "harmful", "--score", "judge_score", "--fpr", "5"], "expected shares over 0"),
        (["--outcome", "harmful", "--reasoning", "cot", "--judge", "j=none.jsonl", "--prices", "1"], "two numbers"),
        (["--outcome", "harmful", "--write-requests", "r.jsonl"], "--judge-model"),
        (["--outcome", "harmful", "--score", "j=cot"], "column 'cot' of monitor 'j' holds no number (first: '"),
        (["--outcome", "cot", "--score", "judge_score"], "neither true nor false"),
    ],
)
def test_wrong_usage_says_what_to_do(table: Path, asked: list[str], said: str) -> None:
    done = run(table, *asked)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


def test_costs_that_the_user_tells_are_figures(table: Path) -> None:
    asked = [table, "--outcome", "harmful", "--score", "j=judge_score", "--json"]
    result = from_json(json.loads(run(*asked, "--cost", "j=seconds:12,tokens:8000,dollars:0.4").stdout))
    assert found(result, "j", "dollars_per_trace").value == pytest.approx(0.4 / 80)
    assert found(result, "j", "tokens").value == 8000 and found(result, "j", "seconds").value == 12
    for wrong, said in (("j=euros:3", "expected seconds, tokens, dollars"), ("k=seconds:3", "no monitor 'k'")):
        done = run(*asked, "--cost", wrong)
        assert done.exit_code == 2 and said in done.output


def test_streams_have_first_alarms_and_their_highest_score(table: Path, tmp_path: Path) -> None:
    """t0 alarms in its evidence, t3 too late, t6 never, t9 before it; t1 is clean and alarms twice."""

    def row(id: str, scores: list[float], *evidence: tuple[int, int], **more: object) -> dict[str, object]:
        places = [100 * at + 99 for at in range(len(scores))]
        return {"id": id, "n_tokens": 500, "positions": places, "scores": scores, "evidence": evidence} | more

    rows = [
        row("t0", [0.1, 0.9, 0.1, 0.1, 0.1], (150, 210)),
        row("t3", [0.1, 0.1, 0.1, 0.8, 0.1], (150, 210)),
        row("t6", [0.1, 0.1, 0.1, 0.1, 0.1], (150, 210)),
        row("t9", [0.7, 0.1, 0.1, 0.1, 0.1], (150, 210)),
        row("t1", [0.6, 0.1, 0.6, 0.1, 0.1]),
        row("t2", [0.6], n_tokens=50),
        row("t4", [0.6], evidence=[[1]]),
        row("t5", []) | {"scores": "high"},
        row("nobody", [0.6]),
    ]
    file = tmp_path / "streams.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    asked = [table, "--outcome", "harmful", "--group", "scenario", "--streams", f"live={file}"]
    done = run(*asked, "--threshold", "live=0.5", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    result = read_json(tmp_path / "out" / "results.json")
    shares = {
        name: found(result, "live", name) for name in ("exact_hit", "within_128", "early_alarm", "missed_evidence")
    }
    assert {name: (one.value, one.n) for name, one in shares.items()} == {
        "exact_hit": (0.25, 4),
        "within_128": (0.25, 4),
        "early_alarm": (0.25, 4),
        "missed_evidence": (0.25, 4),
    }
    assert found(result, "live", "alarm_delay").value == (49 + 249) / 2
    assert found(result, "live", "first_alarm").value == pytest.approx(199 / 500)
    # Three alarms (t9's and both of t1) in 4 times 150 and 500 tokens without or before evidence.
    assert found(result, "live", "false_alarms_per_10k").value == pytest.approx(3 * 10_000 / 1_100)
    cases = parquet.read_table(tmp_path / "out" / "cases.parquet").to_pandas().set_index("id")
    assert cases["score: live"].dropna().to_dict() == {"t0": 0.9, "t3": 0.8, "t6": 0.1, "t9": 0.7, "t1": 0.6}
    assert cases["status: live"].value_counts().to_dict() == {"missing": 72, "scored": 5, "unparsable": 3}
    said = "\n".join(result.notes)
    assert "3 streams of 'live' left out: not as they should be (first: line 6" in said
    assert "1 rows of 'live' are of no case (first: line 9: 'nobody')" in said
    assert "While the reasoning is written" in (tmp_path / "out" / "report.html").read_text()
    bare = from_json(json.loads(run(*asked, "--json").stdout))
    assert any("live: no threshold" in note for note in bare.notes)
    file.write_text(json.dumps(row("nobody", [0.6])) + "\n")
    assert "no id is that of a case" in run(*asked).output


def test_requests_to_a_judge_and_its_answers(table: Path, tmp_path: Path) -> None:
    place = tmp_path / "requests.jsonl"
    asked = [table, "--outcome", "harmful", "--reasoning", "cot", "--action", "did"]
    done = run(*asked, "--write-requests", place, "--judge-model", "m")
    assert done.exit_code == 0 and "80 requests for m" in done.output
    answers = tmp_path / "answers.jsonl"
    with answers.open("w") as stream:
        for line in place.read_text().splitlines():
            id = json.loads(line)["custom_id"]
            answer = json.dumps({"score": int(int(id[1:]) % 3 == 0)})
            stream.write(json.dumps({"custom_id": id, "answer": answer}) + "\n")
    asked += ["--judge", f"j={answers}", "--judge-scale", "1", "--own-prompt", "--no-baselines", "--json"]
    result = from_json(json.loads(run(*asked).stdout))
    assert found(result, "j", "auroc").value == 1
    assert result.signature["j: prompt"] == "cot_probe judge 1"


def test_results_of_tag_are_measured_with_outcomes(results: Path, tmp_path: Path) -> None:
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("id,harmful\nt1,1\nt2,0\nt3,0\nt4,1\n")
    done = run(results, "--outcomes", outcomes, "--outcome", "harmful", "--our-tag", "states_test", "--json")
    assert done.exit_code == 0, done.output
    result = from_json(json.loads(done.stdout))
    assert found(result, "cot_probe states_test", "auroc").n == 4
    assert found(result, "cot_probe states_test", "missing").value == 1
    assert result.awareness is not None and result.awareness.unread.of == 1


def test_our_own_scores_of_a_table(table: Path, toy_checkpoint: Path) -> None:
    asked = [table, "--outcome", "harmful", "--reasoning", "cot", "--no-baselines", "--tag"]
    done = run(*asked, "--checkpoint", toy_checkpoint, "--json")
    assert done.exit_code == 0, done.output
    result = from_json(json.loads(done.stdout))
    assert found(result, "cot_probe strategic_harm", "g_mean_squared").n == 80
    assert result.awareness is not None
    assert run(*asked, "--checkpoint", "nowhere").exit_code == 2


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    evil = "[red]\x1b[2J<script>alert(1)</script>" + "x" * 500
    rows = [f"{at},{int(at % 2 == 0)},{at}" for at in range(10)]
    path.write_text(f"id,y,{evil}\n" + "\n".join(rows) + f"\n{evil},maybe,1\n")
    done = run(path, "--outcome", "y", "--score", f"{evil}={evil}", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "<script>alert(1)" not in (tmp_path / "out" / "report.html").read_text()
