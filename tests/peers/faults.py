"""Injects faults into short runs of `medley train` and measures what they cost.

Each run is compared with one without faults: final weights, predictions and applied updates must be equal to the byte.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEDLEY = Path("target/release/medley")

# The fault, its plan, and the workers it starts with.
FAULTS = [
    ("SIGKILL of 1 of 2 workers", "kill:worker=1@update=12", 2),
    ("SIGKILL of rank 0 of 3", "kill:worker=0@update=12", 3),
    ("SIGKILL of all but one of 3", "kill:worker=0@update=12;kill:worker=1@update=12", 3),
    ("SIGKILL of all of 2", "kill:worker=0@update=16;kill:worker=1@update=16", 2),
    ("SIGSTOP of 1 of 2", "stop:worker=1@update=12", 2),
    ("SIGTERM to 1 of 2: it leaves in order", "term:worker=1@update=12", 2),
]


def main() -> None:
    """Runs all faults and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--max_steps", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean = run(options, Path(folder) / "clean", 1, None)
        print("| fault | seen after | new group after | updates lost | result |\n|---|---|---|---|---|")
        failed = False
        for name, plan, workers in FAULTS:
            faulty = run(options, Path(folder) / "faulty", workers, plan)
            same = faulty["result"] == clean["result"]
            failed |= not same
            result = "equal bytes" if same else "**DIFFERENT**"
            times = [f"{faulty[key]:.2f} s" if faulty[key] is not None else "-" for key in ("seen", "regrouped")]
            print(f"| {name} | {times[0]} | {times[1]} | {faulty['rewound']} | {result} |", flush=True)
        sys.exit(failed)


def run(options: argparse.Namespace, output: Path, workers: int, plan: str | None) -> dict:
    """One run: when its faults were seen and overcome, and what it came to."""
    command = [
        str(MEDLEY), "train", "--model_name_or_path", options.model_name_or_path,
        "--do_train", "--train_file", options.train_file, "--do_predict", "--test_file", options.test_file,
        "--max_seq_length", "128", "--per_device_train_batch_size", "32", "--max_steps", str(options.max_steps),
        "--save_steps", "8", "--output_dir", str(output), "--overwrite_output_dir",
        "--resume_from_checkpoint", "False", "--workers", str(workers),
    ]  # fmt: skip
    if plan:
        command += ["--chaos", plan]
    struck = seen = regrouped = None
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            now = time.monotonic()
            if line.startswith("chaos: "):
                struck = struck or now
            elif struck and ("was lost while" in line or "left, as it was asked" in line):
                seen = now
            elif struck and line.startswith("going on with") and seen and not regrouped:
                regrouped = now
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    since = [moment - struck if struck and moment else None for moment in (seen, regrouped)]
    ledger = [json.loads(line) for line in (output / "ledger.jsonl").read_text().splitlines()]
    return {"seen": since[0], "regrouped": since[1], "rewound": rewound(ledger), "result": result(output, ledger)}


def rewound(ledger: list[dict]) -> int:
    """Updates that were made, and had to be made again."""
    last, lost = 0, 0
    for record in ledger:
        if record["kind"] == "update":
            last = record["update"]
        elif record["kind"] == "rewind":
            lost, last = lost + last - record["to"], record["to"]
    return lost


def result(output: Path, ledger: list[dict]) -> list:
    """All that must be the same whatever happens: digests of the outputs, and every applied update."""
    applied = {}
    for record in ledger:
        if record["kind"] == "update":
            kept = ("lanes", "learning_rate", "loss", "grad_norm")
            applied[record["update"]] = [record[key] for key in kept]
    files = ("model.safetensors", "predictions.jsonl", "predict_results.txt")
    return [hashlib.sha256((output / name).read_bytes()).hexdigest() for name in files] + [sorted(applied.items())]


if __name__ == "__main__":
    main()
