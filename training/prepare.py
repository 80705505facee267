"""Annotations to training features: tokenised sentences with labels, as a datasets folder.

    python training/prepare.py --out runs/release/data

Writes a ``datasets.DatasetDict`` with the splits train and dev (test is never prepared for
training), one row a trace: token ids of each sentence, token ids of the salient
instructions, label matrices; the taxonomy of their columns beside it, and in ``trained_on.jsonl``
scenario and SHA-256 of the text of every trace. An annotations folder
with a ``taxonomy.json`` of its own is checked first. With ``--real FILE --text-dir DIR`` real traces that
``annotations/real/FILE.jsonl`` labels by reference join the training split; ``--real FILE:N``
takes N of them, chosen by their hash. With ``--passages`` so do the passages set into real traces.
"""

import argparse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from cot_probe.annotations import (
    AnnotatedTrace,
    AnnotationError,
    check,
    label_matrix,
    load_passages,
    load_real,
    load_split,
    taxonomy_in,
    trace_vector,
)
from cot_probe.base import load_tokenizer, resolve_base
from cot_probe.monitorability.contamination import TRAINED_ON, training_lines
from cot_probe.sentences import split
from cot_probe.taxonomy import TAXONOMY, TAXONOMY_FILE, Taxonomy, write_taxonomy
from cot_probe.tokens import TokenReader, token_reader
from cot_probe.windows import WindowLayout, salient_instructions


def features(record: AnnotatedTrace, ids_of: TokenReader, layout: WindowLayout) -> dict[str, Any]:
    """One row: see the module's docstring. ``labels`` is ``(n_sentences, n_labels)`` of 0 and 1.

    Where ``sentences_known`` is False only the trace was labelled, and the zeros of ``labels`` say nothing.
    """
    sentences = split(record.text)
    labels, kinds = label_matrix(record, sentences)
    context = salient_instructions(
        record.context, budget=layout.context_tokens, count=lambda texts: [len(ids) for ids in ids_of(texts)]
    )
    return {
        "id": record.id,
        "group": record.group,
        "real": bool(record.source),
        "sentences": ids_of([sentence.text for sentence in sentences]),
        "context": ids_of([context])[0][: layout.context_tokens] if context else [],
        "labels": labels.astype(int).tolist(),
        "sentences_known": record.sentences_known,
        "kinds": kinds.tolist(),
        "trace": trace_vector(record.trace, record.taxonomy).astype(int).tolist(),
        "unsure": record.unsure,
    }


def prepare(
    annotations: Path,
    out: Path,
    *,
    base: str,
    layout: WindowLayout,
    real: Sequence[str] = (),
    passages: bool = False,
    text_dir: Path | None = None,
    limit: int | None = None,
) -> DatasetDict:
    """Build and save the features of train and dev, the taxonomy, and the list of the traces.

    Raises:
        AnnotationError: if the folder has a taxonomy of its own and does not fit it.
    """
    own = taxonomy_in(annotations)
    if own is not None:
        check_own(annotations, own)
    ids_of = token_reader(load_tokenizer(base))
    parts = {name: load_split(annotations, name)[:limit] for name in ("train", "dev")}
    for name, _, share in (choice.partition(":") for choice in real):
        found = load_real(annotations, name, text_dir=text_dir, require_text=True)
        usable = sorted((r for r in found if r.split == "train"), key=lambda r: sha256(r.id.encode()).digest())
        usable = usable[: int(share) if share else None]
        print(f"{name}: {len(usable)} real traces with text at hand join the training split")
        parts["train"] += usable
    if passages:
        every = load_passages(annotations, text_dir=text_dir, require_text=True)
        composed = [record for record in every if record.split == "train"]
        print(f"{len(composed)} traces with a passage set in join the training split")
        parts["train"] += composed
    data = DatasetDict(
        {name: Dataset.from_list([features(r, ids_of, layout) for r in records]) for name, records in parts.items()}
    )
    data.save_to_disk(str(out))
    write_taxonomy(own or TAXONOMY, out / TAXONOMY_FILE)
    (out / TRAINED_ON).write_text("".join(training_lines(records) for records in parts.values()))
    return data


def check_own(annotations: Path, taxonomy: Taxonomy) -> None:
    """Refuse annotations from which some label could not be learnt, or not be calibrated.

    Raises:
        AnnotationError: with every faulty record, or every label that a split lacks.
    """
    faults = [str(problem) for problem in check(annotations)]
    if not faults:
        for name in ("train", "dev"):
            records = load_split(annotations, name)
            for label in taxonomy.labels:
                carry = sum(label in record.trace for record in records)
                if not 0 < carry < len(records):
                    which = "none carries" if not carry else "all carry"
                    faults.append(
                        f"{name}: of {len(records)} traces {which} {label}; add traces {'with' if not carry else 'without'} "
                        "it, or take the label out of the taxonomy"
                    )
    if faults:
        raise AnnotationError(f"{annotations} cannot be trained on:\n" + "\n".join(faults))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, default=Path("annotations"))
    parser.add_argument("--base", default="base-minilm-l6", help="folder in checkpoints/, path, or Hugging Face name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, default=512, help="window length")
    parser.add_argument(
        "--real", action="append", default=[], help="files of annotations/real to train on: NAME or NAME:N"
    )
    parser.add_argument("--passages", action="store_true", help="train on annotations/passages.jsonl too")
    parser.add_argument("--text-dir", type=Path, default=None, help="folder with the texts of the real traces")
    parser.add_argument("--limit", type=int, default=None, help="first so many traces of each split only")
    args = parser.parse_args()
    if args.passages and args.text_dir is None:
        parser.error("--passages needs --text-dir, the folder with the texts of the real traces that they stand in")
    base = resolve_base(args.base)
    layout = WindowLayout(max_tokens=args.max_tokens)
    try:
        data = prepare(
            args.annotations,
            args.out,
            base=base,
            layout=layout,
            real=args.real,
            passages=args.passages,
            text_dir=args.text_dir,
            limit=args.limit,
        )
    except AnnotationError as error:
        raise SystemExit(str(error)) from None
    for name, part in data.items():
        sentences = sum(len(row) for row in part["labels"])
        alone = len(part) - sum(part["sentences_known"])
        print(
            f"{name}: {len(part)} traces, {sentences} sentences" + (f"; {alone} with trace labels only" * bool(alone))
        )


if __name__ == "__main__":
    main()
