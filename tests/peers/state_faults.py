"""Faults of the disk and of what lies on it: damaged checkpoints, a torn ledger, no room."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import Bench, Row, now, sha256
from watched import wait_until


def damaged(bench: Bench, row: Row, damage: Callable[[Path], None]) -> None:
    """Each file of the newest checkpoint in turn is damaged: the one before it is taken, and the damage named."""
    kept = complete(bench, row)
    newest, before = (f"checkpoint-{bench.updates * quarter // 4}" for quarter in (4, 3))
    files = sorted(path.name for path in (kept / newest).iterdir() if path.is_file())
    for name in files:
        output = bench.output()
        shutil.copytree(kept, output)
        # As a crash leaves it that came before the final model.
        (output / "model.safetensors").unlink()
        damage(output / newest / name)
        started = now()
        run = bench.train(1, output=output)
        said = run.process.wait_for("resuming")
        row.detected_s = max(row.detected_s or 0.0, said.at - started)
        text = run.process.text()
        row.require(before in said.what, f"{name}: {said.what}")
        row.require(newest in text and name in text, f"{name} is not named:\n{text}")
        run.conclude(row)
        run.remove()
    # What is made again after such a damage was not lost by a fault of the run.
    row.updates_lost = 0
    row.note = f"each of its {len(files)} files in turn is named with its reason; {before} is taken"


def torn_ledger(bench: Bench, row: Row) -> None:
    """The last record is cut at every eighth byte: it is dropped, and what it told is made again."""
    kept = complete(bench, row)
    lines = (kept / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    last = max(index for index, text in enumerate(lines) if b'"kind":"update"' in text)
    whole = b"".join(lines[:last])
    cuts = range(0, len(lines[last]), max(8, len(lines[last]) // 8))
    for cut in cuts:
        output = bench.output()
        shutil.copytree(kept, output)
        for name in ("model.safetensors", f"checkpoint-{bench.updates}"):
            path = output / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (output / "ledger.jsonl").write_bytes(whole + lines[last][:cut])
        run = bench.train(1, output=output)
        run.conclude(row)
        run.remove()
    row.updates_lost = 0
    row.note = f"cut at {len(cuts)} places"


def small(bench: Bench, row: Row) -> None:
    """A disk, a tmpfs, on which the run would not have room is refused before anything is computed; needs the right to mount."""
    disk = bench.folder / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={bench.room_bytes() >> 16}k", "none", str(disk)], check=True)
    try:
        started = now()
        run = bench.train(2, output=disk / "out")
        code = run.end()
        row.detected_s, row.cause = now() - started, run.process.lines[-1].what.replace(str(disk) + "/", "")
        row.note = f"exit code {code}"
        row.require(code == 78 and "needs" in row.cause, run.process.text())
    finally:
        bench.clear()
        subprocess.run(["umount", str(disk)], check=True)


def full(bench: Bench, row: Row) -> None:
    """A disk of its own, a tmpfs, fills up in training and gets room again; needs the right to mount."""
    disk = bench.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={bench.room_bytes() >> 10}k", "none", str(disk)], check=True)
    try:
        run = bench.train(2, output=disk / "out")
        run.ledger.wait_for_update(bench.updates // 4 + 2)
        newest = disk / "out" / f"checkpoint-{bench.updates // 4}"
        wait_until(lambda: (newest / "medley.json").exists(), "the first checkpoint")
        digests = {path.name: sha256(path) for path in newest.iterdir()}
        # Less than the next checkpoint needs, and more than the ledger does until then.
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        left = sum(path.stat().st_size for path in newest.iterdir()) // 2
        struck = now()
        with (disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free - left)
        status = ("status", "--coordinator", run.process.address(), "--json")
        paused = wait_until(lambda: json.loads(bench.medley(*status).stdout or "{}").get("paused"), "a pause")
        row.detected_s, row.cause = now() - struck, paused.replace(str(disk) + "/", "")
        held = max(seen.what["update"] for seen in run.ledger.records if seen.what["kind"] == "update")
        time.sleep(3)
        row.require(run.process.popen.poll() is None, f"it ended:\n{run.process.text()}")
        row.require(digests == {path.name: sha256(path) for path in newest.iterdir()}, "the checkpoint before changed")
        room = now()
        (disk / "ballast").unlink()
        row.recovered_s = run.ledger.wait_for("update", room, lambda record: record["update"] > held).at - room
        row.note = "training waits; the way back is from when there is room; the checkpoint before is intact"
        run.conclude(row)
        row.require(not json.loads(bench.medley("verify", str(run.output), "--json").stdout)["problems"], "not intact")
    finally:
        bench.clear()
        subprocess.run(["umount", str(disk)], check=True)


def complete(bench: Bench, row: Row) -> Path:
    """A complete run, for its parts to be damaged."""
    run = bench.train(1)
    run.conclude(row)
    return run.output


def flip(path: Path) -> None:
    """Changes a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Takes the last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


FAULTS: dict[str, Callable[[Bench, Row], None]] = {
    "a flipped bit in a file of the newest checkpoint": lambda bench, row: damaged(bench, row, flip),
    "a truncated file of the newest checkpoint": lambda bench, row: damaged(bench, row, truncate),
    "a torn last record of the ledger": torn_ledger,
    "a disk (tmpfs) that the run has no room on": small,
    "a full disk (tmpfs) in a save, then room": full,
}
