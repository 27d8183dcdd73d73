"""Fine-tunes a BERT classifier as somebody would who knows PyTorch well: the strong peer of `medley train`.

A loop without a framework: rows tokenised in one call, batches of rows of like length and padded to their longest, scaled
dot-product attention, fused AdamW, gradients clipped, the learning rate falling linearly after its warm-up. On a GPU, too,
where batches are moved from pinned memory while it computes, and nothing is read from it before the last update, or an
evaluation. It takes those of `medley train`'s flags that such a run has.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, get_linear_schedule_with_warmup
from transformers.utils import ModelOutput

from hf_trainer import device_memory, load_model
from pairs import LABELS, Pair, read_pairs

POOL = 50
"""Batches that are drawn together and sorted by length, as Trainer's group_by_length does."""

Batch = dict[str, torch.Tensor]


def main() -> None:
    """Trains, evaluates when it is due, and writes train_results.json."""
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    place = Place(torch.device(options.device), options.precision)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    labels = options.labels.split(",")
    tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    model = load_model(options.model_name_or_path, labels).to(place.device).train()
    rows = encode(read_pairs(options.train_file, labels), tokenizer, options.max_seq_length)
    validation = []
    if options.validation_file:
        validation = encode(read_pairs(options.validation_file, labels), tokenizer, options.max_seq_length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(options.warmup_steps * options.max_steps), options.max_steps)
    forward = torch.compile(model, dynamic=True) if options.compile else model
    size, pad = options.per_device_train_batch_size, tokenizer.pad_token_id
    batches = drawn(rows, size, random.Random(options.seed))
    losses = torch.zeros((), device=place.device)
    if options.compile or place.device.type == "cuda":
        # Compiling, and loading what a GPU computes with, is start-up: without a mask, and with one, of many lengths, as what is
        # compiled may hold for those alone that some number divides.
        for rows_of_batch in (rows[:1] * size, *of_many_lengths(rows, size)):
            place.loss(forward, collate(rows_of_batch, pad)).backward()
        optimizer.zero_grad()
    place.wait()
    start = time.perf_counter()
    for update in range(1, options.max_steps + 1):
        for _ in range(options.gradient_accumulation_steps):
            loss = place.loss(forward, collate(next(batches), pad)) / options.gradient_accumulation_steps
            loss.backward()
            losses += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        # A GPU has been given it by now, and is done with it in a moment: to wait for that would cost more.
        tell(options, update=update)
        if validation and update % options.eval_steps == 0:
            tell(options, update=update, accuracy=accuracy(model, validation, options, pad, place))
    place.wait()
    save(model, losses.item() / options.max_steps, time.perf_counter() - start, options)


class Place:
    """Where it is computed, and in which precision."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision

    def moved(self, batch: Batch) -> Batch:
        """A batch where it is computed with, its mask as attention takes it."""
        if self.device.type == "cuda":
            # From pinned memory, so that nobody waits for it.
            batch = {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in batch.items()}
        if (mask := batch.get("attention_mask")) is None:
            return batch
        # Of a mask that only tells which tokens are there, transformers would read from the device whether it is needed.
        return batch | {"attention_mask": mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)}

    def output(self, forward: torch.nn.Module, batch: Batch) -> ModelOutput:
        """What a model says of a batch that was moved."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return forward(**batch)

    def loss(self, forward: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch that was not."""
        return self.output(forward, self.moved(batch)).loss

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def save(model: torch.nn.Module, loss: float, runtime: float, options: argparse.Namespace) -> None:
    """Writes the model and train_results.json; `runtime` is in seconds."""
    made = options.max_steps * options.per_device_train_batch_size * options.gradient_accumulation_steps
    results = {"train_runtime": runtime, "train_samples_per_second": made / runtime, "train_loss": loss} | device_memory()
    model.save_pretrained(options.output_dir)
    (options.output_dir / "train_results.json").write_text(json.dumps(results, indent=4), encoding="utf-8")


def parse() -> argparse.Namespace:
    """Reads the command line; what it does not know is of other programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model_name_or_path", "labels", "optim", "save_strategy", "report_to", "disable_tqdm", "eval_strategy"):
        parser.add_argument(f"--{name}", default=",".join(LABELS))
    for name in ("train_file", "validation_file", "output_dir", "progress_file"):
        parser.add_argument(f"--{name}", type=Path)
    for name, default in (("max_seq_length", 128), ("per_device_train_batch_size", 16), ("eval_steps", 50),
                          ("per_device_eval_batch_size", 8), ("gradient_accumulation_steps", 1), ("max_steps", 100),
                          ("threads", 2), ("seed", 42)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning_rate", type=float, default=3e-5)
    parser.add_argument("--warmup_steps", type=float, default=0.5, help="a share of all updates")
    parser.add_argument("--do_train", action="store_true")
    parser.add_argument("--do_eval", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    return parser.parse_args()


def encode(pairs: list[Pair], tokenizer: object, length: int) -> list[dict]:
    """Tokenises all rows in one call, which uses all cores."""
    encoded = tokenizer([pair.premise for pair in pairs], [pair.hypothesis for pair in pairs], truncation=True,
                        max_length=length, return_attention_mask=False)
    return [{"input_ids": ids, "token_type_ids": types, "label": pair.label}
            for ids, types, pair in zip(encoded["input_ids"], encoded["token_type_ids"], pairs, strict=True)]


def of_many_lengths(rows: list[dict], size: int) -> list[list[dict]]:
    """Batches with padding whose longest rows are of neighbouring lengths, 16 of them where there are as many."""
    by_length = {len(row["input_ids"]): row for row in rows}
    lengths = sorted(by_length)
    middle = len(lengths) // 2
    return [[by_length[lengths[0]]] * (size - 1) + [by_length[length]] for length in lengths[max(1, middle - 8) : middle + 8]]


def drawn(rows: list[dict], size: int, dice: random.Random) -> Iterator[list[dict]]:
    """Batches without end, epoch after epoch: rows in random order, those of a pool of batches sorted by length, and the
    batches in random order again, so that short and long ones alternate."""
    while True:
        order = dice.sample(rows, len(rows))
        batches = []
        for start in range(0, len(order), POOL * size):
            pool = sorted(order[start : start + POOL * size], key=lambda row: len(row["input_ids"]))
            batches += [pool[at : at + size] for at in range(0, len(pool), size)]
        # A smaller one comes last, where no comparison goes.
        small = [batch for batch in batches if len(batch) < size]
        batches = [batch for batch in batches if len(batch) == size]
        dice.shuffle(batches)
        yield from batches + small


def collate(rows: list[dict], pad: int) -> Batch:
    """Rows padded to the longest; without padding there is no mask, and attention takes its fastest way."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    types = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        types[number, : len(row["token_type_ids"])] = torch.tensor(row["token_type_ids"])
    batch = {"input_ids": ids, "token_type_ids": types, "labels": torch.tensor([row["label"] for row in rows])}
    mask = ids != pad
    return batch if mask.all() else batch | {"attention_mask": mask}


@torch.inference_mode()
def accuracy(model: torch.nn.Module, rows: list[dict], options: argparse.Namespace, pad: int, place: Place) -> float:
    """The share of rows that are right."""
    model.eval()
    size, right = options.per_device_eval_batch_size, torch.zeros((), dtype=torch.long, device=place.device)
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    for start in range(0, len(ordered), size):
        batch = place.moved(collate(ordered[start : start + size], pad))
        right += (place.output(model, batch).logits.argmax(dim=1) == batch["labels"]).sum()
    model.train()
    return right.item() / len(rows)


def tell(options: argparse.Namespace, **progress: float) -> None:
    """Appends a line to the file for somebody who watches."""
    if options.progress_file:
        with options.progress_file.open("a", encoding="ascii") as file:
            file.write(json.dumps(progress) + "\n")


if __name__ == "__main__":
    main()
