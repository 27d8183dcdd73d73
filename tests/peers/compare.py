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
from machine import BUSY_SHARE, describe, output
from observed import Observed, observe
from pairs import LABELS
from ratio import MEDLEY, table, tables
from sides import OUTPUT, REPOSITORY, SEED, SHAPES, Side

PADDINGS = ("max_length", "longest", "longest_grouped")
PROGRAMS = {"cpu": "target/release/medley", "cuda": "target/cuda/medley/medley"}
"""Medley for each device, from the repository's root."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rounds and writes the report; returns the exit status."""
    options = parse(arguments)
    machine = describe(REPOSITORY)
    if options.device == "cuda" and len(machine["gpus"]) < options.workers:
        raise SystemExit(f"--device cuda with --workers {options.workers} needs as many GPUs; nvidia-smi shows "
                         f"{len(machine['gpus'])} here: use --device cpu, or fewer workers")
    competitors: list[Side] = getattr(sides, options.mode)(options)
    report: dict[str, Any] = {
        "mode": options.mode,
        "command": shlex.join(["python", "tests/peers/compare.py", *(arguments or sys.argv[1:])]),
        "commands": {side.name: shown(side.command) for side in competitors},
        "threads": options.threads,
        "device": options.device,
        "precision": options.precision,
        "machine": machine,
    }
    print(json.dumps(machine, indent=1))
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
    every.set_defaults(device="cpu", precision="float32", medley=None)
    parts_of_training(modes, every)
    real_training(modes, every)
    options = parser.parse_args(arguments)
    options.report = options.report or REPOSITORY / f"runs/compare-{options.mode}"
    if options.pairs < 1 or options.threads < 1:
        parser.error("--pairs and --threads must be at least 1")
    if options.precision == "bf16" and options.device == "cpu":
        parser.error("--precision bf16 needs --device cuda: on a CPU Medley computes in float32, whatever it is told")
    options.medley = options.medley or REPOSITORY / PROGRAMS[options.device]
    return options


def parts_of_training(modes: Any, every: argparse.ArgumentParser) -> None:
    """Adds the modes that measure a part of training on numbers of their own, on the CPU."""
    built = REPOSITORY / "target/release/examples"
    step = modes.add_parser("step", parents=[every], help="a training step on random rows of one length")
    step.add_argument("--medley_step", type=Path, default=built / "step", metavar="FILE")
    step.add_argument("--dropout", type=float, default=0.1)
    step.add_argument("--max_grad_norm", type=float, default=0.0, help="of PyTorch; 0: no clipping [default: 0]")
    step.add_argument("--reproducible", action="store_true",
                      help="instead of PyTorch, Medley with --reproducible off: what it costs")
    step.add_argument("--compile", action="store_true", help="add torch.compile as another peer")

    products = modes.add_parser("products", parents=[every], help="the matrix products of an encoder layer")
    products.add_argument("--medley_products", type=Path, default=built / "products", metavar="FILE")
    for mode in (step, products):
        mode.add_argument("--shape", choices=SHAPES, default="minilm", help="of the model [default: minilm]")
        mode.add_argument("--rows", type=int, default=16)
        mode.add_argument("--length", type=int, default=64)

    allreduce = modes.add_parser("allreduce", parents=[every], help="sums over processes on this machine")
    allreduce.add_argument("--medley_allreduce", type=Path, default=built / "allreduce", metavar="FILE")
    allreduce.add_argument("--ranks", type=int, default=2)
    allreduce.add_argument("--megabytes", type=int, default=90, help="of float32 gradients [default: 90]")
    for mode in (step, products, allreduce):
        mode.add_argument("--updates", type=int, default=20, help="in each run [default: 20]")


def real_training(modes: Any, every: argparse.ArgumentParser) -> None:
    """Adds the modes that measure `medley train` on rows of a file, on the CPU or on GPUs."""
    real = argparse.ArgumentParser(add_help=False)
    real.add_argument("--medley", type=Path, metavar="FILE", help="[default: target/release/medley, or what "
                                                                  "deploy/cuda/build makes]")
    real.add_argument("--model_name_or_path", required=True, metavar="DIR")
    real.add_argument("--labels", default=",".join(LABELS))
    real.add_argument("--max_seq_length", type=int, default=128)
    real.add_argument("--workers", type=int, default=1,
                      help="of Medley; they share the threads, and have a GPU each with --device cuda [default: 1]")
    real.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of all sides [default: cpu]")
    real.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                      help="of matrix products; bf16 on GPUs alone [default: float32]")
    real.add_argument("--medley_flags", default="", help="more flags for Medley alone, e.g. '--lanes 4'")

    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("--train_file", type=Path, required=True)
    training.add_argument("--per_device_train_batch_size", type=int, default=16)
    training.add_argument("--gradient_accumulation_steps", type=int, default=1)
    training.add_argument("--max_steps", type=int, default=100, help="updates in each run [default: 100]")
    training.add_argument("--learning_rate", default="3e-5", help="the highest, halfway [default: 3e-5]")
    training.add_argument("--padding", nargs="*", choices=PADDINGS, default=["longest"],
                          help="of Hugging Face's Trainer, each a peer [default: longest]")
    training.add_argument("--alone", action="store_true", help="add Medley in one process with all threads as another peer")
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


def environment(side: Side, options: argparse.Namespace) -> dict[str, str]:
    """What a side finds in its environment.

    Medley gets the libraries that its worker for GPUs needs, and which would get in PyTorch's way. A peer gets its threads, and
    no more GPUs than it has processes, as Trainer would share its rows over all that it sees.
    """
    found = os.environ | {"HF_HUB_OFFLINE": "1"}
    on_gpus = options.device == "cuda"
    if side.name.startswith(MEDLEY):
        return found | {"LD_LIBRARY_PATH": libraries()} if on_gpus else found
    threads = str(options.threads // side.processes)
    found |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if on_gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(side.processes)))
        found["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[: side.processes])
    return found


def libraries() -> str:
    """Where NVIDIA's libraries are: those that came with PyTorch, or others that `deploy/cuda/libraries` finds."""
    # It asks the first Python that it finds.
    path = f"PATH={Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    places = [output(["env", path, str(REPOSITORY / "deploy/cuda/libraries")]), os.environ.get("LD_LIBRARY_PATH")]
    return ":".join(filter(None, places))


def measure(side: Side, number: int, options: argparse.Namespace) -> dict[str, float]:
    """Runs a side once, in a folder that is deleted afterwards; round 0 is the one that does not count.

    Raises:
        SystemExit: it failed, or told no speed.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "output"
        command = [word.replace(OUTPUT, str(folder)).replace(SEED, str(42 + number)) for word in side.command]
        seen = observe(side, command, environment(side, options), folder)
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
    computed_on = f"{machine['gpus'][0]} (driver {machine['gpu_driver']}), " if report["device"] == "cuda" else ""
    head = (
        f"{computed_on}{machine['cpu']}, {report['threads']} threads, {report['device']}, {report['precision']}; "
        f"torch {machine['torch']}, transformers {machine['transformers']}; commit {machine['commit']}\n\n`{report['command']}`\n\n"
    )
    print(f"\n{head}{markdown}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_name(f"{path.name}.md").write_text(head + markdown, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
