"""Faults of workers: they die, hang, leave and come back, wherever the run is."""

import functools
import os
import signal
import time
from collections.abc import Callable

from bench import Bench, Row, Run, now
from watched import Process, alive, cpu_ticks, wait_until

LOST = ("was lost while",)
# A broken connection is seen at once.
AT_ONCE_S = 1.0
LEFT = ("left, as it was asked to end",)


def planned(bench: Bench, row: Row, blows: str, workers: int, causes: tuple[str, ...]) -> None:
    """Faults by the product's own `--chaos`, halfway between two checkpoints."""
    update = bench.updates * 3 // 8
    run = bench.train(workers, "--chaos", ";".join(f"{blow}@update={update}" for blow in blows.split()))
    kills = blows.count("kill:")
    within_s = AT_ONCE_S if kills else bench.heartbeat_s + 0.5 if "stop:" in blows else None
    run.strike(row, run.process.wait_for("chaos: ").at, causes, within_s)
    run.conclude(row)
    # Only where nobody is left is anything made again.
    row.require(kills == workers or not row.updates_lost, f"{row.updates_lost} updates were made again")


def at_all_moments(bench: Bench, row: Row) -> None:
    """Kills spread evenly over the course of an update: forward, backward, sum, optimizer, report."""
    kills, last, done = 12, 0.0, 0
    run = bench.train(3)
    for kill in range(kills):
        # All three are in the group again: a newcomer that dies would be another fault.
        group = run.ledger.wait_for("group", last, lambda record: len(record["members"]) == 3)
        update = run.ledger.wait_for("update", max(group.at, now()))
        if update.what["update"] > bench.updates - 10:
            break
        time.sleep(max(0.0, update.at + 2 * bench.update_s * kill / kills - now()))
        last = send(group.what["members"][kill % 3]["pid"], signal.SIGKILL)
        run.strike(row, last, LOST, AT_ONCE_S)
        done += 1
    row.note = f"the worst of {done} kills"
    row.require(done >= kills // 2, f"only {done} kills before the end: give more --max_steps")
    run.conclude(row)
    row.require(not row.updates_lost, f"{row.updates_lost} updates were made again")


def in_the_all_reduce(bench: Bench, row: Row) -> None:
    """A worker dies that waits for its peer in the all-reduce: the peer is held until it does."""
    run = bench.train(2)
    run.ledger.wait_for_update(bench.updates // 4)
    held, victim = member(run, 0), member(run, 1)
    send(held, signal.SIGSTOP)
    idle, ticks = now(), cpu_ticks(victim)
    # Waiting takes no time of a processor.
    while now() - idle < 0.2:
        time.sleep(0.01)
        if (used := cpu_ticks(victim)) != ticks:
            idle, ticks = now(), used
    struck = send(victim, signal.SIGKILL)
    send(held, signal.SIGCONT)
    run.strike(row, struck, LOST, AT_ONCE_S)
    run.conclude(row)
    row.require(not row.updates_lost, f"{row.updates_lost} updates were made again")


def wakes_up(bench: Bench, row: Row) -> None:
    """A suspended worker of its own is replaced, and refused by name when it wakes up."""
    run = bench.serve(2)
    sleeper, other = (bench.worker(run.process.address()) for _ in range(2))
    run.ledger.wait_for_update(5)
    run.strike(row, sleeper.signal(signal.SIGSTOP), LOST, bench.heartbeat_s + 0.5)
    sleeper.signal(signal.SIGCONT)
    code = sleeper.end()
    row.note = f'it wakes: exit code {code}, "{sleeper.lines[-1].what.removeprefix("medley-worker: ")}"'
    row.require(code == 75 and "replaced" in sleeper.text(), f"the sleeper was not refused by name:\n{sleeper.text()}")
    run.conclude(row)
    row.require(other.end() == 0, "the other worker did not end well")


def stops_and_goes_on(bench: Bench, row: Row) -> None:
    """Workers of their own are held for less than the heartbeat limit, again and again: nobody is taken for dead."""
    run = bench.serve(2)
    workers = [bench.worker(run.process.address()) for _ in range(2)]
    run.ledger.wait_for_update(5)
    holds = 0
    for hold in range(8):
        if run.process.popen.poll() is not None:
            break
        workers[hold % 2].signal(signal.SIGSTOP)
        time.sleep(0.5 * bench.heartbeat_s)
        workers[hold % 2].signal(signal.SIGCONT)
        run.ledger.wait_for("update", now())
        holds += 1
    row.note = f"{holds} holds of {0.5 * bench.heartbeat_s:.1f} s, nobody was taken for dead"
    row.require(not run.process.said(*LOST), "a worker was taken for dead")
    run.conclude(row)
    row.require(not any(worker.end() for worker in workers), "a worker did not end well")


def term_at_start(bench: Bench, row: Row) -> None:
    """A worker is asked to end before it takes part; another comes in its place."""
    run = bench.serve(2)
    first = bench.worker(run.process.address())
    run.process.wait_for(" joined: ")
    struck = first.signal(signal.SIGTERM)
    code = first.end()
    row.detected_s = now() - struck
    row.note = f"it ends with exit code {code}"
    row.require(code == 75, f"its exit code is {code}, not 75:\n{first.text()}")
    others = [bench.worker(run.process.address()) for _ in range(2)]
    row.recovered_s = run.ledger.wait_for_update(1).at - struck
    run.conclude(row)
    row.require(not any(other.end() for other in others), "the others did not end well")


def term_at(bench: Bench, row: Row, moment: Callable[[Run], None], *more: str) -> None:
    """A worker is asked to end in the middle of something."""
    run = bench.train(3, *more)
    run.ledger.wait_for_update(6)
    moment(run)
    victim = member(run, 1)
    struck = send(victim, signal.SIGTERM)
    run.strike(row, struck, LEFT)
    wait_until(lambda: not alive(victim), "the end of the worker")
    row.note = f"it has ended after {now() - struck:.2f} s"
    run.conclude(row)


def evaluating(run: Run) -> None:
    """Waits until the validation split is being predicted: the last update before it is in the ledger."""
    run.ledger.wait_for("update", now(), lambda record: record["update"] % 20 == 0)


def saving(run: Run) -> None:
    """Waits until a checkpoint is being written."""
    wait_until(lambda: any(run.output.glob(".*partial")), "a checkpoint that is being written")


def rejoins(bench: Bench, row: Row) -> None:
    """A killed worker's successor takes part again in the same epoch."""
    run = bench.train(2)
    run.ledger.wait_for_update(bench.updates // 4)
    struck = send(member(run, 0), signal.SIGKILL)
    run.strike(row, struck, LOST)
    whole = run.ledger.wait_for("group", struck, lambda record: len(record["members"]) == 2)
    alone = sum(seen.what["kind"] == "update" and struck < seen.at < whole.at for seen in run.ledger.records[:])
    row.note = f"in the group again after {whole.at - struck:.2f} s; {alone} updates were made without it"
    run.conclude(row)


def scales(bench: Bench, row: Row) -> None:
    """Workers of their own come and go: 4, 2, 3, 1, 4. The longest way to an update with as many as wanted counts."""
    run = bench.serve(4)
    address = run.process.address()
    workers: list[Process] = []
    gone: list[Process] = []
    since = 0.0
    for number in (4, 2, 3, 1, 4):
        moment = now()
        while len(workers) > number:
            gone.append(workers.pop(0))
            gone[-1].signal(signal.SIGTERM)
        workers += [bench.worker(address) for _ in range(number - len(workers))]
        group = run.ledger.wait_for("group", since, lambda record, number=number: len(record["members"]) == number)
        after = wait_until(lambda group=group: run.ledger.recovery(group.at - 1e-6), "an update")
        if since:
            row.recovered_s = max(row.recovered_s or 0.0, after.at - moment)
        since = after.at
        # Some updates at each number.
        run.ledger.wait_for_update(after.what["update"] + 3)
    run.conclude(row)
    left, stayed = ([worker.end() for worker in those] for those in (gone, workers))
    row.note = "all who left ended with exit code 75, the others with 0"
    row.require(set(left) == {75} and not any(stayed), f"the workers' exit codes are {left}, and {stayed} at the end")


def every_number(bench: Bench, row: Row) -> None:
    """No fault at all: the number of workers is no part of the result."""
    for number in (2, 3, 4, 5, 7):
        run = bench.train(number)
        run.conclude(row)
        run.remove()


def member(run: Run, index: int) -> int:
    """The process id of a worker that takes part, by the order of joining."""
    living = [pid for pid in run.process.workers().values() if alive(pid)]
    return living[index % len(living)]


def send(pid: int, number: signal.Signals) -> float:
    """Sends a signal to a worker; returns when."""
    moment = now()
    os.kill(pid, number)
    return moment


def _plan(blows: str, workers: int, causes: tuple[str, ...]) -> Callable[[Bench, Row], None]:
    return functools.partial(planned, blows=blows, workers=workers, causes=causes)


FAULTS: dict[str, Callable[[Bench, Row], None]] = {
    "SIGKILL of 1 of 2 workers": _plan("kill:worker=1", 2, LOST),
    "SIGKILL of rank 0 of 3": _plan("kill:worker=0", 3, LOST),
    "SIGKILL of 1 of 3 at 12 moments spread over two updates": at_all_moments,
    "SIGKILL of 1 of 2 that waits in the all-reduce": in_the_all_reduce,
    "SIGKILL of all but one of 4": _plan("kill:worker=0 kill:worker=1 kill:worker=3", 4, LOST),
    "SIGKILL of all of 2": _plan("kill:worker=0 kill:worker=1", 2, LOST),
    "a killed worker's successor takes part again": rejoins,
    "SIGSTOP of 1 of 2": _plan("stop:worker=1", 2, LOST),
    "SIGSTOP of 1 of 2, then SIGCONT, under `serve`": wakes_up,
    "SIGSTOP and SIGCONT again and again, under `serve`": stops_and_goes_on,
    "SIGTERM to 1 of 2 at the start": term_at_start,
    "SIGTERM to 1 of 2 in training": _plan("term:worker=1", 2, LEFT),
    "SIGTERM to 1 of 3 in an evaluation": lambda bench, row: term_at(
        bench, row, evaluating, "--eval_strategy", "steps", "--eval_steps", "20"),
    "SIGTERM to 1 of 3 in a save": lambda bench, row: term_at(bench, row, saving),
    "4, 2, 3, 1, 4 workers, under `serve`": scales,
    "1, 2, 3, 4, 5, 7 workers, no fault": every_number,
}
