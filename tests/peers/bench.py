"""A place for runs with faults: a model, rows, the recipe, and the run without faults that all are compared with."""

import argparse
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from watched import Ledger, Process, left_behind, wait_until

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests/fixtures/tiny-bert"
OUTPUTS = ("model.safetensors", "predictions.jsonl", "predict_results.txt")


@dataclass
class Row:
    """What one fault came to."""

    fault: str
    detected_s: float | None = None
    recovered_s: float | None = None
    updates_lost: int = 0
    rows_lost: int = 0
    rows_twice: int = 0
    equal: bool | None = None
    cause: str = ""
    orphans: int = 0
    note: str = ""
    problems: list[str] = field(default_factory=list)

    def require(self, holds: object, problem: str) -> None:
        """Notes a problem unless `holds`."""
        if not holds:
            self.problems.append(problem)


class Bench:
    """Where the runs are made, and by what command."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.binaries, self.folder = Path(options.binaries).resolve(), folder
        self.names = (f"run{number}" for number in itertools.count(1))
        self.runs: list[Run] = []
        self.workers: list[Process] = []
        model, train, test = options.model_name_or_path, options.train_file, options.test_file
        if model is None:
            model, train, test = tiny(folder)
        self.recipe = [
            "--model_name_or_path", str(Path(model).resolve()), "--do_train", "--train_file", str(Path(train).resolve()),
            "--do_eval", "--validation_file", str(Path(test).resolve()), "--do_predict", "--test_file",
            str(Path(test).resolve()), "--max_seq_length", str(options.max_seq_length),
            "--per_device_train_batch_size", str(options.per_device_train_batch_size), "--max_steps",
            str(options.max_steps), "--save_steps", str(options.max_steps // 4), "--threads", "1",
            "--heartbeat_timeout", str(options.heartbeat_timeout), "--max_restarts", "100000",
        ]  # fmt: skip
        self.updates = options.max_steps
        self.heartbeat_s, self.seed = options.heartbeat_timeout, options.seed
        run = self.train(1)
        if run.end():
            raise SystemExit(f"the run without faults failed:\n{run.process.text()}")
        self.clean = run.result()
        self.update_s = run.pace()
        self.clear()

    def train(self, workers: int, *more: str, output: Path | None = None) -> "Run":
        """Starts `medley train`."""
        return Run(self, ["train", "--workers", str(workers), *more], output or self.output())

    def serve(self, workers: int, *more: str, on: Sequence[str] = (), output: Path | None = None) -> "Run":
        """Starts `medley serve`, with what the command is to begin with."""
        listen = [] if "--listen" in more else ["--listen", "127.0.0.1:0"]
        return Run(self, ["serve", "--workers", str(workers), *listen, *more], output or self.output(), on)

    def worker(self, address: str, on: Sequence[str] = ()) -> Process:
        """Starts a worker of its own."""
        command = [*on, str(self.binaries / "medley-worker"), "--coordinator", address, "--threads", "1"]
        self.workers.append(Process(command, self.folder))
        return self.workers[-1]

    def room_bytes(self) -> int:
        """More than a run needs on its disk."""
        weights = sum(path.stat().st_size for path in Path(self.recipe[1]).glob("*.safetensors"))
        return 40 * weights + (16 << 20)

    def clear(self) -> None:
        """Ends what still runs, and removes all outputs."""
        for worker in self.workers:
            worker.kill()
        for run in self.runs:
            run.remove()
        self.workers, self.runs = [], []

    def output(self) -> Path:
        """A new output folder."""
        return self.folder / next(self.names)

    def medley(self, *words: str) -> subprocess.CompletedProcess:
        """Runs a command of `medley` that ends by itself."""
        return subprocess.run([str(self.binaries / "medley"), *words], capture_output=True, text=True, timeout=120)


class Run:
    """A coordinator's process and its ledger."""

    def __init__(self, bench: Bench, words: list[str], output: Path, on: Sequence[str] = ()) -> None:
        self.bench, self.output = bench, output
        command = [*on, str(bench.binaries / "medley"), words[0], *bench.recipe, "--output_dir", str(output), *words[1:]]
        self.ledger = Ledger(output / "ledger.jsonl")
        self.process = Process(command, bench.folder)
        bench.runs.append(self)

    def end(self) -> int:
        """Waits for its end."""
        code = self.process.end()
        self.ledger.close()
        return code

    def result(self) -> dict:
        """All that must be the same whatever happens."""
        applied = applied_updates(self.output / "ledger.jsonl")
        files = {name: sha256(self.output / name) for name in OUTPUTS}
        return {"updates": applied, "files": files}

    def pace(self) -> float:
        """Seconds an update, at the median."""
        at = [seen.at for seen in self.ledger.records if seen.what["kind"] == "update"]
        steps = sorted(later - earlier for earlier, later in itertools.pairwise(at))
        return steps[len(steps) // 2]

    def strike(self, row: Row, struck: float, causes: tuple[str, ...], within_s: float | None = None) -> None:
        """Waits until a fault is seen and overcome, and notes when and why; the worst of several.

        It must be seen `within_s` of the blow, where that is given, and the next update follow 5 s later.
        """
        seen = self.process.wait_for(*causes, since=struck)
        row.cause = row.cause or cause(seen.what)
        row.detected_s = max(row.detected_s or 0.0, seen.at - struck)
        again = wait_until(lambda: self.ledger.recovery(struck), "an update of the new group")
        row.recovered_s = max(row.recovered_s or 0.0, again.at - struck)
        if within_s is not None:
            row.require(seen.at - struck <= within_s, f"seen only after {seen.at - struck:.2f} s")
            row.require(again.at - struck <= within_s + 5, f"the next update only after {again.at - struck:.2f} s")

    def conclude(self, row: Row, code: int = 0) -> None:
        """Waits for the end, and compares all with the run without faults."""
        ended = self.end()
        row.require(ended == code, f"exit code {ended}, not {code}: {self.process.text()[-600:]}")
        row.require("panicked" not in self.process.text(), "something panicked")
        if not code and not ended:
            self.compare(row)
        if address := self.process.said("listens on "):
            row.orphans += left_behind(address.what.split("listens on ")[1].split(";")[0])
        row.require(not row.orphans, f"{row.orphans} processes are left")

    def compare(self, row: Row) -> None:
        """Compares what it came to with the run without faults."""
        result, clean = self.result(), self.bench.clean
        row.equal = result == clean
        row.require(row.equal, "the result differs from that of the run without faults")
        rows = [Counter(applied_rows(one["updates"])) for one in (result, clean)]
        row.rows_lost += (rows[1] - rows[0]).total()
        row.rows_twice += (rows[0] - rows[1]).total()
        row.updates_lost += made_again(self.output / "ledger.jsonl")
        verified = self.bench.medley("verify", str(self.output), "--json")
        problems = json.loads(verified.stdout)["problems"] if verified.stdout else [verified.stderr]
        row.require(not problems and not verified.returncode, f"medley verify: {problems}")

    def remove(self) -> None:
        """Ends what runs and removes the output."""
        self.process.kill()
        self.ledger.close()
        shutil.rmtree(self.output, ignore_errors=True)


def tiny(folder: Path) -> tuple[Path, Path, Path]:
    """Writes the tests' tiny model, with dropout, and rows for it; returns model, training and test file."""
    model = folder / "model"
    shutil.copytree(FIXTURE / "model", model)
    config = (model / "config.json").read_text().replace('dropout_prob": 0.0', 'dropout_prob": 0.1')
    (model / "config.json").write_text(config)
    rows = (FIXTURE / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(rows[:150] * 4))
    (folder / "test.jsonl").write_text("".join(rows[150:] * 20))
    return model, folder / "train.jsonl", folder / "test.jsonl"


def cause(line: str) -> str:
    """What a line gives as the reason of a loss."""
    words = line.split(": ", 1)[1] if " was lost while " in line else re.sub(r" \(.*\)", "", line)
    return words.rsplit("; ", 1)[0]


def sha256(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(ledger: Path) -> list[dict]:
    """All records of a ledger."""
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def applied_updates(ledger: Path) -> dict[int, list]:
    """Every applied update: what must be the same in any run."""
    applied = {}
    for record in records(ledger):
        if record["kind"] == "update":
            applied[record["update"]] = [record[key] for key in ("lanes", "learning_rate", "loss", "grad_norm")]
        elif record["kind"] == "rewind":
            applied = {update: what for update, what in applied.items() if update <= record["to"]}
    return applied


def applied_rows(updates: dict[int, list]) -> list[int]:
    """The rows of all applied updates."""
    return [row for update in updates.values() for lane in update[0] for row in lane]


def made_again(ledger: Path) -> int:
    """Updates that were applied, and had to be made again."""
    last, lost = 0, 0
    for record in records(ledger):
        if record["kind"] == "update":
            last = record["update"]
        elif record["kind"] == "rewind":
            lost, last = lost + last - record["to"], record["to"]
    return lost


def now() -> float:
    """The moment, on the clock of all that is seen."""
    return time.monotonic()
