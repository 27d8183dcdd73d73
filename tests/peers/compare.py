"""Measures Medley and its peers in turn on the same work, and prints and saves the ratios of their speeds.

Each round runs every side once, so that whatever slows the machine down for a while slows both sides of a pair. The
first round warms the disk's cache and is left out.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import Moment, describe
from pairs import LABELS, read_pairs
from ratio import MEDLEY, ratios, table

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PADDINGS = ("max_length", "longest", "longest_grouped")
BUSY_SHARE = 0.05
"""Above this share of the CPUs used by other processes, a run is not to be trusted."""

OUTPUT = "OUTPUT_DIR"
SEED = "SEED"
"""Words of a command that each run puts its own folder and seed in place of."""


@dataclass(frozen=True)
class Side:
    """A program to measure: its command, and how its speed in rows/s is read from its output and its folder."""

    name: str
    command: list[str]
    read: Callable[[str, Path], dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rounds and writes the report; returns the exit status."""
    options = parse(arguments)
    sides = step_sides(options) if options.mode == "step" else train_sides(options)
    report: dict[str, Any] = {
        "mode": options.mode,
        "command": shlex.join(["python", "tests/peers/compare.py", *(arguments or sys.argv[1:])]),
        "commands": {side.name: shown(side.command) for side in sides},
        "threads": options.threads,
        "precision": "float32",
        "machine": describe(REPOSITORY),
    }
    print(json.dumps(report["machine"], indent=1))
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.pairs + 1):
        rounds.append({side.name: measure(side, number, options.threads) for side in sides})
    speeds = [{name: run["rows_per_s"] for name, run in measured.items()} for measured in rounds[1:]]
    report |= {"left_out": rounds[0], "rounds": rounds[1:], "ratios": ratios(speeds)}
    save(report, table(speeds), options.report)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--pairs", type=int, default=5, help="rounds that count [default: 5]")
    both.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side [default: all CPUs]")
    both.add_argument("--report", type=Path, help="where to write .json and .md [default: runs/compare-MODE]")

    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    step = modes.add_parser("step", parents=[both], help="a training step on random rows of one length")
    step.add_argument("--medley_step", type=Path, default=REPOSITORY / "target/release/examples/step", metavar="FILE")
    step.add_argument("--rows", type=int, default=16)
    step.add_argument("--length", type=int, default=64)
    step.add_argument("--dropout", type=float, default=0.1)
    step.add_argument("--updates", type=int, default=20, help="in each run [default: 20]")
    step.add_argument("--max_grad_norm", type=float, default=0.0, help="of PyTorch; 0: no clipping [default: 0]")
    step.add_argument("--reproducible", action="store_true",
                      help="instead of PyTorch, Medley with --reproducible off: what it costs")
    step.add_argument("--compile", action="store_true", help="add torch.compile as another peer")

    train = modes.add_parser("train", parents=[both], help="the first updates of real training")
    train.add_argument("--medley", type=Path, default=REPOSITORY / "target/release/medley", metavar="FILE")
    train.add_argument("--model_name_or_path", required=True, metavar="DIR")
    train.add_argument("--train_file", type=Path, required=True)
    train.add_argument("--labels", default=",".join(LABELS))
    train.add_argument("--max_seq_length", type=int, default=128)
    train.add_argument("--per_device_train_batch_size", type=int, default=16)
    train.add_argument("--gradient_accumulation_steps", type=int, default=1)
    train.add_argument("--max_steps", type=int, default=100, help="updates in each run [default: 100]")
    train.add_argument("--padding", nargs="+", choices=PADDINGS, default=["longest"],
                       help="of Hugging Face, each a peer [default: longest]")
    train.add_argument("--workers", type=int, default=1, help="of Medley; they share the threads [default: 1]")
    train.add_argument("--medley_flags", default="", help="more flags for Medley alone, e.g. '--lanes 4'")
    options = parser.parse_args(arguments)
    options.report = options.report or REPOSITORY / f"runs/compare-{options.mode}"
    if options.pairs < 1 or options.threads < 1:
        parser.error("--pairs and --threads must be at least 1")
    return options


def step_sides(options: argparse.Namespace) -> list[Side]:
    """Medley's example `step`, and PyTorch's loop in `torch_step.py` or Medley with sums in any order."""
    flags = [
        *("--rows", str(options.rows), "--length", str(options.length), "--threads", str(options.threads)),
        *("--dropout", str(options.dropout), "--updates", str(options.updates)),
    ]
    torch = [sys.executable, str(HERE / "torch_step.py"), *flags, "--max_grad_norm", str(options.max_grad_norm)]

    def read(stdout: str, _folder: Path) -> dict[str, float]:
        ms = step_ms(stdout)
        return {"ms_per_update": ms, "rows_per_s": options.rows * 1000 / ms}

    medley = [program(options.medley_step, "cargo build --release --package medley-worker --example step"), *flags]
    if options.reproducible:
        return [Side(MEDLEY, medley, read), Side("reproducible off", [*medley, "--reproducible", "false"], read)]
    sides = [Side(MEDLEY, medley, read), Side("torch", torch, read)]
    return [*sides, Side("torch.compile", [*torch, "--compile"], read)] if options.compile else sides


def step_ms(stdout: str) -> float:
    """The milliseconds an update took, from the last line that tells them: `{"ms_per_update": ...}`.

    Raises:
        ValueError: no line does.
    """
    for line in reversed(stdout.splitlines()):
        if line.startswith("{") and "ms_per_update" in (found := json.loads(line)):
            return float(found["ms_per_update"])
    raise ValueError("no line with ms_per_update")


def train_sides(options: argparse.Namespace) -> list[Side]:
    """`medley train`, and Hugging Face's Trainer in `hf_trainer.py` once for each padding; both take `flags`."""
    rows = rows_of(options)
    if options.threads % options.workers:
        raise SystemExit(f"{options.threads} threads cannot be shared by {options.workers} workers")
    flags = [
        *("--model_name_or_path", options.model_name_or_path, "--train_file", str(options.train_file)),
        *("--do_train", "--labels", options.labels, "--max_seq_length", str(options.max_seq_length)),
        *("--per_device_train_batch_size", str(options.per_device_train_batch_size)),
        *("--gradient_accumulation_steps", str(options.gradient_accumulation_steps)),
        *("--max_steps", str(options.max_steps), "--learning_rate", "3e-5", "--warmup_steps", "0.5"),
        *("--optim", "adamw_torch_fused", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "True"),
        *("--seed", SEED, "--output_dir", OUTPUT),
    ]
    medley = [
        *(program(options.medley, "cargo build --release"), "train", *flags),
        *("--device", "cpu", "--workers", str(options.workers)),
        *("--threads", str(options.threads // options.workers), *shlex.split(options.medley_flags)),
    ]
    peer = [sys.executable, str(HERE / "hf_trainer.py"), *flags, "--use_cpu", "--threads", str(options.threads)]

    def read(_stdout: str, folder: Path) -> dict[str, float]:
        return training_speed(json.loads((folder / "train_results.json").read_text(encoding="utf-8")), rows)

    peers = [Side(f"hf_trainer {padding}", [*peer, "--padding", padding], read) for padding in options.padding]
    return [Side(MEDLEY, medley, read), *peers]


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
    # transformers.trainer_pt_utils.get_length_grouped_indices starts each group of updates with its longest rows.
    group = max(1, min(available // (4 * update), 50))
    if "longest_grouped" in options.padding and options.max_steps % group:
        raise SystemExit(f"--max_steps must be a multiple of {group} with longest_grouped: rows come longest first")
    return rows


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


def program(path: Path, build: str) -> str:
    """The absolute path of a program that has been built.

    Raises:
        SystemExit: there is none.
    """
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; build it with: {build}")
    return str(path.resolve())


def measure(side: Side, number: int, threads: int) -> dict[str, float]:
    """Runs a side once, in a folder that is deleted afterwards; round 0 is the one that does not count.

    Raises:
        SystemExit: it failed, or told no speed.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if side.name != MEDLEY:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "output"
        words = {OUTPUT: str(folder), SEED: str(42 + number)}
        start, clock = Moment.now(), time.monotonic()
        command = [words.get(word, word) for word in side.command]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
        wall_s = time.monotonic() - clock
        others = Moment.now().others_share_since(start)
        try:
            if done.returncode:
                raise ValueError(f"exit status {done.returncode}")
            run = side.read(done.stdout, folder)
        except (OSError, KeyError, ValueError) as error:
            raise SystemExit(f"{side.name}: {error}\n{shown(side.command)}\n{done.stderr[-3000:]}") from None
    busy = others is not None and others > BUSY_SHARE
    print(f"{'warm-up' if number == 0 else f'round {number}'}  {side.name}: {run['rows_per_s']:.2f} rows/s"
          + (f"  (other processes used {others:.0%} of the CPUs: not a quiet machine)" if busy else ""), flush=True)
    return run | {"wall_s": round(wall_s, 2)} | ({} if others is None else {"others_cpu_share": round(others, 3)})


def shown(command: Sequence[str]) -> str:
    """A command as a reader would type it: from the repository's root, and without the interpreter's folder."""
    words = ["python" if word == sys.executable else word.removeprefix(f"{REPOSITORY}/") for word in command]
    return shlex.join(words)


def save(report: dict[str, Any], markdown: str, path: Path) -> None:
    """Prints the table, and writes it and the report as `path`.md and `path`.json."""
    machine = report["machine"]
    head = (
        f"{machine['cpu']}, {report['threads']} threads, {report['precision']}; torch {machine['torch']}, "
        f"transformers {machine['transformers']}; commit {machine['commit']}\n\n`{report['command']}`\n\n"
    )
    print(f"\n{head}{markdown}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_name(f"{path.name}.md").write_text(head + markdown, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
