"""Trains under a fault every few seconds for many minutes, and asks what it cost: Medley, and torchrun with Trainer.

Both get the same schedule, made by a seed: SIGKILL, SIGSTOP with a later SIGCONT, and SIGTERM to a worker, and `kill -9` of
the command that launched them. Whenever the command has ended, the same command is typed again, as a service manager would.
Medley's run goes on to its end, and must come to the same bytes as a run without faults; the peer is given the time of
--peer_minutes.

Goodput is the useful update time divided by the wall time: the updates that count in the end, each at the median time
between two updates of the same run.

    python tests/peers/soak.py --model_name_or_path $MODEL --train_file train.jsonl --test_file test.jsonl
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import machine
from bench import OUTPUTS, ROOT, applied_updates, made_again, sha256
from watched import Ledger, Process, alive, workers_of

KINDS = {"kill": 5, "stop": 2, "term": 1, "kill the launcher": 2}
HERE = Path(__file__).resolve().parent


class Schedule:
    """What strikes next, and when."""

    def __init__(self, seed: int, every: float) -> None:
        self.chance, self.every = random.Random(seed), every

    def next(self) -> tuple[float, str, float, float]:
        """The time to the next fault, its kind, whom it hits (0 to 1), and how long a stop lasts."""
        kind = self.chance.choices(list(KINDS), list(KINDS.values()))[0]
        pause = self.every * self.chance.uniform(0.5, 1.5)
        return pause, kind, self.chance.random(), self.chance.uniform(0.5, 1.5 * self.every)


class Victim:
    """Something that trains under faults: a command, and the workers it has started."""

    def __init__(self, command: list[str], folder: Path, workers: Callable[[Process], list[int]]) -> None:
        self.command, self.folder, self.workers = command, folder, workers
        self.process = Process(command, folder)
        self.starts, self.faults = 1, Counter()
        self.held: list[tuple[float, int]] = []

    def again(self) -> None:
        """Types the command again."""
        self.held.clear()
        self.process = Process(self.command, self.folder)
        self.starts += 1

    def strike(self, kind: str, share: float, hold: float) -> None:
        """Does harm, if somebody is there."""
        self.faults[kind] += 1
        if kind == "kill the launcher":
            self.end()
            return self.again()
        pids = self.workers(self.process)
        if not pids:
            self.faults["nobody there"] += 1
            return None
        pid = pids[int(share * len(pids))]
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}[kind]
        send(pid, number)
        if kind == "stop":
            self.held.append((time.monotonic() + hold, pid))
        return None

    def release(self) -> None:
        """Lets those go on that were held for long enough."""
        due = [(at, pid) for at, pid in self.held if at <= time.monotonic()]
        self.held = [held for held in self.held if held not in due]
        for _, pid in due:
            send(pid, signal.SIGCONT)

    def end(self) -> None:
        """Kills the command, and what of its workers outlives it for two seconds."""
        workers = self.workers(self.process)
        self.process.kill()
        deadline = time.monotonic() + 2
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in filter(alive, workers):
            self.faults["orphans"] += 1
            send(pid, signal.SIGKILL)


def main() -> None:
    """Soaks all sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--minutes", type=float, default=15, help="about how long Medley's run under faults is to take")
    parser.add_argument("--max_steps", type=int, default=0, help="updates of the run [default: by --minutes]")
    parser.add_argument("--peer_minutes", type=float, default=15)
    parser.add_argument("--every", type=float, default=10, help="seconds between two faults, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="rows an update")
    parser.add_argument("--save_steps", type=int, default=50)
    parser.add_argument("--peer_save_steps", type=int, nargs="*", default=[50, 500])
    parser.add_argument("--sides", nargs="+", default=["medley", "torchrun"])
    parser.add_argument("--reference", help="the output folder of Medley's run without faults, where there is one")
    parser.add_argument("--binaries", default=str(ROOT / "target/release"))
    parser.add_argument("--save", default="runs/soak.json", help="where the figures go")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="medley-soak-") as folder:
        if "medley" in options.sides:
            found.append(soak_medley(options, Path(folder)))
            print(json.dumps(found[-1], indent=2), flush=True)
        for save_steps in options.peer_save_steps if "torchrun" in options.sides else []:
            found.append(soak_torchrun(options, Path(folder), save_steps))
            print(json.dumps(found[-1], indent=2), flush=True)
    path = Path(options.save)
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine.describe(ROOT), "options": vars(options), "runs": found}
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(table(found))
    sys.exit(any(run.get("problems") for run in found))


def soak_medley(options: argparse.Namespace, folder: Path) -> dict:
    """Medley: a run without faults, then one with them, to the same bytes."""
    updates = options.max_steps or int(options.minutes * 60 * 0.6 / probe(options, folder))
    clean = Path(options.reference) if options.reference else folder / "clean"
    if not (clean / "medley_run.json").is_file():
        process = Process(command(options, clean, updates), folder)
        if process.popen.wait():
            raise SystemExit(f"the run without faults failed:\n{process.text()}")
    output = folder / "soaked"

    def workers(process: Process) -> list[int]:
        said = process.said("listens on ")
        return workers_of(said.what.split("listens on ")[1].split(";")[0]) if said else []

    start, watched = machine.Moment.now(), Ledger(output / "ledger.jsonl")
    victim = Victim(command(options, output, updates), folder, workers)
    codes = torment(options, victim, lambda code: code == 0, float("inf"))
    wall = time.monotonic() - start.clock_s
    watched.close()
    made = [seen for seen in watched.records if seen.what["kind"] == "update"]
    update_s = statistics.median(later.at - earlier.at for earlier, later in pairwise(made))
    equal = applied_updates(output / "ledger.jsonl") == applied_updates(clean / "ledger.jsonl") and all(
        sha256(output / name) == sha256(clean / name) for name in OUTPUTS)
    verified = subprocess.run([f"{options.binaries}/medley", "verify", str(output), "--json"], capture_output=True)
    problems = [] if equal else ["the result differs from that of the run without faults"]
    problems += [] if verified.returncode == 0 else [f"medley verify: {verified.stdout.decode()}"]
    return {
        "side": "medley", "save_steps": options.save_steps, "wall_s": wall, "faults": dict(victim.faults),
        "starts": victim.starts, "exit_codes": codes, "updates": updates, "made_again": made_again(output / "ledger.jsonl"),
        "update_s": update_s, "goodput": updates * update_s / wall, "equal_bytes": equal, "problems": problems,
        "others_share": machine.Moment.now().others_share_since(start),
    }  # fmt: skip


def soak_torchrun(options: argparse.Namespace, folder: Path, save_steps: int) -> dict:
    """torchrun with Trainer, for some minutes; what counts is what a last restart would go on from."""
    output, progress = folder / f"torchrun-{save_steps}", folder / f"progress-{save_steps}"
    line = [
        str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", str(options.workers),
        "--max-restarts", "1000000", str(HERE / "hf_trainer.py"), "--model_name_or_path", options.model_name_or_path,
        "--do_train", "--train_file", options.train_file, "--max_seq_length", str(options.max_seq_length),
        "--padding", "longest", "--per_device_train_batch_size", str(options.batch // options.workers),
        "--max_steps", "100000", "--save_steps", str(save_steps), "--save_total_limit", "3", "--output_dir",
        str(output), "--use_cpu", "--ddp_backend", "gloo", "--threads", "1", "--report_to", "none", "--resume_newest",
        "--progress_file", str(progress),
    ]  # fmt: skip
    victim = Victim(line, folder, lambda process: children(process.popen.pid))
    start = machine.Moment.now()
    watched = Steps(progress)
    torment(options, victim, lambda _: False, options.peer_minutes * 60, watched.look)
    victim.end()
    watched.look()
    wall = time.monotonic() - start.clock_s
    saved = max((int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")
                 if (path / "trainer_state.json").is_file()), default=0)
    steps = [later[0] - earlier[0] for earlier, later in pairwise(watched.seen) if later[1] == earlier[1] + 1]
    update_s = statistics.median(steps) if steps else None
    reached = watched.seen[-1][1] if watched.seen else 0
    return {
        "side": "torchrun + Trainer", "save_steps": save_steps, "wall_s": wall, "faults": dict(victim.faults),
        "starts": victim.starts, "updates": saved, "updates_made": len(watched.seen), "highest": reached,
        "made_again": len(watched.seen) - len({step for _, step in watched.seen}), "update_s": update_s,
        "goodput": saved * update_s / wall if update_s else 0.0,
        "goodput_unsaved": reached * update_s / wall if update_s else 0.0,
        "others_share": machine.Moment.now().others_share_since(start),
    }  # fmt: skip


class Steps:
    """The updates that the peer has told of, with the moments they were seen."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, []

    def look(self) -> None:
        """Takes in what is new."""
        if self.path.exists():
            numbers = [int(number) for number in self.path.read_text().split()]
            self.seen += [(time.monotonic(), number) for number in numbers[len(self.seen):]]


def torment(options: argparse.Namespace, victim: Victim, is_done: Callable[[int], bool], seconds: float,
            look: Callable[[], None] = lambda: None) -> list[int]:
    """Strikes by the schedule until the command is done or the time is over; returns all exit codes of the command."""
    schedule, codes = Schedule(options.seed, options.every), []
    deadline = time.monotonic() + seconds
    pause, *blow = schedule.next()
    due = time.monotonic() + pause
    while time.monotonic() < deadline:
        code = victim.process.popen.poll()
        if code is not None:
            codes.append(code)
            if is_done(code):
                break
            if code not in (75, -9):
                print(f"exit code {code}:\n{victim.process.text()[-2000:]}", flush=True)
            # Not at once, should it end at once.
            time.sleep(0.5)
            victim.again()
        victim.release()
        look()
        if time.monotonic() >= due:
            victim.strike(*blow)
            pause, *blow = schedule.next()
            due += pause
        time.sleep(0.02)
    return codes


def command(options: argparse.Namespace, output: Path, updates: int) -> list[str]:
    """Medley's command."""
    return [
        f"{options.binaries}/medley", "train", "--model_name_or_path", options.model_name_or_path, "--do_train",
        "--train_file", options.train_file, "--do_predict", "--test_file", options.test_file, "--max_seq_length",
        str(options.max_seq_length), "--per_device_train_batch_size", str(options.batch), "--max_steps", str(updates),
        "--save_steps", str(options.save_steps), "--save_total_limit", "3", "--output_dir", str(output), "--workers",
        str(options.workers), "--threads", "1", "--max_restarts", "1000000",
    ]  # fmt: skip


def probe(options: argparse.Namespace, folder: Path) -> float:
    """Seconds an update takes, from a short run."""
    output = folder / "probe"
    ledger = Ledger(output / "ledger.jsonl")
    if Process(command(options, output, 20), folder).end():
        raise SystemExit("a short run without faults failed")
    ledger.close()
    at = [seen.at for seen in ledger.records if seen.what["kind"] == "update"]
    return statistics.median(later - earlier for earlier, later in pairwise(at))


def children(parent: int) -> list[int]:
    """The processes that one has started and that still run."""
    try:
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [int(pid) for pid in listed if alive(int(pid)) and b"hf_trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def table(runs: list[dict]) -> str:
    """The figures as Markdown."""
    lines = ["| | minutes | faults | updates that count | made again | goodput | result |", "|---" * 7 + "|"]
    for run in runs:
        faults = sum(count for kind, count in run["faults"].items() if kind in KINDS)
        result = {True: "equal bytes", False: "**DIFFERENT**", None: "-"}[run.get("equal_bytes")]
        lines.append(f"| {run['side']}, `--save_steps {run['save_steps']}` | {run['wall_s'] / 60:.1f} | {faults} | "
                     f"{run['updates']} | {run['made_again']} | {run['goodput']:.0%} | {result} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
