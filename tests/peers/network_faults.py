"""Faults of the network, with each process on a host of its own: needs root, see `switch.py`."""

import functools
import time
from collections.abc import Callable
from contextlib import contextmanager

from bench import Bench, Row, Run, now
from switch import Switch
from watched import Process
from worker_faults import LOST

COORDINATOR = 0


class Net:
    """A coordinator on the first host of a switch, and a worker on each other."""

    def __init__(self, bench: Bench, switch: Switch, workers: int, *more: str) -> None:
        self.bench, self.switch = bench, switch
        listen = f"{switch.address(COORDINATOR)}:0"
        self.run: Run = bench.serve(workers, "--listen", listen, "--insecure", *more, on=switch.on(COORDINATOR))
        self.workers = [bench.worker(self.run.process.address(), on=switch.on(host)) for host in range(1, workers + 1)]

    def reach(self, update: int) -> None:
        """Waits for an update."""
        self.run.ledger.wait_for_update(update)

    def conclude(self, row: Row, codes: list[int]) -> None:
        """Waits for all ends."""
        self.run.conclude(row)
        found = [worker.end() for worker in self.workers]
        row.require(found == codes, f"the workers' exit codes are {found}, not {codes}: {self.workers[0].text()}")


@contextmanager
def net(bench: Bench, workers: int, *more: str):  # noqa: ANN201 - a context of a Net
    """A network for one fault."""
    switch = Switch(workers + 1, bench.seed)
    try:
        yield Net(bench, switch, workers, *more)
    finally:
        bench.clear()
        switch.close()


def lossy(bench: Bench, row: Row, loss: float, is_survived: bool) -> None:
    """Packets are lost everywhere, from a quarter of the run on."""
    with net(bench, 2) as it:
        it.reach(bench.updates // 4)
        before = it.switch.carried
        begun = it.switch.set(loss=loss)
        it.run.ledger.wait_for("update", begun + 5)
        made = sum(seen.what["kind"] == "update" and seen.at > begun for seen in it.run.ledger.records[:])
        took, packets = now() - begun, it.switch.carried - before
        it.switch.set()
        lost = it.run.process.said(*LOST)
        row.note = (f"for {took:.0f} s, {it.switch.lost} of {packets} packets; {made} updates meanwhile; "
                    + ("a worker was taken for dead" if lost else "nobody was taken for dead"))
        row.require(not (is_survived and lost), "a worker was taken for dead")
        if lost:
            it.run.conclude(row)
        else:
            it.conclude(row, [0, 0])


def delayed(bench: Bench, row: Row) -> None:
    """A round trip between the coordinator and its workers takes long, but not as long as the heartbeat allows."""
    delay = 0.2 * bench.heartbeat_s
    with net(bench, 2) as it:
        it.reach(bench.updates // 4)
        begun = it.switch.set([(0, 1), (1, 0), (0, 2), (2, 0)], delay_s=delay)
        time.sleep(3 * bench.heartbeat_s)
        made = sum(seen.what["kind"] == "update" and seen.at > begun for seen in it.run.ledger.records[:])
        it.switch.set()
        row.note = f"{delay:.1f} s each way for {3 * bench.heartbeat_s:.0f} s; {made} updates meanwhile"
        row.require(not it.run.process.said(*LOST), "a worker was taken for dead")
        it.conclude(row, [0, 0])


def cut_off(bench: Bench, row: Row, directions: str) -> None:
    """A worker is cut off, for longer than the heartbeat allows; the others go on. Then the network is whole again."""
    with net(bench, 3) as it:
        it.reach(bench.updates // 4)
        pairs = {"both": [(1, 0), (0, 1), (1, 2), (2, 1), (1, 3), (3, 1)], "up": [(1, 0)], "down": [(0, 1)]}[directions]
        struck = it.switch.set(pairs, loss=1.0)
        it.run.strike(row, struck, LOST)
        it.switch.set()
        sleeper: Process = it.workers[0]
        code = sleeper.end()
        row.note = f'it ends with exit code {code}: "{sleeper.lines[-1].what.removeprefix("medley-worker: ")}"'
        row.require(code, "the worker that was cut off ended as if all were well")
        it.conclude(row, [code, 0, 0])


def isolated(bench: Bench, row: Row) -> None:
    """The coordinator is cut off from all workers, which reach each other, for longer than the heartbeat allows."""
    with net(bench, 2) as it:
        it.reach(bench.updates // 4)
        struck = it.switch.cut(COORDINATOR, [1, 2])
        seen = it.run.process.wait_for("waiting for those that hold update", since=struck)
        row.detected_s = seen.at - struck
        healed = it.switch.set()
        row.recovered_s = it.run.ledger.wait_for("update", healed).at - healed
        row.note = f"for {healed - struck:.1f} s; the way back is from its healing"
        it.conclude(row, [0, 0])
        row.require(not row.updates_lost, f"{row.updates_lost} updates were made again")


def parted(bench: Bench, row: Row, heals: bool) -> None:
    """Two workers cannot reach each other, and both reach the coordinator."""
    with net(bench, 2) as it:
        it.reach(bench.updates // 4)
        struck = it.switch.cut(1, [2])
        if heals:
            time.sleep(1.5 * bench.heartbeat_s)
            healed = it.switch.set()
            row.recovered_s = it.run.ledger.wait_for("update", healed).at - healed
            row.note = f"for {healed - struck:.1f} s; the way back is from its healing"
            it.conclude(row, [0, 0])
            return
        code = it.run.end()
        row.detected_s = now() - struck
        row.cause = it.run.process.lines[-1].what
        row.note = f"exit code {code}"
        row.require(code == 70 and "connect" in row.cause, it.run.process.text())


FAULTS: dict[str, Callable[[Bench, Row], None]] = {
    "1 % of all packets lost": functools.partial(lossy, loss=0.01, is_survived=True),
    "5 % of all packets lost": functools.partial(lossy, loss=0.05, is_survived=True),
    "20 % of all packets lost": functools.partial(lossy, loss=0.2, is_survived=False),
    "a slow network between coordinator and workers": delayed,
    "1 of 3 workers cut off from all": functools.partial(cut_off, directions="both"),
    "1 of 3 workers half cut off: it is not heard": functools.partial(cut_off, directions="up"),
    "1 of 3 workers half cut off: it does not hear": functools.partial(cut_off, directions="down"),
    "the coordinator cut off from all workers": isolated,
    "2 workers cut off from each other, healed": functools.partial(parted, heals=True),
    "2 workers cut off from each other for good": functools.partial(parted, heals=False),
}
