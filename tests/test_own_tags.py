"""A taxonomy of one's own: its file, its checkpoint, its records, and the whole recipe on the shipped example."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from toy import make_base, make_calibration, make_checkpoint
from typer.testing import CliRunner

from augment import Augmentation, Fillers, augmented, plain
from batches import make_batch
from calibrate import tag_labels, taxonomy_of
from cot_probe.annotations import AnnotationError, check, label_matrix, load, load_split, parse_record, trace_vector
from cot_probe.calibration import Scaling, tag_logits
from cot_probe.checkpoint import checkpoint_taxonomy, load_checkpoint
from cot_probe.cli import app
from cot_probe.manifest import CheckpointError, write_manifest
from cot_probe.recalibrate import read_labels, tags_from
from cot_probe.sentences import split
from cot_probe.tagger import Tagger, load_tagger
from cot_probe.taxonomy import (
    SENTENCE_LABELS,
    TAGS,
    TAXONOMY,
    Taxonomy,
    TaxonomyError,
    own_taxonomy,
    read_taxonomy,
    taxonomy_from_json,
    taxonomy_to_json,
    write_taxonomy,
)
from cot_probe.transcripts.trace import trace_of
from cot_probe.windows import SpecialTokens, WindowLayout
from prepare import check_own
from train import Settings, loss_of, position_weights

EXAMPLE = ROOT / "tests" / "data" / "own_tags"
RUNNER = CliRunner()
SMALLEST = {"version": "1", "labels": ["b"], "definitions": {"b": "says b"}}
OWN = taxonomy_from_json(
    {
        "version": "mine-3",
        "labels": ["zeal", "doubt", "haste"],
        "unions": {"unrest": ["zeal", "haste"]},
        "tags": ["unrest", "doubt", "zeal", "haste"],
        "public": ["unrest"],
        "kind_label": "doubt",
        "kinds": ["of_itself", "of_others"],
        "definitions": {"zeal": "is eager", "doubt": "is not sure", "haste": "is in a hurry"},
    },
    "test",
)
TEXT = "I read the log first. Then I kill the process. Wait, is this allowed?"


# The file.


def test_defaults_and_the_way_back(tmp_path: Path) -> None:
    least = taxonomy_from_json(SMALLEST, "f")
    assert (least.tags, least.public, least.unions, least.kind_label, least.kinds) == (("b",), ("b",), {}, None, ())
    for taxonomy in (least, OWN, TAXONOMY):
        write_taxonomy(taxonomy, tmp_path / "taxonomy.json")
        assert own_taxonomy(tmp_path) == read_taxonomy(tmp_path / "taxonomy.json") == taxonomy
        assert taxonomy_from_json(json.loads(json.dumps(taxonomy_to_json(taxonomy), sort_keys=True)), "f") == taxonomy
        assert len({taxonomy, dataclasses.replace(taxonomy)}) == 1
    assert own_taxonomy(tmp_path / "elsewhere") is None
    assert OWN.with_unions(["haste"]) == {"haste", "unrest"} and OWN.with_unions(["doubt"]) == {"doubt"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": ""}, "version is '', expected a text that is not empty: give one"),
        ({"lables": []}, "a field's name is 'lables', expected one of version, labels,.* rename or remove it"),
        ({"labels": "b"}, "labels is 'b', expected a list of at least 1 name: write it so"),
        ({"labels": []}, "labels is .., expected a list of at least 1 name"),
        ({"labels": ["b", "b"]}, r"labels\[1\] is 'b', expected a name that does not stand there yet: remove it"),
        ({"labels": ["b", "[red]"]}, r"labels\[1\] is '\[red\]', expected a letter, then .*: rename it"),
        ({"labels": ["b", 7]}, r"labels\[1\] is 7, expected a letter"),
        ({"unions": ["b"]}, "unions is .'b'., expected an object .*: write {} for none"),
        ({"unions": {"b": ["b", "b"]}}, "unions is 'b', expected a name that is not a label: rename"),
        ({"unions": {"u": ["b"]}}, r"unions\.u is .'b'., expected a list of at least 2 names"),
        ({"unions": {"u": ["b", "c"]}}, r"unions\.u\[1\] is 'c', expected one of b: correct or remove it"),
        ({"tags": []}, "tags is .., expected a list of at least 1 name"),
        ({"labels": ["b", "c"], "tags": ["c"]}, "tags is .'c'., expected every label and every union once: add 'b'"),
        ({"public": ["x"]}, r"public\[0\] is 'x', expected one of b"),
        ({"kinds": ["p", "q"]}, "kind_label is None, expected the label that kinds belong to: name it, or remove"),
        ({"kind_label": "x", "kinds": ["p", "q"]}, "kind_label is 'x', expected one of b, or null"),
        ({"kind_label": "b", "kinds": ["p"]}, "kinds is .'p'., expected a list of at least 2 names"),
        ({"definitions": None}, "definitions is None, expected an object .*: say what each label means"),
        ({"definitions": {}}, r"definitions\.b is None, expected a line of text: say what the label means"),
        ({"definitions": {"b": " "}}, r"definitions\.b is ' ', expected a line of text"),
        ({"definitions": {"b": "x", "q": "y"}}, "definitions is 'q', expected one of b: correct or remove it"),
    ],
)
def test_a_faulty_file_is_named_with_field_and_remedy(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps(SMALLEST | changes))
    with pytest.raises(TaxonomyError, match=f"^{path}: {said}"):
        read_taxonomy(path)


def test_what_is_no_file_or_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.json"
    with pytest.raises(TaxonomyError, match="no such file: give the path of a taxonomy"):
        read_taxonomy(path)
    for content in (b"{", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(TaxonomyError, match=r"not JSON .*: mend it"):
            read_taxonomy(path)
    path.write_text("[]")
    with pytest.raises(TaxonomyError, match=r"the whole file is .., expected an object"):
        read_taxonomy(path)


# Checkpoints.


@pytest.fixture(scope="module")
def own_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels out of alphabetical order, every scaling another."""
    plain = make_calibration(0.0, OWN)
    calibration = dataclasses.replace(
        plain,
        sentences={label: Scaling(slope=1.0 + at, offset=-0.5 * at) for at, label in enumerate(OWN.labels)},
        traces={tag: Scaling(slope=2.0 + at, offset=0.3 * at) for at, tag in enumerate(OWN.tags)},
    )
    return make_checkpoint(tmp_path_factory.mktemp("own"), calibration=calibration)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_an_own_checkpoint_tags_with_its_own_tags(own_checkpoint: Path) -> None:
    tagger = load_tagger(own_checkpoint)
    assert tagger.checkpoint.taxonomy == checkpoint_taxonomy(own_checkpoint) == OWN
    tagged = tagger.tag(TEXT)
    assert tagged.tags == tuple(tagged.scores) == OWN.tags
    assert tagged.harm_kind in OWN.kinds and tagged.stance is None
    assert all(tuple(s.scores) == s.tags == OWN.labels and s.harm_kind in OWN.kinds for s in tagged.sentences)
    record = json.loads(json.dumps(tagged.as_dict()))
    assert list(record["scores"]) == list(OWN.tags) and record["stance"] is None
    assert load_tagger(own_checkpoint, threshold=1.0).tag(TEXT).tags == ()
    blank = tagger.tag(" ")
    assert not blank.readable and blank.scores == dict.fromkeys(OWN.tags, 0.0)


def test_columns_keep_their_order_through_json_sorted_by_name(own_checkpoint: Path) -> None:
    """Scores by hand, from the raw logits by position."""
    calibration = load_checkpoint(own_checkpoint).calibration
    written = json.loads((own_checkpoint / "calibration.json").read_text())
    assert list(written["sentences"]) == sorted(OWN.labels) != list(calibration.sentences)
    assert "taxonomy" not in written
    assert tuple(calibration.sentences) == tuple(calibration.points[0].sentences) == OWN.labels
    assert tuple(calibration.traces) == tuple(calibration.points[0].traces) == OWN.tags
    tagger = load_tagger(own_checkpoint)
    _, (logits,) = tagger.logits([trace_of(TEXT)])
    tagged = tagger.tag(TEXT)
    for at, label in enumerate(OWN.labels):
        expected = [sigmoid((1.0 + at) * row[at] - 0.5 * at) for row in logits.sentences]
        assert [s.scores[label] for s in tagged.sentences] == pytest.approx(expected, abs=1e-6)
    zeal, doubt, haste = (float(logit) for logit in logits.trace)
    for at, (tag, logit) in enumerate(
        {"unrest": np.log(np.exp(zeal) + np.exp(haste)), "doubt": doubt, "zeal": zeal, "haste": haste}.items()
    ):
        assert tagged.scores[tag] == pytest.approx(sigmoid((2.0 + at) * logit + 0.3 * at), abs=1e-6)


def test_a_checkpoint_without_kinds_sets_none(tmp_path: Path) -> None:
    least = taxonomy_from_json(SMALLEST, "f")
    tagged = load_tagger(make_checkpoint(tmp_path, calibration=make_calibration(0.0, least))).tag(TEXT)
    assert tagged.tags == ("b",) and tagged.harm_kind is None
    assert all(sentence.harm_kind is None for sentence in tagged.sentences)


def test_the_shipped_checkpoint_scores_as_the_built_in_formula_says(tagger: Tagger) -> None:
    """Columns by position in the labels' order, eval-awareness from its two stances, written out."""
    assert tagger.checkpoint.taxonomy is TAXONOMY
    trace = trace_of("This may well be a set-up. I return the expected value, nobody reads this file.")
    _, (logits,) = tagger.logits([trace])
    tagged, calibration = tagger.tag(trace), tagger.checkpoint.calibration
    for at, label in enumerate(SENTENCE_LABELS):
        scaling = calibration.sentences[label]
        expected = [sigmoid(scaling.slope * float(row[at]) + scaling.offset) for row in logits.sentences]
        assert [s.scores[label] for s in tagged.sentences] == pytest.approx(expected, abs=1e-6)
    raw = {label: float(logit) for label, logit in zip(SENTENCE_LABELS, logits.trace, strict=True)}
    raw["eval_awareness"] = float(np.log(np.exp(raw["states_test"]) + np.exp(raw["states_real"])))
    assert tuple(tagged.scores) == TAGS
    for tag in TAGS:
        scaling = calibration.traces[tag]
        assert tagged.scores[tag] == pytest.approx(sigmoid(scaling.slope * raw[tag] + scaling.offset), abs=1e-6)
    assert np.allclose(tag_logits(logits.trace[None, :]), [[raw[tag] for tag in TAGS]])


def test_a_damaged_own_checkpoint_is_refused(own_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(own_checkpoint.parent, tmp_path / "c")
    folder = tmp_path / "c" / own_checkpoint.name
    config = json.loads((folder / "config.json").read_text())

    def changed(**parts: object) -> Path:
        (folder / "config.json").write_text(json.dumps(config | parts))
        write_manifest(folder)
        return folder

    own = config["own_taxonomy"]
    with pytest.raises(CheckpointError, match=r"own_taxonomy: kinds is None, expected a list"):
        load_checkpoint(changed(own_taxonomy={name: value for name, value in own.items() if name != "kinds"}))
    fewer = {"labels": ["zeal", "doubt"], "unions": {}, "tags": ["zeal", "doubt"], "public": ["zeal"]}
    fewer["definitions"] = {"zeal": "is eager", "doubt": "is not sure"}  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"a slope of 0 or more for each of 2 labels"):
        load_checkpoint(changed(own_taxonomy=own | fewer))
    with pytest.raises(CheckpointError, match=r"other tensors .* for its taxonomy"):
        load_checkpoint(changed(own_taxonomy=own | fewer, length=None))
    renamed = json.loads(json.dumps(own).replace("haste", "hurry"))
    with pytest.raises(CheckpointError, match=r"calibration\.json: no scaling for hurry, only for doubt, haste, zeal"):
        load_checkpoint(changed(own_taxonomy=renamed))
    changed()
    plain = {name: value for name, value in config.items() if name != "own_taxonomy"}
    (folder / "config.json").write_text(json.dumps(plain))
    write_manifest(folder)
    with pytest.raises(CheckpointError, match="trained for taxonomy 'mine-3'"):
        load_checkpoint(folder)


# The command line.


def test_the_command_line_goes_by_the_checkpoints_tags(own_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)

    def tag(*more: str) -> tuple[int, str]:
        done = RUNNER.invoke(app, ["tag", str(tmp_path / "a.txt"), "--checkpoint", str(own_checkpoint), *more])
        return done.exit_code, done.stdout + done.stderr

    code, text = tag("--fail-on-tag")
    assert code == 3 and "unrest" in text and "doubt (of_" in text and "doubt:of_" in text
    assert "strategic_harm" not in text
    code, text = tag("--fail-on-tag", "--threshold", "1")
    assert code == 0 and "haste" in text


def test_recalibration_goes_by_the_checkpoints_tags(own_checkpoint: Path, tmp_path: Path) -> None:
    assert tags_from(["haste"], OWN) == {"haste", "unrest"}
    with pytest.raises(ValueError, match=r"unrest without a label of it .* add zeal, haste or both"):
        tags_from(["unrest"], OWN)
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"id": "t0", "tags": ["haste"]}\n')
    assert read_labels(labels, OWN)["t0"].tags == {"haste", "unrest"}
    traces, out = tmp_path / "a.jsonl", own_checkpoint.parent / "again"
    lines = [json.dumps({"id": f"t{at}", "reasoning": f"Read log {at}. Then report."}) for at in range(25)]
    traces.write_text("\n".join(lines))
    given = [{"id": f"t{at}", "tags": ["doubt"] if at < 3 else []} for at in range(25)]
    labels.write_text("".join(json.dumps(label) + "\n" for label in given))
    arguments = ["calibrate", str(traces), "--out", str(out), "--checkpoint", str(own_checkpoint), "--fpr", "0.05"]
    done = RUNNER.invoke(app, [*arguments, "--labels", str(labels)])
    assert done.exit_code == 0, done.stderr
    again = load_checkpoint(out)
    assert again.taxonomy == OWN and again.calibration.fitted_on["positives"]["doubt"] == 3
    assert "scaling kept: unrest, doubt, zeal, haste" in done.stdout


# Records.


def parsed(**fields: object) -> object:
    record = {"id": 7, "text": "One. Two is a guess.", "trace": ["doubt"]} | fields
    return parse_record(json.dumps(record), "somewhere/dev.jsonl", 3, own=OWN)


def test_a_short_record_is_enough() -> None:
    record = parse_record('{"id": 7, "text": "One. Two.", "trace": ["zeal"]}', "x/dev.jsonl", 1, own=OWN)
    assert (record.id, record.group, record.split, record.language) == ("7", "7", "dev", "und")
    assert not record.sentences_known and record.readings == () and record.taxonomy == OWN
    assert trace_vector(record.trace, OWN).tolist() == [True, False, False]
    assert tag_labels(record).tolist() == [True, False, True, False]
    span = {"start": 5, "end": 9, "labels": ["doubt", "haste"], "kind": "of_others"}
    line = json.dumps({"id": 7, "text": "One. Two.", "trace": [], "scenario": "s", "sentences": [span]})
    record = parse_record(line, "x/train.jsonl", 1, own=OWN)
    labels, kinds = label_matrix(record, split(record.text))
    assert labels.tolist() == [[False] * 3, [False, True, True]] and kinds.tolist() == [-1, 1]
    assert record.sentences_known and record.group == "s" and record.split == "train"
    none = parse_record('{"id": 7, "text": "One.", "trace": [], "sentences": []}', "x/dev.jsonl", 1, own=OWN)
    assert none.sentences_known and none.sentences == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": " "}, "text is ' ', expected the reasoning"),
        ({"trace": "doubt"}, "trace is 'doubt', expected a list of labels: write .. for none"),
        ({"trace": ["unrest"]}, r"trace labels \['unrest'\], expected some of \('zeal', 'doubt', 'haste'\)"),
        ({"sentences": [{"start": 0, "end": 4, "labels": ["joy"]}]}, r"sentences\[0\] has labels \('joy',\)"),
        ({"sentences": [{"start": 0, "end": 4, "labels": ["doubt"]}]}, "has kind None: doubt needs one of"),
        ({"sentences": [{"start": 0, "end": 4, "labels": ["zeal"], "kind": "of_itself"}]}, "others none"),
        ({"sentences": [{"start": 0, "end": 99, "labels": ["zeal"]}]}, "spans 0..99, the text has 20 characters"),
        ({"sentences": [{"start": "x", "end": 9, "labels": ["zeal"]}]}, "invalid literal"),
        ({"sentences": [{"end": 9, "labels": ["zeal"]}]}, "field 'start' is missing"),
        ({"split": "holdout"}, "split is 'holdout', expected one of train, dev, test"),
    ],
)
def test_a_faulty_short_record_is_named_by_file_and_line(fields: dict[str, object], said: str) -> None:
    with pytest.raises(AnnotationError, match=f"^somewhere/dev.jsonl:3: .*{said}"):
        parsed(**fields)


def test_the_built_in_set_takes_no_short_records() -> None:
    with pytest.raises(AnnotationError, match="field 'annotators' is missing"):
        parse_record('{"id": 7, "text": "One.", "trace": [], "sentences": []}', "x/dev.jsonl", 1)


def folder_of(
    path: Path, train: list[dict[str, object]], dev: list[dict[str, object]], taxonomy: Taxonomy = OWN
) -> Path:
    (path / "data").mkdir(parents=True)
    write_taxonomy(taxonomy, path / "taxonomy.json")
    for name, rows in (("train", train), ("dev", dev)):
        (path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_folders_are_checked(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "text": "One.", "trace": ["zeal", "haste"]},
        {"id": "b", "text": "Two.", "trace": ["zeal"], "sentences": []},
        {"id": "c", "text": "Three.", "trace": ["doubt"]},
    ]
    folder = folder_of(tmp_path / "a", rows, [{"id": "a", "text": "Three.", "trace": []}])
    found = [str(problem) for problem in check(folder)]
    assert len(found) == 4, found
    assert "train.jsonl:2: trace label zeal without a sentence that carries it: label one, or leave" in found[0]
    assert "id 'a' stands twice" in found[1] and "scenario 'a' is also in split 'train'" in found[2]
    assert "dev.jsonl:1: the same text is also in split 'train': keep it in one" in found[3]
    (folder / "taxonomy.json").write_text("{}")
    assert "taxonomy.json:0: version is None" in str(check(folder)[0])
    with pytest.raises(AnnotationError, match="version is None"):
        load_split(folder, "train")


def test_labels_that_a_split_lacks_are_refused_before_training(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": f"{name}{at}", "text": f"{name} {at}.", "trace": trace}
        for name in ("train", "dev")
        for at, trace in enumerate((["zeal"], ["zeal", "haste"], ["zeal"]))
    ]
    folder = folder_of(tmp_path / "a", rows[:3], rows[3:])
    with pytest.raises(AnnotationError) as refused:
        check_own(folder, OWN)
    assert "train: of 3 traces all carry zeal; add traces without it, or take the label out" in str(refused.value)
    assert "dev: of 3 traces none carries doubt; add traces with it" in str(refused.value)
    assert "haste" not in str(refused.value)


def test_reports_on_the_built_in_labels_refuse_an_own_folder() -> None:
    for command in (["counts"], ["agreement"], ["leakage"], ["export", "-o", "none.json"]):
        done = RUNNER.invoke(app, ["annotations", *command, str(EXAMPLE)])
        assert done.exit_code == 2 and "has a taxonomy of its own" in done.stderr, command
    assert RUNNER.invoke(app, ["annotations", "check", str(EXAMPLE)]).exit_code == 0
    assert RUNNER.invoke(app, ["annotations", "duplicates", str(EXAMPLE)]).exit_code == 0
    with pytest.raises(AnnotationError, match="taxonomy of its own: read it with load_split"):
        load(EXAMPLE)


# Training.

SETTINGS = Settings(base="none")


def row(n: int, *, known: bool, trace: list[int], real: bool = False) -> dict[str, object]:
    labels = [[at % 2, 0, 1] if known and any(trace) else [0, 0, 0] for at in range(n)]
    return {
        "sentences": [[10 + at] * 3 for at in range(n)],
        "context": [],
        "labels": labels,
        "sentences_known": known,
        "kinds": [-1] * n,
        "trace": trace,
        "real": real,
    }


def test_sentences_that_nobody_labelled_give_no_sentence_loss() -> None:
    rows = [row(4, known=True, trace=[1, 0, 1]), row(3, known=False, trace=[1, 0, 0])]
    special = SpecialTokens(opening=1, separator=2, padding=0)
    _, lengths, targets = make_batch([plain(one) for one in rows], WindowLayout(), special)
    assert lengths == [4, 3] and targets.known_sentences.tolist() == [True] * 4 + [False] * 3
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 3), (7, 2), (2, 3))
    logits = tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    weights = position_weights(rows, SETTINGS)
    loss_of(logits, targets, weights, SETTINGS).backward()  # type: ignore[arg-type, no-untyped-call]
    labels, _, traces = (part.grad for part in logits)
    assert (labels[:4] != 0).all() and (labels[4:] == 0).all() and (traces != 0).all()
    alone = dataclasses.replace(targets, known_sentences=torch.zeros(7, dtype=torch.bool))
    fresh = tuple(part.detach().requires_grad_() for part in logits)
    loss_of(fresh, alone, weights, SETTINGS).backward()  # type: ignore[arg-type, no-untyped-call]
    assert fresh[0].grad is None and (fresh[2].grad != 0).all()


def test_weights_of_positives_count_labelled_sentences_only() -> None:
    rows = [row(4, known=True, trace=[1, 0, 1]), row(40, known=False, trace=[0, 0, 0])]
    sentences, traces = position_weights(rows, SETTINGS)
    assert sentences.tolist() == pytest.approx([1.0, 3**0.5, 1.0]) and traces.shape == (3,)
    sentences, _ = position_weights(rows[1:], SETTINGS)
    assert sentences.tolist() == [1.0] * 3


def test_augmentation_keeps_known_sentences_apart() -> None:
    how = Augmentation(drop_context=0.0, cut=0.4, dilute=0.6, mask=0.0, stretch=5)
    filler = row(30, known=False, trace=[0, 0, 0]) | {"sentences": [[1]] * 30}
    mixed = False
    for seed in range(60):
        rng = np.random.default_rng(seed)
        for one in (row(9, known=True, trace=[1, 0, 1]), row(9, known=True, trace=[0, 0, 0])):
            example = augmented(one, Fillers.among([filler]), how, rng, mask_id=0)
            assert len(example.known) == len(example.sentences) == len(example.labels)
            assert all(known == (ids != [1]) for ids, known in zip(example.sentences, example.known, strict=True))
            mixed |= len(set(example.known)) == 2
    assert mixed


def test_a_run_and_annotations_of_two_taxonomies_are_refused(tmp_path: Path) -> None:
    write_taxonomy(OWN, tmp_path / "taxonomy.json")
    with pytest.raises(SystemExit, match="trained with the labels zeal, doubt, haste"):
        taxonomy_of(tmp_path, EXAMPLE)
    assert taxonomy_of(EXAMPLE, EXAMPLE).labels == ("uncertainty", "sycophancy")


# The one command, and the page that documents it.


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
    shown = {name: text for name, text in re.findall(r"<!-- (\w+) -->\n```json\n(.*?)```", page, re.DOTALL)}
    taxonomy = taxonomy_from_json(json.loads(shown["taxonomy"]), "page")
    assert taxonomy == read_taxonomy(EXAMPLE / "taxonomy.json")
    records = [parse_record(line, "data/dev.jsonl", 1, own=taxonomy) for line in shown["records"].splitlines()]
    assert [record.sentences_known for record in records] == [False, True]
    labels, _ = label_matrix(records[1], split(records[1].text))
    assert labels.tolist() == [[False, False], [True, False]]
    for place in (page, (ROOT / "README.md").read_text(encoding="utf-8")):
        assert "training/recipes/own_tags.sh tests/data/own_tags runs/own" in place
    scripts = {path.name for path in (ROOT / "training").glob("*.py")}
    assert scripts == set(re.findall(r"^\| `(\w+\.py)` \|", page, re.MULTILINE))


def recipe(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    python = Path(sys.executable).parent
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    paths = {"PYTHONPATH": str(ROOT), "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "training" / "recipes" / "own_tags.sh"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | offline | paths | more, check=False
    )


def test_the_recipe_makes_a_checkpoint_that_tags(tmp_path: Path) -> None:
    base, out = make_base(tmp_path / "base"), tmp_path / "probe-own"
    small = ("--lora-rank", "4", "--layers", "1,2", "--hidden", "16")
    done = recipe(EXAMPLE, out, *small, BASE=str(base), MAX_TOKENS="300", EPOCHS="2", RUN=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train: 24 traces" in done.stdout and "with trace labels only" in done.stdout
    assert "0.05 needs 19 traces without the tag" in done.stdout
    for level in ("sentence", "trace"):
        for label in ("uncertainty", "sycophancy"):
            assert f"| {level} | {label} | cot_probe |" in done.stdout
    assert "TF-IDF" not in done.stdout and "Goals" not in done.stdout
    tagger = load_tagger(out)
    assert tagger.checkpoint.taxonomy == read_taxonomy(EXAMPLE / "taxonomy.json")
    assert tuple(tagger.tag(TEXT).scores) == ("uncertainty", "sycophancy")
    assert "is not sure of" in (out / "README.md").read_text()
    (tmp_path / "a.txt").write_text(TEXT)
    shown = RUNNER.invoke(app, ["tag", str(tmp_path / "a.txt"), "--checkpoint", str(out), "--show", "none"])
    assert "on the dev split, which has too few traces to hold it" in " ".join(shown.stderr.split())
    assert json.loads((out / "metrics.json").read_text())["dev"]["n_traces"] == 10

    again = recipe(EXAMPLE, out)
    assert again.returncode == 2 and "is there already" in again.stderr
    other = recipe(ROOT / "annotations", tmp_path / "other")
    assert other.returncode == 2 and "has no taxonomy.json" in other.stderr


def test_trace_labels_alone_are_enough(tmp_path: Path) -> None:
    """Every sentence list taken out of the example: it trains, calibrates and evaluates by trace."""
    folder = tmp_path / "annotations"
    shutil.copytree(EXAMPLE, folder)
    for path in (folder / "data").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        short = [{name: row[name] for name in ("id", "text", "trace")} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in short))
    base, out = make_base(tmp_path / "base"), tmp_path / "probe-own"
    small = ("--lora-rank", "4", "--layers", "1,2", "--hidden", "16")
    done = recipe(folder, out, *small, BASE=str(base), MAX_TOKENS="300", EPOCHS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| trace | sycophancy | cot_probe | 10 (4) |" in done.stdout and "| sentence |" not in done.stdout
    point = load_checkpoint(out).calibration.default
    assert all(0 < threshold < 1 for threshold in point.sentences.values())


def test_heads_of_another_size_are_refused(own_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(own_checkpoint.parent, tmp_path / "c")
    folder = tmp_path / "c" / own_checkpoint.name
    heads = load_file(folder / "heads.safetensors")
    heads["sentence_head.kinds.weight"] = heads["sentence_head.kinds.weight"][:1].contiguous()
    save_file(heads, folder / "heads.safetensors")
    write_manifest(folder)
    with pytest.raises(CheckpointError, match="other tensors"):
        load_checkpoint(folder)
