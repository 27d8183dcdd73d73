"""A command that is run to its end, with what is seen of it meanwhile: memory, milestones, company on the machine."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import Moment
from sides import Progress, Side
from watched import alive, wait_until

LOOK_S = 0.005
"""How often milestones are looked for: by the length of a file, which costs nothing."""

WEIGH_S = 0.2
"""How often the memory of all processes is looked at."""


@dataclass
class Observed:
    """What a command did. Times are in seconds from when it was started."""

    code: int
    stdout: str
    stderr: str
    wall_s: float
    peak_mb: float
    others_share: float | None
    milestones: list[tuple[float, Progress]] = field(default_factory=list)

    def first_update_s(self) -> float | None:
        """When the first update was made."""
        return next((at for at, progress in self.milestones if progress.accuracy is None), None)

    def reached_s(self, accuracy: float) -> float | None:
        """When an evaluation first had this accuracy."""
        return next((at for at, progress in self.milestones
                     if progress.accuracy is not None and progress.accuracy >= accuracy), None)


def observe(side: Side, command: list[str], environment: dict[str, str], folder: Path) -> Observed:
    """Runs `command` of `side`, whose output folder is `folder`."""
    start = Moment.now()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.monotonic()
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True, start_new_session=True)
        watcher = Watcher(side, folder, running.pid, began)
        try:
            code = running.wait()
        finally:
            wall_s = time.monotonic() - began
            # None outlives what measures it.
            watcher.end()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    return Observed(code, *texts, wall_s, watcher.peak_mb(), Moment.now().others_share_since(start), watcher.milestones)


class Watcher:
    """A thread that looks at a command's processes, and at the file that tells its progress."""

    def __init__(self, side: Side, folder: Path, first: int, began: float) -> None:
        self.milestones: list[tuple[float, Progress]] = []
        self._side, self._began = side, began
        self._known = {first}
        self._path = folder / side.progress_file if side.progress_file else None
        self._offset = 0
        self._peaks: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        weigh_at = 0.0
        while not self._stop.wait(LOOK_S if self._path else WEIGH_S):
            self._look()
            if (now := time.monotonic()) >= weigh_at:
                self._weigh()
                weigh_at = now + WEIGH_S

    def _look(self) -> None:
        try:
            if self._path is None or self._path.stat().st_size == self._offset:
                return
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return
        now = time.monotonic() - self._began
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = (self._side.progress(line.decode()) for line in whole.splitlines())
        self.milestones.extend((now, progress) for progress in found if progress)

    def _weigh(self) -> None:
        """Takes in the largest resident set so far of the command's processes."""
        self._known = descendants(self._known)
        for process in self._known:
            try:
                status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
                self._peaks[process] = int(status.split("VmHWM:")[1].split()[0])
            except (OSError, IndexError):
                # It has just ended, or has no memory any more.
                continue

    def peak_mb(self) -> float:
        """The largest resident set of each process, summed: what was in use at once is no more."""
        return sum(self._peaks.values()) * 1024 / 1e6

    def end(self) -> None:
        """Looks a last time, and ends what is still there."""
        self._stop.set()
        self._thread.join()
        self._look()
        left = descendants(self._known)
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, left)), f"the end of {left}")


def descendants(known: set[int]) -> set[int]:
    """Those of `known` that are still there, whoever has adopted them, and all that they have started: torchrun's ranks
    have sessions of their own, so that parents alone tell."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
                parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    found = known & parents.keys()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
