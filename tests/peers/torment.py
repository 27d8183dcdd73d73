"""A command under faults: a seeded schedule of what strikes when, and whoever is struck."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watched import Process, alive

KINDS = {"kill": 5, "stop": 2, "term": 1, "kill the launcher": 2}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
# How long a worker may outlive the command that started it before it counts as left behind.
ORPHANED_S = 2.0


@dataclass(frozen=True)
class Blow:
    """A fault: its kind, whom it hits (0 to 1), and how long a stop lasts."""

    kind: str
    share: float
    hold_s: float


class Schedule:
    """What strikes next, and when: the same for all by its seed."""

    def __init__(self, seed: int, every: float) -> None:
        self.chance, self.every = random.Random(seed), every

    def next(self) -> tuple[float, Blow]:
        """The time from one fault to the next, and that fault."""
        kind = self.chance.choices(list(KINDS), list(KINDS.values()))[0]
        pause = self.every * self.chance.uniform(0.5, 1.5)
        return pause, Blow(kind, self.chance.random(), self.chance.uniform(0.5, 1.5 * self.every))


class Victim:
    """Something that trains under faults: a command, and the workers it has started."""

    def __init__(self, command: list[str], folder: Path, workers: Callable[[Process], list[int]]) -> None:
        self.command, self.folder, self.workers = command, folder, workers
        self.process = Process(command, folder)
        self.starts, self.faults, self.orphans = 1, Counter(), 0
        self.codes: list[int] = []
        self.held: list[tuple[float, int]] = []

    def torment(self, schedule: Schedule, seconds: float, look: Callable[[], None] = lambda: None) -> None:
        """Strikes by the schedule until the time is over, and types the command again whenever it has ended."""
        began = time.monotonic()
        pause, blow = schedule.next()
        due = began + pause
        while time.monotonic() < began + seconds:
            code = self.process.popen.poll()
            if code is not None:
                self.codes.append(code)
                if code not in (75, -signal.SIGKILL):
                    print(f"exit code {code}:\n{self.process.text()[-2000:]}", flush=True)
                # Not at once, should it end at once.
                time.sleep(0.5)
                self.again()
            self.release()
            look()
            # One that finds nobody to strike is kept for when there is somebody.
            if time.monotonic() >= due and self.strike(blow):
                pause, blow = schedule.next()
                due += pause
            time.sleep(0.02)
        self.end()
        look()

    def again(self) -> None:
        """Types the command again."""
        self.held.clear()
        self.process = Process(self.command, self.folder)
        self.starts += 1

    def strike(self, blow: Blow) -> bool:
        """Does harm, if somebody is there."""
        if blow.kind == "kill the launcher":
            self.end()
            self.again()
        else:
            pids = self.workers(self.process)
            if not pids:
                return False
            pid = pids[int(blow.share * len(pids))]
            send(pid, SIGNALS[blow.kind])
            if blow.kind == "stop":
                self.held.append((time.monotonic() + blow.hold_s, pid))
        self.faults[blow.kind] += 1
        return True

    def release(self) -> None:
        """Lets those go on that were held for long enough."""
        due = [(at, pid) for at, pid in self.held if at <= time.monotonic()]
        self.held = [held for held in self.held if held not in due]
        for _, pid in due:
            send(pid, signal.SIGCONT)

    def end(self) -> None:
        """Kills the command, and what of its workers outlives it."""
        workers = self.workers(self.process)
        self.process.kill()
        wait_for_end(workers)
        for pid in filter(alive, workers):
            self.orphans += 1
            send(pid, signal.SIGKILL)
        wait_for_end(workers)


def wait_for_end(pids: list[int]) -> None:
    """Waits until none of them lives, for a while."""
    deadline = time.monotonic() + ORPHANED_S
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)


def children(parent: int, program: str) -> list[int]:
    """The processes that one has started, that run `program` and still live."""
    listed = []
    for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            listed += tasks.read_text(encoding="ascii").split()
        except OSError:
            continue
    return sorted(int(pid) for pid in listed if alive(int(pid)) and program.encode() in words(int(pid)))


def words(pid: int) -> bytes:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
