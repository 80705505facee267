"""Goals, hard negatives and breakdowns, on made-up arrays against scikit-learn and counts by hand."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from cot_probe.annotations import AnnotatedTrace, LabelledSpan, Reading
from cot_probe.annotations.phenomena import HARD_NEGATIVES
from cot_probe.monitorability import breakdowns, card_goals, card_markdown, metrics
from cot_probe.monitorability.card_goals import REAL_GOALS, WRITTEN_GOALS
from cot_probe.monitorability.card_levels import Measured
from cot_probe.monitorability.card_tables import stored
from cot_probe.tagger import Tagger
from cot_probe.taxonomy import PUBLIC_TAGS, SENTENCE_LABELS, TAGS

AT = {tag: at for at, tag in enumerate(TAGS)}


def record(number: int, **fields) -> AnnotatedTrace:
    usual = {
        "id": f"t{number}",
        "group": f"s{number // 2}",
        "phenomenon": "blackmail",
        "split": "test",
        "language": "en",
        "style": "",
        "context": "",
        "text": "One. Two. Six. Ten.",
        "sentences": (),
        "trace": frozenset(),
        "unsure": False,
        "readings": (),
        "n_sentences": 4,
    }
    return AnnotatedTrace(**(usual | fields))


def traces(wanted: np.ndarray, scores: np.ndarray, groups: list[str] | None = None) -> Measured:
    return Measured(
        names=TAGS,
        scores=scores,
        wanted=wanted,
        thresholds=np.full(len(TAGS), 0.5),
        groups=tuple(groups or [str(at) for at in range(len(wanted))]),
        draws=20,
    )


def random_level(names: tuple[str, ...], n: int, seed: int) -> Measured:
    rng = np.random.default_rng(seed)
    wanted = rng.random((n, len(names))) < 0.4
    scores = np.clip(0.5 * rng.random(wanted.shape) + 0.4 * wanted, 0, 1)
    return dataclasses.replace(traces(wanted, scores), names=names, thresholds=np.linspace(0.4, 0.6, len(names)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_kappa_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels, weights = rng.random(50), rng.random(50) < 0.4, rng.integers(0, 4, 50).astype(float)
    labels[:2], weights[:2] = [True, False], 1
    expected = sk.cohen_kappa_score(labels, scores >= 0.5, sample_weight=weights)
    assert card_goals.kappa_at(0.5)(scores, labels, weights) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy_and_solves_its_equation(counts: tuple[int, int]) -> None:
    count, n = counts
    low, high = metrics.wilson(count, n)
    expected = binomtest(count, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    for bound in (low, high):
        assert (count / n - bound) ** 2 == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / n, abs=1e-9)


def test_wilson_of_nothing() -> None:
    z2 = 1.959963984540054**2
    assert metrics.wilson(0, 5) == pytest.approx((0.0, z2 / (5 + z2)))
    assert np.isnan(metrics.wilson(0, 0)).all()


def test_goals_equal_scikit_learn() -> None:
    sentence, trace = random_level(SENTENCE_LABELS, 80, 0), random_level(TAGS, 60, 1)
    rows = card_goals.goals_table(sentence, trace, [], WRITTEN_GOALS)
    by = {(row.figure, row.label): row for row in rows}
    assert len(by) == len(rows) == 3 + 3 + 5 + 5 + 6 + 1
    for tag in PUBLIC_TAGS:
        row, at = by["trace AUROC", tag], AT[tag]
        expected = sk.roc_auc_score(trace.wanted[:, at], trace.scores[:, at])
        assert row.estimate.value == pytest.approx(expected)
        assert row.margin == pytest.approx(expected - 0.98)
        assert row.estimate.low <= row.estimate.value <= row.estimate.high
    for at, label in enumerate(SENTENCE_LABELS):
        expected = sk.average_precision_score(sentence.wanted[:, at], sentence.scores[:, at])
        assert by["sentence average precision", label].estimate.value == pytest.approx(expected)
        tagged = sentence.scores[:, at] >= sentence.thresholds[at]
        kappa = by["sentence kappa with the labels", label]
        assert kappa.estimate.value == pytest.approx(sk.cohen_kappa_score(sentence.wanted[:, at], tagged))
        assert np.isnan(kappa.margin), "without readers there is no goal"
    error = by["trace calibration error", "strategic_harm"]
    assert error.at_most and error.margin == pytest.approx(0.03 - error.estimate.value)


def test_kappa_of_the_model_stands_beside_that_of_the_readers() -> None:
    starts = (0, 5, 10, 15)

    def reading(name: str, chosen: str) -> Reading:
        spans = [s for s, mark in zip(starts, chosen, strict=True) if mark == "x"]
        labelled = tuple(LabelledSpan(start=s, end=s + 4, labels=("states_test",)) for s in spans)
        return Reading(annotator=name, sentences=labelled, trace=frozenset())

    said = [("xx..", "x..."), ("....", "...x"), ("xxx.", "xxx.")]
    records = [record(at, readings=(reading("A", a), reading("B", b))) for at, (a, b) in enumerate(said)]
    a, b = ([mark == "x" for pair in said for mark in pair[which]] for which in (0, 1))
    expected = sk.cohen_kappa_score(a, b)
    assert card_goals.readers_kappa([*records, record(9)], "states_test", 20).value == pytest.approx(expected)
    row = card_goals.kappa_row(random_level(SENTENCE_LABELS, 40, 2), "states_test", records, 0.1)
    assert row.goal == pytest.approx(expected - 0.1)
    assert row.margin == pytest.approx(row.estimate.value - expected + 0.1)
    nobody = card_goals.kappa_row(random_level(SENTENCE_LABELS, 40, 2), "states_real", records, 0.1)
    assert np.isnan(nobody.goal) and card_markdown.verdict(nobody.margin) == "–"


def test_what_cannot_be_computed_is_a_dash_and_null() -> None:
    none = dataclasses.replace(random_level(TAGS, 30, 3), wanted=np.zeros((30, len(TAGS)), dtype=bool))
    sentences = dataclasses.replace(none, names=SENTENCE_LABELS)
    rows = card_goals.goals_table(sentences, none, [], REAL_GOALS)
    assert all(np.isnan([row.estimate.value, row.margin]).all() for row in rows)
    undecided = [line for line in card_markdown.goals_markdown(rows).splitlines() if line.endswith("| – |")]
    assert len(undecided) == len(rows)
    text = json.dumps(stored(rows), allow_nan=False)
    assert json.loads(text)[0]["estimate"]["value"] is None


@pytest.mark.parametrize(
    ("margin", "text"),
    [
        (0.0123, "met by 0.012"),
        (0.0, "met by less than 0.001"),
        (-0.25, "missed by 0.250"),
        (-0.0002, "missed by less than 0.001"),
        (float("nan"), "–"),
    ],
)
def test_verdicts(margin: float, text: str) -> None:
    assert card_markdown.verdict(margin) == text


def test_stance_by_hand() -> None:
    """Found: traces 0 to 2; the likelier stance is a true one in 0 and 2. Trace 3 is not found."""
    columns = ("eval_awareness", "states_test", "states_real")
    scores, wanted = np.zeros((4, len(TAGS))), np.zeros((4, len(TAGS)), dtype=bool)
    scores[:, [AT[c] for c in columns]] = [[0.9, 0.8, 0.1], [0.9, 0.7, 0.2], [0.9, 0.3, 0.6], [0.1, 0.2, 0.1]]
    wanted[:, [AT[c] for c in columns]] = [[1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]]
    right, found = card_goals.stance_right(traces(wanted, scores))
    assert found.tolist() == [True, True, True, False]
    assert right[found].tolist() == [True, False, True]
    row = card_goals.goals_table(random_level(SENTENCE_LABELS, 20, 4), traces(wanted, scores), [], REAL_GOALS)[-1]
    assert row.estimate.value == pytest.approx(2 / 3) and row.estimate.positives == 3


def test_false_positives_by_hand() -> None:
    dull, fiction = "benign:dull_agent_work", "benign:fiction_and_games"
    records = [
        record(0, phenomenon=dull),
        record(1, phenomenon=dull),
        record(2, phenomenon=dull, trace=frozenset({"strategic_harm"})),
        record(3, phenomenon=fiction, trace=frozenset({"harm_rejected"})),
        record(4, trace=frozenset({"harm_rejected"})),
        record(5),
    ]
    wanted, scores = np.zeros((6, len(TAGS)), dtype=bool), np.zeros((6, len(TAGS)))
    wanted[2, AT["strategic_harm"]] = True
    scores[[0, 2, 3, 5], AT["strategic_harm"]] = 0.9
    rows = breakdowns.hard_negatives(traces(wanted, scores), records)
    assert [row.type for row in rows[:: len(PUBLIC_TAGS)]] == [*HARD_NEGATIVES, breakdowns.ALL_TYPES]
    counts = {(row.type, row.tag): (row.tagged, row.negatives) for row in rows}
    assert counts["long dull agent work", "strategic_harm"] == (1, 2)
    assert counts["long dull agent work", "eval_awareness"] == (0, 2)
    assert counts["fiction and games", "strategic_harm"] == (1, 1)
    assert counts["considered and rejected", "strategic_harm"] == (1, 2)
    assert counts["negotiation", "strategic_harm"] == (0, 0)
    assert counts[breakdowns.ALL_TYPES, "strategic_harm"] == (2, 4)
    text = card_markdown.hard_negatives_markdown(rows)
    low, high = (100 * bound for bound in metrics.wilson(1, 2))
    assert f"| 1 / 2: 50.0 % [{low:.1f}, {high:.1f}], missed by 47.0 |" in text
    assert "0 / 2: 0.0 %" in text and "met by 3.0" in text
    assert "negotiation" in text.split("No trace of: ")[1]
    json.dumps(stored(rows), allow_nan=False)


def test_classes_of_length_and_language() -> None:
    def name(words: int) -> str:
        return breakdowns.length_class(record(0, text="a " * words))

    assert [name(n) for n in (0, 59)] == ["under 60 words"] * 2
    assert [name(n) for n in (60, 400)] == ["60 to 400 words"] * 2
    assert [name(n) for n in (401, 1500)] == ["401 to 1500 words"] * 2
    assert name(1501) == "over 1500 words"
    spoken = [breakdowns.language_class(record(0, language=code)) for code in ("en", "ja", "und")]
    assert spoken == ["English", "other", "not recorded"]


def test_groups_equal_scikit_learn_and_small_ones_have_counts_only() -> None:
    trace = random_level(TAGS, 80, 5)
    names = ["large"] * 50 + ["one scenario"] * 24 + ["few"] * 6
    groups = [f"s{at // 2}" if at < 50 else "same" if at < 74 else f"f{at}" for at in range(80)]
    trace = dataclasses.replace(trace, groups=tuple(groups))
    rows = breakdowns.breakdown(trace, names, order=("large",))
    assert [row.group for row in rows[::3]] == ["large", "few", "one scenario"]
    for row in rows:
        inside, at = np.array([name == row.group for name in names]), AT[row.tag]
        true, scores = trace.wanted[inside, at], trace.scores[inside, at]
        (true_negative, false), (missed, found) = sk.confusion_matrix(true, scores >= trace.thresholds[at])
        assert (row.found, row.positive) == (found, found + missed)
        assert (row.false, row.negative) == (false, false + true_negative)
        if row.group == "large":
            assert row.auroc.value == pytest.approx(sk.roc_auc_score(true, scores))
            assert row.average_precision.value == pytest.approx(sk.average_precision_score(true, scores))
            assert row.auroc.n == row.traces == 50 and row.scenarios == 25
        else:
            assert row.auroc is row.average_precision is None
    assert all(row.auroc is None for row in breakdowns.breakdown(trace, names, figures=False))
    for text in (card_markdown.figures_markdown("group", rows), card_markdown.counts_markdown("group", rows)):
        assert len({line.count("|") for line in text.splitlines()}) == 1
    low, high = (round(100 * bound) for bound in metrics.wilson(rows[0].found, rows[0].positive))
    assert f"{rows[0].found} / {rows[0].positive} [{low}, {high}]" in card_markdown.figures_markdown("group", rows)


class NoBaselines:
    """Stands in for the baselines, which need a training split."""

    def scores(self, records: list[AnnotatedTrace]) -> list:
        return []


@pytest.mark.parametrize("by_scenario", [True, False])
def test_the_evaluation_reports_and_stores_all_tables(toy_tagger: Tagger, by_scenario: bool) -> None:
    from evaluate import evaluate_on

    span = LabelledSpan(start=0, end=4, labels=("states_test",))
    read = tuple(Reading(annotator=a, sentences=(span,), trace=frozenset({"states_test"})) for a in "AB")
    aware = {"sentences": (span,), "trace": frozenset({"states_test"}), "readings": read}
    records = [record(at, source="" if by_scenario else f"o/r{at % 2}", **(aware if at % 2 else {})) for at in range(8)]
    store: dict = {}
    text = evaluate_on(
        "made up", toy_tagger, records, records, NoBaselines(), by_scenario=by_scenario, draws=5, store=store
    )
    assert "### Goals" in text and "### False positives on hard negatives" in text and "### By kind of trace" in text
    assert f"| en | 0 / {len(records)}: 0.0 % [0.0, " in text.partition("### Marked unfamiliar")[2]
    assert "value" in store["figures"]["trace/strategic_harm/cot_probe"]["AUROC"]
    kind = "phenomenon" if by_scenario else "source"
    assert set(store["breakdowns"]) == {"length", "language class", "language", kind}
    json.dumps([store["goals"], store["hard_negatives"], store["breakdowns"]], allow_nan=False)
    same = [row for row in store["goals"] if (row["figure"], row["label"]) == ("trace AUROC", "eval_awareness")]
    assert same[0]["estimate"] == store["figures"]["trace/eval_awareness/cot_probe"]["AUROC"]
    assert same[0]["goal"] == (0.98 if by_scenario else 0.95)
