"""Train the encoder: LoRA on the frozen base, sentence and trace heads.

    accelerate launch training/train.py --data runs/release/data --out runs/release
    python training/train.py --data runs/release/data --out runs/release --resume

One process or several, CPU or GPU: the same script. Given the seed, a CPU run is
deterministic; each epoch is a function of seed and epoch number, so that a run killed at any
moment and started again with ``--resume`` goes on from the last whole epoch and ends with
the same weights; with other settings or data it is refused. Class imbalance: positives of
each label are weighted by the square root of (negatives / positives), at most ``--max-weight``.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import DatasetDict, load_from_disk
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from augment import Example, Fillers, augmented, plain
from batches import BatchOf, Targets, make_batch
from cot_probe.base import body_width, check_length, load_body, load_tokenizer, resolve_base, special_tokens
from cot_probe.encoder import Encoder
from cot_probe.manifest import verify
from cot_probe.monitorability.contamination import TRAINED_ON
from cot_probe.monitorability.metrics import average_precision
from cot_probe.taxonomy import TAXONOMY, TAXONOMY_FILE, Taxonomy, own_taxonomy, write_taxonomy
from cot_probe.windows import SpecialTokens
from lengthen import Memory, TrainingPass
from run_state import HISTORY_FILE, STATE_FILE, data_digest, new_history, restored, store
from settings import Settings

_CONSOLE = Console(stderr=True)


def build_encoder(settings: Settings, taxonomy: Taxonomy = TAXONOMY, *, adapted: str = "") -> Encoder:
    """The base with LoRA injected into its blocks, and fresh heads.

    ``adapted`` is a regular expression for the names of the layers that get it; empty: every linear layer.
    """
    base = resolve_base(settings.base)
    check_length(base, settings.layout)
    body = load_body(base)
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear) and ("layer" in name or "block" in name)
    }
    config = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=adapted or sorted(linear))
    body = inject_adapter_in_model(config, body)
    for name, parameter in body.named_parameters():
        parameter.requires_grad = "lora_" in name
    _without_dropout(body)
    return Encoder(
        body,
        width=body_width(base),
        layers=settings.pooled_layers,
        hidden=settings.hidden,
        dropout=settings.dropout,
        n_labels=len(taxonomy.labels),
        n_kinds=len(taxonomy.kinds),
    )


def _without_dropout(body: nn.Module) -> None:
    """Dropout in the frozen body costs two thirds of the speed on a CPU; token masking does its work."""
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def light_state(encoder: Encoder) -> dict[str, Tensor]:
    """What was trained: adapters and heads, by name, on the CPU."""
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in encoder.state_dict().items()
        if "lora_" in name or not name.startswith("body.")
    }


def position_weights(rows: Sequence[dict[str, Any]], settings: Settings) -> tuple[Tensor, Tensor]:
    """Weights of positives for sentence and for trace labels, ``(n_labels,)`` each."""
    traces = np.array([row["trace"] for row in rows])
    known = [row["labels"] for row in rows if row.get("sentences_known", True)]
    sentences = np.concatenate([np.array(labels).reshape(-1, traces.shape[1]) for labels in [[], *known]])

    def weight(labels: np.ndarray[Any, Any]) -> Tensor:
        positives = labels.sum(axis=0).clip(min=1)
        ratio = np.sqrt(np.maximum(len(labels) - positives, 0) / positives).clip(1.0, settings.max_weight)
        return torch.tensor(ratio, dtype=torch.float32)

    return weight(sentences), weight(traces)


def loss_of(
    logits: tuple[Tensor, Tensor, Tensor], targets: Targets, weights: tuple[Tensor, Tensor], settings: Settings
) -> Tensor:
    """Weighted binary cross-entropy of sentences and traces, cross-entropy of harm kinds.

    The sentence loss is a sum over labels: averaged, the rare labels drown in the other terms.
    Sentences that nobody labelled have none; what the trace head reads from them still counts.
    """
    labels, kinds, traces = (part.float() for part in logits)
    loss = labels.new_zeros(())
    seen = targets.known_sentences
    if seen.any():
        own = nn.functional.binary_cross_entropy_with_logits(labels[seen], targets.labels[seen], pos_weight=weights[0])
        loss = loss + own * labels.shape[1]
    harmful = targets.kinds >= 0
    if harmful.any():
        loss = loss + settings.kind_weight * nn.functional.cross_entropy(kinds[harmful], targets.kinds[harmful]) * min(
            1.0, float(harmful.sum()) / 8
        )
    return loss + settings.trace_weight * trace_loss(traces, targets.trace, targets.known, weights[1])


def trace_loss(logits: Tensor, wanted: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy over the traces that are ``known``; 0 where none is."""
    if not known.any():
        return logits.new_zeros(())
    each = nn.functional.binary_cross_entropy_with_logits(
        logits.float(), wanted, pos_weight=weights, reduction="none"
    ).mean(dim=1)
    return (each * known).sum() / known.sum()


def batches_of_epoch(
    rows: Sequence[dict[str, Any]], settings: Settings, epoch: int, *, mask_id: int, shard: tuple[int, int]
) -> Iterator[list[Example]]:
    """The augmented batches of one epoch for one process (``shard`` = index, count).

    Drawn from seed and epoch alone. Every process gets the same number of batches.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    fillers = Fillers.among(rows)
    examples = [augmented(row, fillers, settings.augmentation, rng, mask_id=mask_id) for row in rows]
    examples = [example for example in examples if any(example.sentences)]
    sizes = np.array([sum(map(len, example.sentences)) for example in examples])
    # Nearly sorted: batches of like lengths waste little padding, the noise keeps them mixed.
    order = np.argsort(sizes * rng.uniform(0.7, 1.3, len(sizes)))
    groups: list[list[Example]] = [[]]
    size = 0
    for at in order:
        if groups[-1] and size + sizes[at] > settings.batch_tokens:
            groups.append([])
            size = 0
        groups[-1].append(examples[at])
        size += int(sizes[at])
    rng.shuffle(groups)  # type: ignore[arg-type]
    index, count = shard
    whole = len(groups) + (-len(groups)) % count
    for at in range(index, whole, count):
        yield groups[at % len(groups)]


def evaluate(
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    settings: Settings,
    special: SpecialTokens,
    device: torch.device,
    names: Sequence[str],
    *,
    batch_of: BatchOf = make_batch,
) -> dict[str, float]:
    """Average precision on dev per label, sentence and trace, and their mean ``score``."""
    encoder.eval()
    said: list[list[np.ndarray[Any, Any]]] = [[], []]
    true: list[list[np.ndarray[Any, Any]]] = [[], []]
    with torch.inference_mode():
        for row in rows:
            if not any(row["sentences"]):
                continue
            batches, lengths, targets = batch_of([plain(row)], settings.layout, special)
            with _autocast(device, enabled=settings.bf16):
                labels, _, trace = encoder([_moved(batch, device) for batch in batches], lengths)
            every = torch.ones(1, dtype=torch.bool)
            parts = ((labels, targets.labels, targets.known_sentences), (trace, targets.trace, every))
            for at, (logits, wanted, known) in enumerate(parts):
                said[at].append(logits.float().cpu()[known].numpy())
                true[at].append(wanted[known].numpy() > 0.5)
    encoder.train()
    out: dict[str, float] = {}
    for at, level in enumerate(("sentence", "trace")):
        logits, wanted = np.concatenate(said[at]), np.concatenate(true[at])
        for column, label in enumerate(names if len(logits) else ()):
            value = average_precision(logits[:, column], wanted[:, column], np.ones(len(logits)))
            out[f"{level}/{label}"] = round(value, 4)
    out["score"] = round(float(np.nanmean(list(out.values()))), 4)
    return out


def _autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _moved(record: Any, device: torch.device) -> Any:
    """A frozen record of tensors on another device."""
    fields = dataclasses.fields(record)
    return type(record)(**{field.name: getattr(record, field.name).to(device) for field in fields})


def train(
    data: DatasetDict, out: Path, settings: Settings, *, resume: bool, taxonomy: Taxonomy = TAXONOMY
) -> dict[str, Any]:
    """Run the training; returns the history. Weights of the best epoch go to ``out/best.safetensors``."""
    accelerator = Accelerator(mixed_precision="no")
    set_seed(settings.seed)
    device = accelerator.device
    tokenizer = load_tokenizer(resolve_base(settings.base))
    special = special_tokens(tokenizer)
    mask_id = tokenizer.special.get("mask", special.padding)
    rows, dev = data["train"].to_list(), data["dev"].to_list()
    weights = tuple(weight.to(device) for weight in position_weights(rows, settings))
    encoder = build_encoder(settings, taxonomy)
    begin(encoder, settings)
    shard = (accelerator.process_index, accelerator.num_processes)
    first = list(batches_of_epoch(rows, settings, 0, mask_id=mask_id, shard=shard))
    steps = settings.epochs * len(first)
    optimizer, schedule = optimizer_of(encoder, settings, steps)
    model, optimizer = accelerator.prepare(TrainingPass(encoder), optimizer)
    history = new_history(settings, data_digest([rows, dev]))
    state_file = out / STATE_FILE
    average = light_state(encoder)
    if resume and state_file.is_file():
        state = restored(state_file, history)
        encoder.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        history, average = state["history"], state["average"]
        _CONSOLE.print(f"resumed after epoch {len(history['epochs']) - 1}")
    for epoch in range(len(history["epochs"]), settings.epochs):
        if _stale(history["epochs"], settings.patience):
            break
        begun, total, count = time.monotonic(), 0.0, 0
        torch.manual_seed(settings.seed * 1000 + epoch)
        examples = batches_of_epoch(rows, settings, epoch, mask_id=mask_id, shard=shard)
        memory, rng = Memory(), np.random.default_rng([settings.seed, epoch, 1])
        for number, group in enumerate(examples):
            batches, lengths, on_host = make_batch(group, settings.layout, special)
            targets = _moved(on_host, device)
            company = memory.company(settings.lengthen, len(lengths), rng)
            with _autocast(device, enabled=settings.bf16):
                logits, long, vectors = model([_moved(batch, device) for batch in batches], lengths, company)
            loss = loss_of(logits, targets, weights, settings)  # type: ignore[arg-type]
            if settings.lengthen:
                memory.add(vectors, lengths, targets)
                some = torch.tensor([beside is not None for beside in company], device=device)
                loss = loss + settings.trace_weight * trace_loss(
                    long, targets.trace[some], targets.known[some], weights[1]
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            _move_average(average, encoder, settings.average)
            total, count = total + float(loss.detach()), count + 1
            if accelerator.is_main_process and number % 20 == 19:
                pace = (time.monotonic() - begun) / (number + 1)
                _CONSOLE.print(
                    f"epoch {epoch} batch {number + 1}/~{len(first)} loss {total / count:.4f} {pace:.2f} s/batch"
                )
        if accelerator.is_main_process:
            last = light_state(encoder)
            figures = evaluate(encoder, dev, settings, special, device, taxonomy.labels)
            if settings.average:
                figures |= {"score_of_last_weights": figures["score"]}
                encoder.load_state_dict(average, strict=False)
                figures |= evaluate(encoder, dev, settings, special, device, taxonomy.labels)
            seconds = round(time.monotonic() - begun, 1)
            history["epochs"].append({"epoch": epoch, "loss": round(total / count, 5), "seconds": seconds} | figures)
            _CONSOLE.print(f"epoch {epoch}: loss {total / count:.4f}, dev score {figures['score']:.4f}, {seconds} s")
            if figures["score"] >= max(entry["score"] for entry in history["epochs"]):
                save_file(light_state(encoder), out / "best.safetensors")
            encoder.load_state_dict(last, strict=False)
            store(state_file, last, average, optimizer, schedule, history)
        history = _shared(accelerator, history)
    if accelerator.is_main_process:
        (out / HISTORY_FILE).write_text(json.dumps(history, indent=1) + "\n")
    return history


def optimizer_of(
    encoder: Encoder, settings: Settings, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a rate for the adapter and one for the heads, and the course of both over ``steps``."""
    adapters = [p for n, p in encoder.named_parameters() if "lora_" in n]
    heads = [p for n, p in encoder.named_parameters() if not n.startswith("body.")]
    optimizer = torch.optim.AdamW(
        [{"params": adapters, "lr": settings.learning_rate}, {"params": heads, "lr": settings.head_rate}],
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, settings.warmup))
    return optimizer, schedule


def begin(encoder: Encoder, settings: Settings) -> None:
    """The weights that the settings say to start from, if any."""
    if settings.adapted:
        _start_from(encoder, Path(settings.adapted))
    if settings.begun:
        _go_on_from(encoder, Path(settings.begun))


def _start_from(encoder: Encoder, weights: Path) -> None:
    """Load the adapter's matrices; every one must be there and fit."""
    found = load_file(weights)
    wanted = {name for name, _ in encoder.named_parameters() if "lora_" in name}
    if wanted != set(found):
        raise SystemExit(f"{weights} holds {len(found)} matrices, this adapter has {len(wanted)} others: adapt anew")
    encoder.load_state_dict(found, strict=False)


def _go_on_from(encoder: Encoder, checkpoint: Path) -> None:
    """Load adapter and heads of a checkpoint; every one must be there and fit."""
    verify(checkpoint)
    adapter = load_file(checkpoint / "adapter.safetensors")
    found = {f"body.{name}.default.weight": tensor.float() for name, tensor in adapter.items()}
    found |= load_file(checkpoint / "heads.safetensors")
    wanted = {name: tensor.shape for name, tensor in light_state(encoder).items()}
    if wanted != {name: tensor.shape for name, tensor in found.items()}:
        raise SystemExit(f"{checkpoint} has other matrices than these settings: give those that it was trained with")
    encoder.load_state_dict(found, strict=False)


def list_training(data: Path, begun: Path | None, out: Path, *, resumed: bool = False) -> None:
    """Write the list of the traces that a run has seen, those of the checkpoint that it goes on from among them.

    Without a list of either there is none: a part of it would say "not seen" of traces that were. A resumed run keeps
    what its list has: the weights it goes on with have seen it.
    """
    lists = [folder / TRAINED_ON for folder in (data, begun, out if resumed else None) if folder is not None]
    if not all(path.is_file() for path in lists):
        (out / TRAINED_ON).unlink(missing_ok=True)
    elif all(path.is_file() for path in lists):
        lines = dict.fromkeys(line for path in lists for line in path.read_text().splitlines())
        (out / TRAINED_ON).write_text("".join(f"{line}\n" for line in lines))


def _shared(accelerator: Accelerator, history: dict[str, Any]) -> dict[str, Any]:
    """The main process's history, in every process: early stopping must agree."""
    if accelerator.num_processes == 1:
        return history
    from accelerate.utils import broadcast_object_list

    shared: dict[str, Any] = broadcast_object_list([history], from_process=0)[0]
    return shared


def _rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then linear decay to zero."""
    rise = max(1, int(warmup * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


def _stale(epochs: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the best epoch lies ``patience`` or more epochs back."""
    if not epochs:
        return False
    best = max(range(len(epochs)), key=lambda at: epochs[at]["score"])
    return len(epochs) - 1 - best >= patience


def _move_average(average: dict[str, Tensor], encoder: Encoder, keep: float) -> None:
    """One step of the running average, in place. With ``keep`` 0 it follows the weights."""
    with torch.no_grad():
        now = encoder.state_dict()
        for name, mean in average.items():
            mean.lerp_(now[name].cpu(), 1.0 - keep)


def load_trained(settings: Settings, weights: Path, taxonomy: Taxonomy = TAXONOMY) -> Encoder:
    """The encoder with the trained adapters and heads, in evaluation mode."""
    encoder = build_encoder(settings, taxonomy)
    missing = encoder.load_state_dict(load_file(weights), strict=False)
    if missing.unexpected_keys:
        raise SystemExit(f"{weights} has weights that this base does not: {missing.unexpected_keys[:3]}")
    return encoder.eval()


def main() -> None:
    """Command line: every field of :class:`Settings` is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch in --out")
    for field in dataclasses.fields(Settings):
        name = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(name, action="store_true")
        elif field.name == "base":
            parser.add_argument(name, default="base-minilm-l6")
        else:
            parser.add_argument(name, type=field.type, default=field.default)
    args = parser.parse_args()
    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    args.out.mkdir(parents=True, exist_ok=True)
    data = load_from_disk(str(args.data))
    taxonomy = own_taxonomy(args.data) or TAXONOMY
    write_taxonomy(taxonomy, args.out / TAXONOMY_FILE)
    list_training(
        args.data,
        Path(settings.begun) if settings.begun else None,
        args.out,
        resumed=args.resume and (args.out / STATE_FILE).is_file(),
    )
    begun = time.monotonic()
    history = train(data, args.out, settings, resume=args.resume, taxonomy=taxonomy)  # type: ignore[arg-type]
    best = max(history["epochs"], key=lambda entry: entry["score"])
    print(f"best epoch {best['epoch']}: dev score {best['score']}; {time.monotonic() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
