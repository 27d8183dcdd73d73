"""Kills the coordinator of a run under `medley serve` and measures what that costs.

The same command comes back after a while, at the same address; the workers stay. The result must be that of a run
without faults, to the byte, and no update may be made twice.
"""

import argparse
import hashlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEDLEY = Path("target/release/medley")
WORKER = Path("target/release/medley-worker")


def main() -> None:
    """Runs once for each absence and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--max_steps", type=int, default=24)
    parser.add_argument("--update", type=int, default=12, help="the update after which the coordinator is killed")
    parser.add_argument("--absences", type=float, nargs="+", default=[0, 20, 60])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean = run(options, Path(folder) / "clean", None)
        print("| coordinator away | listens again after | next update after | updates lost | made twice | result |")
        print("|---|---|---|---|---|---|")
        failed = False
        for absence in options.absences:
            found = run(options, Path(folder) / f"away-{absence:g}", absence)
            same = found["result"] == clean["result"] and not found["lost"] and not found["twice"]
            failed |= not same
            result = "equal bytes" if same else "**DIFFERENT**"
            times = f"{found['listens']:.2f} s | {found['updates']:.2f} s"
            print(f"| {absence:g} s | {times} | {found['lost']} | {found['twice']} | {result} |", flush=True)
        sys.exit(failed)


def run(options: argparse.Namespace, output: Path, absence: float | None) -> dict:
    """One run with two workers; the times count from the start of the coordinator that comes back."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    command = [
        str(MEDLEY), "serve", "--listen", address, "--workers", "2",
        "--model_name_or_path", options.model_name_or_path, "--do_train", "--train_file", options.train_file,
        "--max_seq_length", "128", "--per_device_train_batch_size", "32", "--max_steps", str(options.max_steps),
        "--save_steps", "8", "--output_dir", str(output),
    ]  # fmt: skip
    worker = [str(WORKER), "--coordinator", address, "--threads", "1"]
    ledger = output / "ledger.jsonl"
    found = {"listens": None, "updates": None}
    with (output.parent / f"{output.name}.log").open("w") as log:
        coordinator = subprocess.Popen(command, stderr=log)
        workers = [subprocess.Popen(worker, stderr=log) for _ in range(2)]
        try:
            if absence is not None:
                wait(lambda: last(ledger) >= options.update, coordinator)
                coordinator.send_signal(signal.SIGKILL)
                coordinator.wait()
                time.sleep(absence)
                before, began = last(ledger), time.monotonic()
                coordinator = subprocess.Popen(command, stderr=log)
                wait(lambda: listens(address), coordinator)
                found["listens"] = time.monotonic() - began
                wait(lambda: last(ledger) > before, coordinator)
                found["updates"] = time.monotonic() - began
            codes = [process.wait() for process in [coordinator, *workers]]
        finally:
            for process in [coordinator, *workers]:
                process.kill()
    if any(codes):
        sys.exit(f"{' '.join(command)}: exit codes {codes}; see {output}")
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    updates = [record["update"] for record in records if record["kind"] == "update"]
    applied = [[record[key] for key in ("update", "lanes", "loss", "grad_norm", "learning_rate")]
               for record in records if record["kind"] == "update"]  # fmt: skip
    weights = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    lost = options.max_steps - len(set(updates))
    return {**found, "lost": lost, "twice": len(updates) - len(set(updates)), "result": (weights, applied)}


def wait(happened, coordinator: subprocess.Popen) -> None:
    """Waits until something has happened, as long as the coordinator lives."""
    while not happened():
        if coordinator.poll() is not None:
            sys.exit(f"the coordinator ended with exit code {coordinator.returncode}")
        time.sleep(0.005)


def last(ledger: Path) -> int:
    """The last update of a ledger; 0 where there is none."""
    if not ledger.exists():
        return 0
    lines = [line for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    updates = [record["update"] for record in map(json.loads, lines) if record["kind"] == "update"]
    return max(updates, default=0)


def listens(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


if __name__ == "__main__":
    main()
