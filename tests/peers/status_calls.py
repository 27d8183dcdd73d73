"""Does a run notice a thousand status calls a second? Alternates windows with and without them, in one run.

    cargo build --release --locked --bins && cargo build --release --locked -p medley-tests --example status_load
    python tests/peers/status_calls.py [--pairs 6] [--seconds 8] [--model_name_or_path $MODEL --train_file train.jsonl]

The worker has a core of its own, as it has where coordinator and callers are elsewhere; the coordinator and who calls it
share the others. Needs Linux and two cores, and no Python package. Prints the ratio of updates a second with calls to those
without (median, smallest and largest over the pairs), and how long the answers took. Exit code 1 where the median ratio is
below 0.98, or in the median pair 99 of 100 answers took longer than 10 ms.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARIES = ROOT / "target/release"
FIXTURES = ROOT / "tests/fixtures/tiny-bert"
RATE = 1000
RATIO = 0.98
"""The least that is left of the updates a second, as the median over the pairs."""
P99_MS = 10
"""The longest that 99 of 100 answers may take, as the median over the pairs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--model_name_or_path", default=str(FIXTURES / "model"))
    parser.add_argument("--train_file", default=str(FIXTURES / "rows.jsonl"))
    parser.add_argument("--batch", default="16")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the worker alone")
    os.sched_setaffinity(0, set(cores[:-1]))
    with tempfile.TemporaryDirectory() as folder:
        run = ["serve", "--model_name_or_path", given.model_name_or_path, "--train_file", given.train_file, "--do_train",
               "--per_device_train_batch_size", given.batch, "--max_seq_length", "128", "--num_train_epochs", "10000",
               "--save_strategy", "no", "--output_dir", f"{folder}/out", "--workers", "1", "--listen", "127.0.0.1:0",
               "--http_listen", "127.0.0.1:0", "--disable_tqdm", "--logging_steps", "20"]
        coordinator = subprocess.Popen([BINARIES / "medley", *run], stderr=subprocess.PIPE, text=True)
        started = [coordinator]
        try:
            return measure(given, coordinator, cores[-1], started)
        finally:
            for process in reversed(started):
                process.kill()
                process.wait(60)


def measure(given: argparse.Namespace, coordinator: subprocess.Popen, core: int, started: list) -> int:
    """Starts the worker on its core, and alternates; the exit code."""
    address = metrics = ""
    for line in coordinator.stderr:
        address = next(iter(re.findall(r"coordinator listens on (\S+?:\d+);", line)), address)
        metrics = next(iter(re.findall(r"metrics on http://(\S+?:\d+):", line)), metrics)
        if address and len(started) == 1:
            words = [BINARIES / "medley-worker", "--coordinator", address, "--device", "cpu", "--threads", "1"]
            pin = lambda: os.sched_setaffinity(0, {core})
            started.append(subprocess.Popen(words, preexec_fn=pin, stderr=subprocess.DEVNULL))
        if "update 40:" in line:
            break
    # What it goes on to say must not fill the pipe.
    threading.Thread(target=coordinator.stderr.read, daemon=True).start()
    ratios, answers = [], []
    for _ in range(given.pairs):
        calm = window(metrics, lambda: time.sleep(given.seconds))
        busy = window(metrics, lambda: answers.append(calls(address, given.seconds)))
        ratios.append(busy / calm)
        said = answers[-1]
        print(f"{calm:.2f} updates/s; with {said['calls_per_second']:.0f} calls/s {busy:.2f}: {busy / calm:.4f}; "
              f"median {said['p50_ms']:.2f} ms, p99 {said['p99_ms']:.2f} ms, longest {said['max_ms']:.1f} ms", flush=True)
    ratio, slow = statistics.median(ratios), [answer["p99_ms"] for answer in answers]
    print(f"ratio {ratio:.4f} ({min(ratios):.4f} to {max(ratios):.4f}, {given.pairs} pairs); "
          f"p99 {statistics.median(slow):.2f} ms, the worst {max(slow):.2f} ms")
    return verdict(ratio, statistics.median(slow))


def verdict(ratio: float, p99_ms: float) -> int:
    """The exit code; says what is not as it should be."""
    wrong = [f"the ratio is below {RATIO}"] * (ratio < RATIO) + [f"p99 is above {P99_MS} ms"] * (p99_ms > P99_MS)
    for it in wrong:
        print(f"WRONG  {it}")
    return 1 if wrong else 0


def window(metrics: str, spend) -> float:
    """Updates a second while time is spent so."""
    first, begun = updates(metrics), time.monotonic()
    spend()
    return (updates(metrics) - first) / (time.monotonic() - begun)


def updates(metrics: str) -> int:
    text = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10).read().decode()
    return int(re.search(r"^medley_updates_total (\d+)$", text, re.MULTILINE)[1])


def calls(address: str, seconds: int) -> dict:
    words = [BINARIES / "examples/status_load", address, str(RATE), str(RATE * seconds)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
