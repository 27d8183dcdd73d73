"""Processes of Medley that are watched from outside: what they say and when, what the ledger gets and when, who is left.

Everything here is seen as anybody sees it: standard error, the ledger in the output folder, `/proc`.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# How often the ledger is looked at.
LOOK_S = 0.004
# The longest that anything here is waited for.
PATIENCE_S = 180.0


@dataclass(frozen=True)
class Seen:
    """A line or a record, and the moment it was seen, in seconds of the monotonic clock."""

    at: float
    what: str | dict


class Unseen(Exception):
    """What was waited for did not come."""


class Process:
    """A running `medley` or `medley-worker`; its lines are kept with the moments they came."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command = command
        self.lines: list[Seen] = []
        self.started = time.monotonic()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.popen = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace", env=environment,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.popen.stderr:
            self.lines.append(Seen(time.monotonic(), line.rstrip("\n")))

    def said(self, *parts: str, since: float = 0.0) -> Seen | None:
        """The first line after `since` that has one of `parts`."""
        # A copy of the length: lines are only ever added.
        return next((line for line in self.lines[:] if line.at >= since and any(part in line.what for part in parts)),
                    None)

    def wait_for(self, *parts: str, since: float = 0.0) -> Seen:
        """Waits for such a line."""
        def said() -> Seen | None:
            # The order matters: a process that has ended may still have said it.
            ended = self.popen.poll() is not None and not self._reader.is_alive()
            line = self.said(*parts, since=since)
            if line is None and ended:
                raise Unseen(f"ended without {parts}:\n{self.text()}")
            return line

        return wait_until(said, f"{parts} in:\n{self.text()}")

    def signal(self, number: signal.Signals) -> float:
        """Sends a signal; returns when."""
        now = time.monotonic()
        self.popen.send_signal(number)
        return now

    def end(self) -> int:
        """Waits for the end; the exit code, negative for a signal."""
        try:
            code = self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise Unseen(f"{' '.join(self.command)} did not end:\n{self.text()}") from None
        self._reader.join(5)
        return code

    def kill(self) -> None:
        """Ends it, whatever it does."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    def text(self) -> str:
        """All lines."""
        return "\n".join(line.what for line in self.lines)

    def address(self) -> str:
        """Where the coordinator listens."""
        return self.wait_for("listens on ").what.split("listens on ")[1].split(";")[0].split()[0].rstrip(",;")

    def workers(self) -> dict[int, int]:
        """The process id of every worker that has joined, by its number."""
        joined = [line.what for line in self.lines[:] if " joined: " in line.what]
        return {int(line.split()[1]): int(line.split("pid ")[1].split(",")[0]) for line in joined}


class Ledger:
    """A ledger that is read while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Seen] = []
        # Bytes of the whole lines that were read.
        self._offset = 0
        # What is there already came before anything that is waited for.
        self._look(0.0)
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return
        # A record that is not whole yet, or was torn by a death, is looked at again.
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.records.extend(Seen(now, json.loads(line)) for line in whole.splitlines())

    def first(self, kind: str, since: float, where: Callable[[dict], bool] = lambda _: True) -> Seen | None:
        """The first record of a kind that came after `since` and of which `where` holds."""
        return next((seen for seen in self.records[:]
                     if seen.at > since and seen.what["kind"] == kind and where(seen.what)), None)

    def wait_for(self, kind: str, since: float, where: Callable[[dict], bool] = lambda _: True) -> Seen:
        """Waits for such a record."""
        return wait_until(lambda: self.first(kind, since, where), f"a record {kind!r} in {self.path}")

    def wait_for_update(self, update: int) -> Seen:
        """Waits until `update` is applied."""
        return self.wait_for("update", 0.0, lambda record: record["update"] >= update)

    def recovery(self, since: float) -> Seen | None:
        """The first update that a group made which was formed after `since`."""
        grouped = False
        for seen in self.records[:]:
            grouped |= seen.at > since and seen.what["kind"] == "group"
            if grouped and seen.what["kind"] == "update":
                return seen
        return None

    def close(self) -> None:
        """Reads the rest."""
        self._stop.set()
        self._reader.join()
        self._look(time.monotonic())


def wait_until(found: Callable[[], object], what: str, patience: float = PATIENCE_S) -> object:
    """Waits until `found` returns something."""
    deadline = time.monotonic() + patience
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise Unseen(f"{what} did not come in {patience:.0f} s")
        time.sleep(0.001)
    return answer


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def cpu_ticks(pid: int) -> int:
    """Processor time that a process has used, in ticks of the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def left_behind(address: str, within: float = 5.0) -> int:
    """Workers of the coordinator at `address` that are still there after `within` seconds."""
    deadline = time.monotonic() + within
    while (found := len(workers_of(address))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def workers_of(address: str) -> list[int]:
    """The process ids of all workers of the coordinator at `address`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"medley-worker") and address.encode() in words and alive(int(folder.name)):
                found.append(int(folder.name))
    return sorted(found)
