"""Trains under a fault every few seconds for some minutes, and asks what it cost: Medley, and torchrun with Trainer.

Both run at the same time, each on a core of its own, with as many workers of one thread, and get the same schedule, made by
a seed: SIGKILL, SIGSTOP with a later SIGCONT, and SIGTERM to a worker, and `kill -9` of the command that launched them.
Whenever the command has ended, the same command is typed again, as a service manager would. When the time is over, both are
killed, and what counts is what each would go on from: its newest whole checkpoint.

Then Medley goes on without faults to the end of its run, and must come to the bytes of a run that had none.

Goodput is the useful update time divided by the wall time: the updates that count, each at the median time between two
updates of the same run.

    python tests/peers/soak.py --model_name_or_path $MODEL --train_file train.jsonl --test_file test.jsonl
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import machine
from bench import OUTPUTS, ROOT, applied_updates, made_again, sha256
from torment import Schedule, Victim, children
from watched import Ledger, Process, workers_of

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Soaks both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--minutes", type=float, default=15, help="how long both run under faults")
    parser.add_argument("--every", type=float, default=10, help="seconds between two faults, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least_faults", type=int, default=0, help="fail where a side was struck less often")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max_seq_length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="rows an update")
    parser.add_argument("--max_steps", type=int, default=0, help="updates of Medley's run [default: by --minutes]")
    parser.add_argument("--save_steps", type=int, default=10, help="of Medley")
    parser.add_argument("--peer_save_steps", type=int, default=5, help="of Trainer")
    parser.add_argument("--sides", nargs="+", default=["medley", "torchrun"], choices=["medley", "torchrun"])
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1], help="of Medley, and of torchrun")
    parser.add_argument("--binaries", default=str(ROOT / "target/release"))
    parser.add_argument("--save", default="runs/soak.json", help="where the figures go")
    options = parser.parse_args()
    for name in ("model_name_or_path", "train_file", "test_file", "binaries"):
        setattr(options, name, str(Path(getattr(options, name)).resolve()))
    with tempfile.TemporaryDirectory(prefix="medley-soak-") as folder:
        sides = [{"medley": Medley, "torchrun": Torchrun}[side](options, Path(folder)) for side in options.sides]
        threads = [threading.Thread(target=side.soak) for side in sides]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for side in sides:
            side.conclude()
    runs = [side.figures for side in sides]
    for run in runs:
        if run["struck"] < options.least_faults:
            run["problems"].append(f"struck {run['struck']} times, not {options.least_faults}")
    path = Path(options.save)
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine.describe(ROOT), "options": vars(options), "runs": runs}
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(table(runs))
    for run in runs:
        print("\n".join(f"{run['side']}: {problem}" for problem in run["problems"]), end="")
    sys.exit(any(run["problems"] for run in runs))


class Side:
    """One of those that are compared."""

    def __init__(self, options: argparse.Namespace, folder: Path, name: str, core: int) -> None:
        self.options, self.folder = options, folder
        self.pinned = ["taskset", "-c", str(core)]
        self.figures = {"side": name, "problems": [], "update_s": None, "goodput": 0.0, "updates": 0, "made": 0}

    def torment(self, command: list[str], workers: Callable[[Process], list[int]],
                look: Callable[[], None] = lambda: None) -> None:
        """Runs the command under faults for as long as is asked for."""
        victim = Victim([*self.pinned, *command], self.folder, workers)
        began = time.monotonic()
        victim.torment(Schedule(self.options.seed, self.options.every), self.options.minutes * 60, look)
        self.figures |= {
            "wall_s": time.monotonic() - began, "faults": dict(victim.faults), "struck": victim.faults.total(),
            "starts": victim.starts, "exit_codes": victim.codes, "orphans": victim.orphans,
        }  # fmt: skip

    def measure(self, counted: int, seen: list[tuple[float, int]]) -> None:
        """Takes the figures from the updates that count and from all that were seen, each with its moment."""
        steps = [later[0] - earlier[0] for earlier, later in pairwise(seen) if later[1] == earlier[1] + 1]
        wall = self.figures["wall_s"]
        self.figures |= {"updates": counted, "made": len(seen), "a_minute": counted / wall * 60}
        if steps:
            update_s = statistics.median(steps)
            self.figures |= {"update_s": update_s, "goodput": counted * update_s / wall}


class Medley(Side):
    """`medley train`, and its run to the end without faults."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        super().__init__(options, folder, "Medley", options.cores[0])
        self.figures["save_steps"] = options.save_steps
        # More than can be made in the time: the faults strike a run that trains, to the last.
        self.updates = options.max_steps or int(options.minutes * 60 / self.probe()) + options.save_steps
        self.output = folder / "soaked"

    def command(self, output: Path, updates: int) -> list[str]:
        """The command."""
        options = self.options
        return [
            f"{options.binaries}/medley", "train", "--model_name_or_path", options.model_name_or_path, "--do_train",
            "--train_file", options.train_file, "--do_predict", "--test_file", options.test_file, "--max_seq_length",
            str(options.max_seq_length), "--per_device_train_batch_size", str(options.batch), "--max_steps", str(updates),
            "--save_steps", str(options.save_steps), "--save_total_limit", "3", "--output_dir", str(output), "--workers",
            str(options.workers), "--threads", "1", "--max_restarts", "1000000",
        ]  # fmt: skip

    def probe(self) -> float:
        """Seconds an update takes, from a short run on the same core."""
        output = self.folder / "probe"
        ledger = Ledger(output / "ledger.jsonl")
        if Process([*self.pinned, *self.command(output, 20)], self.folder).end():
            raise SystemExit("a short run without faults failed")
        ledger.close()
        at = [seen.at for seen in ledger.records if seen.what["kind"] == "update"]
        return statistics.median(later - earlier for earlier, later in pairwise(at))

    def soak(self) -> None:
        """The run under faults."""
        def workers(process: Process) -> list[int]:
            said = process.said("listens on ")
            return workers_of(said.what.split("listens on ")[1].split(";")[0]) if said else []

        watched = Ledger(self.output / "ledger.jsonl")
        self.torment(self.command(self.output, self.updates), workers)
        watched.close()
        made = [(seen.at, seen.what["update"]) for seen in watched.records if seen.what["kind"] == "update"]
        saved = [int(path.parent.name.split("-")[1]) for path in self.output.glob("checkpoint-*/medley.json")]
        self.measure(max(saved, default=0), made)
        if made and made[-1][1] >= self.updates:
            self.figures["problems"].append("the run was over before the time was: give more --max_steps")

    def conclude(self) -> None:
        """Goes on without faults, on all cores, and compares the end with that of a run without faults."""
        clean = self.folder / "clean"
        for output in (self.output, clean):
            process = Process(self.command(output, self.updates), self.folder)
            process.popen.wait()
            if process.popen.returncode:
                self.figures["problems"].append(f"a run without faults failed:\n{process.text()[-2000:]}")
                return
        ledgers = [applied_updates(output / "ledger.jsonl") for output in (self.output, clean)]
        equal = ledgers[0] == ledgers[1] and all(sha256(self.output / name) == sha256(clean / name) for name in OUTPUTS)
        verify = [f"{self.options.binaries}/medley", "verify", str(self.output), "--json"]
        verified = subprocess.run(verify, capture_output=True, text=True)
        again = made_again(self.output / "ledger.jsonl")
        self.figures |= {"of": self.updates, "made_again": again, "equal_bytes": equal, "verified": not verified.returncode}
        if not equal:
            self.figures["problems"].append("the result differs from that of the run without faults")
        if verified.returncode:
            self.figures["problems"].append(f"medley verify: {verified.stdout}")


class Torchrun(Side):
    """torchrun with Trainer: elastic restarts, frequent checkpoints, resumed by itself, saved on SIGTERM."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        super().__init__(options, folder, "torchrun + Trainer", options.cores[1])
        self.figures["save_steps"] = options.peer_save_steps
        self.output, self.progress, self.rows = (folder / f"torchrun{part}" for part in ("", ".progress", ".rows"))
        self.seen: list[tuple[float, int]] = []

    def command(self) -> list[str]:
        """The command."""
        options = self.options
        return [
            str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", str(options.workers),
            "--max-restarts", "1000000", "--monitor-interval", "0.1", str(HERE / "hf_trainer.py"),
            "--model_name_or_path", options.model_name_or_path, "--do_train", "--train_file", options.train_file,
            "--max_seq_length", str(options.max_seq_length), "--padding", "longest", "--per_device_train_batch_size",
            str(options.batch // options.workers), "--max_steps", "100000", "--save_steps", str(options.peer_save_steps),
            "--save_total_limit", "3", "--output_dir", str(self.output), "--use_cpu", "--ddp_backend", "gloo",
            "--ddp_find_unused_parameters", "False", "--threads", "1", "--report_to", "none", "--disable_tqdm", "True",
            "--resume_newest", "--row_cache", str(self.rows), "--progress_file", str(self.progress),
        ]  # fmt: skip

    def look(self) -> None:
        """Takes in the updates that were made since the last look."""
        if self.progress.exists():
            numbers = [json.loads(line)["update"] for line in self.progress.read_text().splitlines()]
            self.seen += [(time.monotonic(), number) for number in numbers[len(self.seen):]]

    def soak(self) -> None:
        """The run under faults."""
        self.torment(self.command(), lambda process: children(process.popen.pid, "hf_trainer"), self.look)
        whole = self.output.glob("checkpoint-*/trainer_state.json")
        self.measure(max((int(path.parent.name.split("-")[1]) for path in whole), default=0), self.seen)
        self.figures["made_again"] = len(self.seen) - len({number for _, number in self.seen})

    def conclude(self) -> None:
        """Its last bits depend on the faults: there is nothing to compare."""


def table(runs: list[dict]) -> str:
    """The figures as Markdown."""
    head = ["", "minutes", "faults", "left behind", "updates made", "that count", "a minute", "goodput", "result"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for run in runs:
        equal = {True: "equal bytes", False: "**DIFFERENT**", None: "-"}[run.get("equal_bytes")]
        cells = [f"{run['side']}, `--save_steps {run['save_steps']}`", f"{run['wall_s'] / 60:.1f}", run["struck"],
                 run["orphans"], run["made"], run["updates"], f"{run['a_minute']:.1f}", f"{run['goodput']:.0%}", equal]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
