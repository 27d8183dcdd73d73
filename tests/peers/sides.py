"""What is compared: each program as a command, and how its speed is read."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pairs import read_pairs
from ratio import MEDLEY, QUANTITIES

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

OUTPUT = "OUTPUT_DIR"
SEED = "SEED"
"""Words of a command that each run puts its own folder and seed in place of."""

PROGRESS = "progress.jsonl"
"""File in a peer's output folder to which `hf_trainer.py` and `torch_train.py` write what they have done."""

SHAPES = {"minilm": (384, 6, 32), "bert-base": (768, 12, 64), "bert-large": (1024, 24, 64)}
"""Width of the hidden states, layers, and width of an attention head."""


BUILD = {"cpu": "cargo build --release", "cuda": "deploy/cuda/build"}
"""What makes Medley for a device."""


@dataclass(frozen=True)
class Progress:
    """A milestone of a run: an update that was made, or the accuracy on the validation rows."""

    update: int
    accuracy: float | None = None


@dataclass(frozen=True)
class Side:
    """A program to measure.

    `read` gets standard output and the output folder of a run that has ended. `progress_file` lies in the output folder and
    grows while it runs; `progress` reads a line of it. `processes` share the threads, and have a GPU each where there are any.
    """

    name: str
    command: list[str]
    read: Callable[[str, Path], dict[str, float]]
    progress_file: str | None = None
    progress: Callable[[str], Progress | None] = field(default=lambda _line: None)
    processes: int = 1


def of_ledger(line: str) -> Progress | None:
    """The milestone in a record of Medley's ledger."""
    record = json.loads(line)
    if record["kind"] == "update":
        return Progress(record["update"])
    if record["kind"] == "evaluation" and "eval_accuracy" in record["entry"]:
        return Progress(record["update"], record["entry"]["eval_accuracy"])
    return None


def of_peer(line: str) -> Progress | None:
    """The milestone in a line of `PROGRESS`."""
    return Progress(**json.loads(line))


def step(options: argparse.Namespace) -> list[Side]:
    """Medley's example `step`, and PyTorch's loop in `torch_step.py` or Medley with sums in any order."""
    hidden, layers, head = SHAPES[options.shape]
    flags = [
        *("--rows", str(options.rows), "--length", str(options.length), "--threads", str(options.threads)),
        *("--dropout", str(options.dropout), "--updates", str(options.updates)),
        *("--hidden", str(hidden), "--layers", str(layers), "--head", str(head)),
    ]
    torch = [sys.executable, str(HERE / "torch_step.py"), *flags, "--max_grad_norm", str(options.max_grad_norm)]

    def read(stdout: str, _folder: Path) -> dict[str, float]:
        ms = number(stdout, "ms_per_update")
        return {"ms_per_update": ms, "rows_per_s": options.rows * 1000 / ms}

    medley = [program(options.medley_step, "cargo build --release --package medley-worker --example step"), *flags]
    if options.reproducible:
        return [Side(MEDLEY, medley, read), Side("reproducible off", [*medley, "--reproducible", "false"], read)]
    sides = [Side(MEDLEY, medley, read), Side("torch", torch, read)]
    return [*sides, Side("torch.compile", [*torch, "--compile"], read)] if options.compile else sides


def train(options: argparse.Namespace) -> list[Side]:
    """`medley train`, and its peers over the same rows, with the same flags."""
    rows = rows_of(options)
    flags = [
        *("--model_name_or_path", options.model_name_or_path, "--train_file", str(options.train_file)),
        *("--do_train", "--labels", options.labels, "--max_seq_length", str(options.max_seq_length)),
        *("--gradient_accumulation_steps", str(options.gradient_accumulation_steps)),
        *("--max_steps", str(options.max_steps), "--learning_rate", options.learning_rate, "--warmup_steps", "0.5"),
        *("--optim", "adamw_torch_fused", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "True"),
        *("--seed", SEED, "--output_dir", OUTPUT),
    ]

    def read(_stdout: str, folder: Path) -> dict[str, float]:
        results = json.loads((folder / "train_results.json").read_text(encoding="utf-8"))
        return training_speed(results, rows) | device_memory(folder)

    whole = ["--per_device_train_batch_size", str(options.per_device_train_batch_size)]

    def medley(name: str, workers: int) -> Side:
        command = [*medley_train(options, workers), *whole, *flags]
        return Side(name, command, read, "ledger.jsonl", of_ledger, workers)

    peers = [
        Side(name, [*command, *flags], read, PROGRESS, of_peer, processes)
        for name, command, processes in training_peers(options)
    ]
    alone = [medley(f"{MEDLEY}, one process", 1)] if options.alone else []
    return [medley(MEDLEY, options.workers), *alone, *peers]


def medley_train(options: argparse.Namespace, workers: int) -> list[str]:
    """`medley train` with so many workers, which share the threads, on the device and in the precision that are asked for."""
    # On a CPU it computes in float32, whatever it is told.
    precision = ["--bf16", str(options.precision == "bf16")] if options.device == "cuda" else []
    return [
        *(program(options.medley, BUILD[options.device]), "train", "--device", options.device, *precision),
        *("--workers", str(workers), "--threads", str(threads_of_one(options, workers))),
        *shlex.split(options.medley_flags),
    ]


def hf_device(options: argparse.Namespace) -> list[str]:
    """What tells Trainer where to compute, and in which precision."""
    device = [] if options.device == "cuda" else ["--use_cpu"]
    return [*device, "--bf16"] if options.precision == "bf16" else device


def training_peers(options: argparse.Namespace) -> list[tuple[str, list[str], int]]:
    """The peers that are asked for: names, commands without the flags that all have, processes. They tell their progress."""
    whole = ["--per_device_train_batch_size", str(options.per_device_train_batch_size)]
    alone = [*whole, "--threads", str(options.threads)]
    progress = ["--progress_file", f"{OUTPUT}/{PROGRESS}"]
    trainer = [sys.executable, str(HERE / "hf_trainer.py"), *hf_device(options), *progress]
    loop = [sys.executable, str(HERE / "torch_train.py"), "--device", options.device, "--precision", options.precision,
            *progress, *alone]
    peers = [(f"hf_trainer {padding}", [*trainer, *alone, "--padding", padding], 1) for padding in options.padding]
    if options.strong:
        peers.append(("torch loop, rows of like length", loop, 1))
    if options.compile:
        peers.append(("torch loop, compiled", [*loop, "--compile"], 1))
    if options.torchrun:
        if options.per_device_train_batch_size % options.workers:
            raise SystemExit(f"{options.workers} processes cannot share {options.per_device_train_batch_size} rows equally")
        share = options.per_device_train_batch_size // options.workers
        backend = "nccl" if options.device == "cuda" else "gloo"
        peers.append((f"torchrun, {options.workers} processes, {backend}", [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.workers)),
            *(*trainer[1:], "--padding", "longest", "--ddp_backend", backend),
            *("--threads", str(threads_of_one(options, options.workers)), "--per_device_train_batch_size", str(share)),
        ], options.workers))
    return peers


def accuracy(options: argparse.Namespace) -> list[Side]:
    """`train`, evaluated every `--eval_steps` updates, so that the time to an accuracy can be seen."""
    flags = ["--do_eval", "--validation_file", str(options.validation_file), "--eval_strategy", "steps",
             "--eval_steps", str(options.eval_steps), "--per_device_eval_batch_size", "8"]

    def read(_stdout: str, folder: Path) -> dict[str, float]:
        # Evaluations are in the time of some and not of others: the clock outside decides.
        results = json.loads((folder / "train_results.json").read_text(encoding="utf-8"))
        return {"train_loss": results["train_loss"]} | device_memory(folder)

    return [replace(side, command=[*side.command, *flags], read=read) for side in train(options)]


def evaluate(options: argparse.Namespace) -> list[Side]:
    """Evaluation alone: `medley train --do_eval`, and Trainer's."""
    rows = len(read_pairs(options.validation_file, options.labels.split(",")))
    flags = [
        *("--model_name_or_path", options.model_name_or_path, "--validation_file", str(options.validation_file)),
        *("--do_eval", "--labels", options.labels, "--max_seq_length", str(options.max_seq_length)),
        *("--report_to", "none", "--disable_tqdm", "True", "--seed", SEED, "--output_dir", OUTPUT),
    ]
    medley = [*medley_train(options, options.workers), *flags]
    trainer = [sys.executable, str(HERE / "hf_trainer.py"), *flags, *hf_device(options), "--padding", "longest",
               "--threads", str(options.threads)]

    def read(_stdout: str, folder: Path) -> dict[str, float]:
        results = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
        if results["eval_samples"] != rows:
            raise ValueError(f"{results['eval_samples']} rows were evaluated, and not {rows}")
        return {"rows_per_s": rows / results["eval_runtime"], "eval_loss": results["eval_loss"]} | device_memory(folder)

    peers = [Side(f"hf_trainer longest, batch of {size}", [*trainer, "--per_device_eval_batch_size", str(size)], read)
             for size in options.eval_batches]
    return [Side(MEDLEY, medley, read, processes=options.workers), *peers]


def allreduce(options: argparse.Namespace) -> list[Side]:
    """Medley's example `allreduce`, and gloo's all-reduce in `gloo_allreduce.py`."""
    flags = ["--ranks", str(options.ranks), "--megabytes", str(options.megabytes), "--rounds", str(options.updates)]

    def read(stdout: str, _folder: Path) -> dict[str, float]:
        return {"gb_per_s": number(stdout, "gb_per_s")}

    build = "cargo build --release --package medley-worker --example allreduce"
    return [
        Side(MEDLEY, [program(options.medley_allreduce, build), *flags], read),
        Side("gloo", [sys.executable, str(HERE / "gloo_allreduce.py"), *flags], read),
    ]


def products(options: argparse.Namespace) -> list[Side]:
    """Medley's example `products`, and PyTorch's products in `torch_products.py`."""
    flags = ["--hidden", str(SHAPES[options.shape][0]), "--tokens", str(options.rows * options.length),
             "--threads", str(options.threads), "--rounds", str(options.updates)]

    def read(stdout: str, _folder: Path) -> dict[str, float]:
        return {name: number(stdout, name) for name in QUANTITIES if name.endswith("gflops")}

    build = "cargo build --release --package medley-worker --example products"
    return [
        Side(MEDLEY, [program(options.medley_products, build), *flags], read),
        Side("torch", [sys.executable, str(HERE / "torch_products.py"), *flags], read),
    ]


def threads_of_one(options: argparse.Namespace, workers: int) -> int:
    """Threads of each of so many workers.

    Raises:
        SystemExit: they cannot be shared equally.
    """
    if options.threads % workers:
        raise SystemExit(f"{options.threads} threads cannot be shared by {workers} workers")
    return options.threads // workers


def rows_of(options: argparse.Namespace) -> int:
    """How many rows a training run computes.

    Raises:
        SystemExit: the sides would not compute equally many rows, or the peer none but long ones.
    """
    update = options.per_device_train_batch_size * options.gradient_accumulation_steps
    rows = options.max_steps * update
    available = len(read_pairs(options.train_file, options.labels.split(",")))
    if not 0 < rows <= available:
        # The last update of an epoch is smaller, and the sides count its rows in different ways.
        raise SystemExit(f"--max_steps makes {rows} rows; {options.train_file.name} has {available}: stay in one epoch")
    group = length_group(available, update)
    if "longest_grouped" in options.padding and options.max_steps % group:
        raise SystemExit(f"--max_steps must be a multiple of {group} with longest_grouped: rows come longest first")
    return rows


def length_group(rows: int, update: int) -> int:
    """Updates of so many rows after which Trainer's group_by_length has taken long and short ones alike:
    transformers.trainer_pt_utils.get_length_grouped_indices starts each group of updates with its longest rows."""
    return max(1, min(rows // (4 * update), 50))


def device_memory(folder: Path) -> dict[str, float]:
    """The most that a process had in use on its GPU at once, as the side itself says in its output folder; nothing on a CPU.

    Both count what was allocated, and not what is kept for later: Medley the high-water mark of its memory pool, the peers
    `torch.cuda.max_memory_allocated`.
    """
    for path in sorted(folder.glob("*_results.json")):
        if taken := json.loads(path.read_text(encoding="utf-8")).get("peak_memory_device_bytes"):
            return {"peak_device_mb": round(taken / 1e6, 1)}
    return {}


def training_speed(results: dict[str, float], rows: int) -> dict[str, float]:
    """The speed in a train_results.json of a run over `rows` rows.

    Raises:
        ValueError: the run says it was another number of rows, so the two sides would not be comparable.
    """
    speed = rows / results["train_runtime"]
    if abs(results["train_samples_per_second"] - speed) > max(0.01 * speed, 0.001):
        raise ValueError(f"{results['train_samples_per_second']} rows/s reported; expected {speed:.3f} for {rows} rows")
    return {
        "rows_per_s": speed,
        "train_runtime": results["train_runtime"],
        "train_samples_per_second": results["train_samples_per_second"],
        "train_loss": results["train_loss"],
    }


def number(stdout: str, name: str) -> float:
    """What the last line tells that has `name`: `{"ms_per_update": ...}`.

    Raises:
        ValueError: no line does.
    """
    for line in reversed(stdout.splitlines()):
        if line.startswith("{") and name in (found := json.loads(line)):
            return float(found[name])
    raise ValueError(f"no line with {name}")


def program(path: Path, build: str) -> str:
    """The absolute path of a program that has been built.

    Raises:
        SystemExit: there is none.
    """
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; build it with: {build}")
    return str(path.resolve())
