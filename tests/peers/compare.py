"""Measures Medley and its peers in turn on the same work, and prints and saves the ratios of what was measured.

Each round runs every side once, so that whatever slows the machine down for a while slows both sides of a pair. The
first round warms the disk's cache and is left out.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sides
from machine import describe
from observed import Observed, observe
from pairs import LABELS
from ratio import MEDLEY, table, tables
from sides import OUTPUT, REPOSITORY, SEED, SHAPES, Side

PADDINGS = ("max_length", "longest", "longest_grouped")
BUSY_SHARE = 0.05
"""Above this share of the CPUs used by other processes, a run is not to be trusted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rounds and writes the report; returns the exit status."""
    options = parse(arguments)
    competitors: list[Side] = getattr(sides, options.mode)(options)
    report: dict[str, Any] = {
        "mode": options.mode,
        "command": shlex.join(["python", "tests/peers/compare.py", *(arguments or sys.argv[1:])]),
        "commands": {side.name: shown(side.command) for side in competitors},
        "threads": options.threads,
        "precision": "float32",
        "machine": describe(REPOSITORY),
    }
    print(json.dumps(report["machine"], indent=1))
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.pairs + 1):
        rounds.append({side.name: measure(side, number, options) for side in competitors})
    report |= {"left_out": rounds[0], "rounds": rounds[1:], "ratios": tables(rounds[1:])}
    save(report, table(rounds[1:]), options.report)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--pairs", type=int, default=5, help="rounds that count [default: 5]")
    every.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side [default: all CPUs]")
    every.add_argument("--report", type=Path, help="where to write .json and .md [default: runs/compare-MODE]")

    step = modes.add_parser("step", parents=[every], help="a training step on random rows of one length")
    step.add_argument("--medley_step", type=Path, default=REPOSITORY / "target/release/examples/step", metavar="FILE")
    step.add_argument("--shape", choices=SHAPES, default="minilm", help="of the model [default: minilm]")
    step.add_argument("--rows", type=int, default=16)
    step.add_argument("--length", type=int, default=64)
    step.add_argument("--dropout", type=float, default=0.1)
    step.add_argument("--updates", type=int, default=20, help="in each run [default: 20]")
    step.add_argument("--max_grad_norm", type=float, default=0.0, help="of PyTorch; 0: no clipping [default: 0]")
    step.add_argument("--reproducible", action="store_true",
                      help="instead of PyTorch, Medley with --reproducible off: what it costs")
    step.add_argument("--compile", action="store_true", help="add torch.compile as another peer")

    products = modes.add_parser("products", parents=[every], help="the matrix products of an encoder layer")
    products.add_argument("--medley_products", type=Path, metavar="FILE",
                          default=REPOSITORY / "target/release/examples/products")
    products.add_argument("--shape", choices=SHAPES, default="minilm", help="of the layer [default: minilm]")
    products.add_argument("--rows", type=int, default=16)
    products.add_argument("--length", type=int, default=64)
    products.add_argument("--updates", type=int, default=20, help="times in each run [default: 20]")

    real = argparse.ArgumentParser(add_help=False)
    real.add_argument("--medley", type=Path, default=REPOSITORY / "target/release/medley", metavar="FILE")
    real.add_argument("--model_name_or_path", required=True, metavar="DIR")
    real.add_argument("--labels", default=",".join(LABELS))
    real.add_argument("--max_seq_length", type=int, default=128)
    real.add_argument("--workers", type=int, default=1, help="of Medley; they share the threads [default: 1]")
    real.add_argument("--medley_flags", default="", help="more flags for Medley alone, e.g. '--lanes 4'")

    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("--train_file", type=Path, required=True)
    training.add_argument("--per_device_train_batch_size", type=int, default=16)
    training.add_argument("--gradient_accumulation_steps", type=int, default=1)
    training.add_argument("--max_steps", type=int, default=100, help="updates in each run [default: 100]")
    training.add_argument("--padding", nargs="*", choices=PADDINGS, default=["longest"],
                          help="of Hugging Face's Trainer, each a peer [default: longest]")
    training.add_argument("--strong", action="store_true", help="add a PyTorch loop of our own as another peer")
    training.add_argument("--compile", action="store_true", help="add that loop with torch.compile as another peer")
    training.add_argument("--torchrun", action="store_true",
                          help="add Trainer in --workers processes, which share the rows of an update, as another peer")
    modes.add_parser("train", parents=[every, real, training], help="the first updates of real training")
    accuracy = modes.add_parser("accuracy", parents=[every, real, training], help="the time to an accuracy")
    accuracy.add_argument("--eval_steps", type=int, default=50, help="updates between two evaluations [default: 50]")
    accuracy.add_argument("--target", type=float, required=True, help="accuracy on the validation rows")

    evaluate = modes.add_parser("evaluate", parents=[every, real], help="evaluation alone")
    evaluate.add_argument("--eval_batches", type=int, nargs="+", default=[8],
                          help="--per_device_eval_batch_size of Trainer, each a peer [default: 8, which is Trainer's]")
    for mode in (accuracy, evaluate):
        mode.add_argument("--validation_file", type=Path, required=True)

    allreduce = modes.add_parser("allreduce", parents=[every], help="sums over processes on this machine")
    allreduce.add_argument("--medley_allreduce", type=Path, metavar="FILE",
                           default=REPOSITORY / "target/release/examples/allreduce")
    allreduce.add_argument("--ranks", type=int, default=2)
    allreduce.add_argument("--megabytes", type=int, default=90, help="of float32 gradients [default: 90]")
    allreduce.add_argument("--updates", type=int, default=20, help="sums in each run [default: 20]")
    options = parser.parse_args(arguments)
    options.report = options.report or REPOSITORY / f"runs/compare-{options.mode}"
    if options.pairs < 1 or options.threads < 1:
        parser.error("--pairs and --threads must be at least 1")
    return options


def measure(side: Side, number: int, options: argparse.Namespace) -> dict[str, float]:
    """Runs a side once, in a folder that is deleted afterwards; round 0 is the one that does not count.

    Raises:
        SystemExit: it failed, or told no speed.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if side.name != MEDLEY:
        threads = str(options.threads // options.workers if "torchrun" in side.name else options.threads)
        environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "output"
        command = [word.replace(OUTPUT, str(folder)).replace(SEED, str(42 + number)) for word in side.command]
        seen = observe(side, command, environment, folder)
        try:
            if seen.code:
                raise ValueError(f"exit status {seen.code}")
            run = side.read(seen.stdout, folder) | moments(seen, getattr(options, "target", None))
        except (OSError, KeyError, ValueError) as error:
            raise SystemExit(f"{side.name}: {error}\n{shown(side.command)}\n{seen.stderr[-3000:]}") from None
    said = ", ".join(f"{name} {value:.2f}" for name, value in run.items())
    busy = seen.others_share is not None and seen.others_share > BUSY_SHARE
    print(f"{'warm-up' if number == 0 else f'round {number}'}  {side.name}: {said}"
          + (f"  (other processes used {seen.others_share:.0%} of the CPUs: not a quiet machine)" if busy else ""), flush=True)
    return run | ({} if seen.others_share is None else {"others_cpu_share": round(seen.others_share, 3)})


def moments(seen: Observed, target: float | None) -> dict[str, float]:
    """Memory, and when what was reached."""
    measured = {"peak_mb": round(seen.peak_mb, 1), "wall_s": round(seen.wall_s, 2)}
    if (first := seen.first_update_s()) is not None:
        measured["first_update_s"] = round(first, 3)
    if target is not None:
        measured["best_accuracy"] = max((progress.accuracy or 0 for _, progress in seen.milestones), default=0)
        # Where it was not reached, there is nothing to compare, and the rounds that reached it still stand in the report.
        if (reached := seen.reached_s(target)) is not None:
            measured["target_s"] = round(reached, 2)
    return measured


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
