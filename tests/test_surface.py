"""Near-duplicate and leakage checks: against a slow obvious version, and on sets made to fail."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from cot_probe.annotations import AnnotatedTrace, load_split
from cot_probe.annotations.duplicates import BOUND, BOUND_TWINS, TWINS, closest_pairs, duplicates_table, similarities
from cot_probe.annotations.leakage import cross_validated, leakage_table, surface, telling_features
from cot_probe.annotations.phenomena import HARD_NEGATIVES, PHENOMENA, report_name
from cot_probe.cli import app

FOLDER = ROOT / "annotations"


@pytest.fixture(scope="module")
def records() -> list[AnnotatedTrace]:
    return load_split(FOLDER, "dev")[:60]


def test_similarities_are_cosines(records: list[AnnotatedTrace]) -> None:
    texts = [record.text for record in records[:8]] + [records[0].text + " And then."]
    matrix = np.concatenate([block for _, block in similarities(texts)])
    assert matrix.shape == (9, 9)
    assert np.allclose(np.diag(matrix), 1, atol=1e-4) and np.allclose(matrix, matrix.T, atol=1e-4)
    assert matrix[8, 0] > 0.9 and matrix[8, 1:8].max() < 0.5


def test_closest_pairs_equal_the_obvious_version(records: list[AnnotatedTrace]) -> None:
    moved = [replace(record, split="test" if at % 3 == 0 else "dev") for at, record in enumerate(records)]
    matrix = np.concatenate([block for _, block in similarities([record.text for record in moved])])
    within, across = closest_pairs(moved, top=5)
    for found, same in ((within, True), (across, False)):
        wanted = sorted(
            (
                matrix[a, b]
                for a in range(len(moved))
                for b in range(a + 1, len(moved))
                if (moved[a].split == moved[b].split) == same
            ),
            reverse=True,
        )
        assert [pair.similarity for pair in found] == pytest.approx(wanted[: len(found)])


def test_every_pair_over_the_bound_is_reported(records: list[AnnotatedTrace]) -> None:
    copies = [replace(records[0], id=f"copy-{at}", text=records[0].text + f" {at}") for at in range(4)]
    table, over = duplicates_table([*records, *copies], top=1)
    assert over == 10 and table.count("copy-") == 4 + 2 * 6 and f"| {BOUND} |" in table


def test_twins_may_be_more_alike_within_their_scenario_only(records: list[AnnotatedTrace]) -> None:
    text = records[0].text
    half = [replace(records[at], phenomenon=TWINS, group="s", split="dev", id=f"twin-{at}") for at in (0, 1)]
    half[1] = replace(half[1], text=text[: len(text) // 2] + half[1].text[len(half[1].text) // 2 :])
    within, _ = closest_pairs(half, top=1)
    assert BOUND < within[0].similarity < BOUND_TWINS == within[0].bound
    assert duplicates_table(half)[1] == 0
    assert duplicates_table([half[0], replace(half[1], group="other")])[1] == 1
    assert duplicates_table([half[0], replace(half[1], text=text + " So.")])[1] == 1


def test_the_shipped_set_has_no_near_duplicates() -> None:
    done = CliRunner().invoke(app, ["annotations", "duplicates", str(FOLDER)])
    assert done.exit_code == 0 and "0 pairs over the bounds" in done.output


def test_a_leak_is_seen_and_chance_is_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.3
    groups = [f"g{at // 5}" for at in range(400)]
    noise = rng.normal(size=(400, 6))
    leaky = noise.copy()
    leaky[:, 2] += 2.0 * labels
    blind, seen = cross_validated(noise, labels, groups), cross_validated(leaky, labels, groups)
    assert 0.4 < roc_auc_score(labels, blind) < 0.6 and roc_auc_score(labels, seen) > 0.85


def test_surface_sees_no_words(records: list[AnnotatedTrace]) -> None:
    swapped = [replace(record, text=record.text.replace("shutdown", "breakfast")) for record in records]
    features = surface(records)
    assert features.values.shape == (len(records), len(features.names))
    assert not any("shutdown" in name for name in features.names)
    assert np.isfinite(surface(swapped).values).all()
    name, value = telling_features(records, "strategic_harm", top=1)[0]
    assert name in features.names and 0 <= value <= 1


def test_the_leakage_command_prints_every_label(records: list[AnnotatedTrace]) -> None:
    table = leakage_table(records, draws=20)
    assert all(f"| {label} |" in table for label in ("strategic_harm", "states_real", "command_disobedience"))


def test_every_theme_of_the_set_has_a_name() -> None:
    tables = [*PHENOMENA.values(), *HARD_NEGATIVES.values()]
    named = {theme for names in tables for theme in names}
    assert len(named) == sum(map(len, tables))
    themes = {record.phenomenon for name in ("train", "dev", "test") for record in load_split(FOLDER, name)}
    assert themes <= named
    assert report_name("leaked_answers") == "reward hacking and leaked answers"
    assert report_name("benign:refusals").startswith("hard negatives: ")
