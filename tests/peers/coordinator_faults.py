"""Faults of the coordinator: it dies, freezes, is started twice, and is asked too much."""

import functools
import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable

from bench import ROOT, Bench, Row, now
from watched import left_behind, wait_until, workers_of


def killed_again_and_again(bench: Bench, row: Row) -> None:
    """`kill -9` of `medley train` at random moments; the same command goes on. The way back counts from the restart."""
    kills, chance, output = 20, random.Random(bench.seed), bench.output()
    run = bench.train(2, output=output)
    run.ledger.wait_for_update(1)
    span = bench.updates * bench.update_s / kills
    done = repeated = 0
    while done < kills:
        time.sleep(chance.uniform(0, 0.6 * span))
        if run.process.popen.poll() is not None:
            break
        address = run.process.address() if run.process.said("listens on ") else None
        run.process.signal(signal.SIGKILL)
        run.end()
        if address:
            row.orphans += left_behind(address)
        reached = max((seen.what["update"] for seen in run.ledger.records if seen.what["kind"] == "update"), default=0)
        done += 1
        started = now()
        run = bench.train(2, output=output)
        again = run.ledger.wait_for("update", started)
        row.recovered_s = max(row.recovered_s or 0.0, again.at - started)
        repeated += max(0, reached + 1 - again.what["update"])
    run.conclude(row)
    row.updates_lost = repeated
    row.note = f"{done} kills; the way back is from the restart to the next update, the worst of all"
    row.require(done == kills, f"only {done} kills before the end: give more --max_steps")


def server_is_killed_again_and_again(bench: Bench, row: Row) -> None:
    """`kill -9` of `medley serve` at random moments, its workers stay: the same command at the same address goes on."""
    kills, chance, output, listen = 20, random.Random(bench.seed), bench.output(), free_address()
    run = bench.serve(2, *listen, output=output)
    workers = [bench.worker(run.process.address()) for _ in range(2)]
    run.ledger.wait_for_update(1)
    span = bench.updates * bench.update_s / kills
    done = 0
    while done < kills:
        time.sleep(chance.uniform(0, 0.6 * span))
        if run.process.popen.poll() is not None:
            break
        run.process.signal(signal.SIGKILL)
        run.end()
        done += 1
        started = now()
        run = bench.serve(2, *listen, output=output)
        again = run.ledger.wait_for("update", started)
        row.recovered_s = max(row.recovered_s or 0.0, again.at - started)
    run.conclude(row)
    row.note = f"{done} kills; the way back is from the restart to the next update, the worst of all"
    row.require(done == kills, f"only {done} kills before the end: give more --max_steps")
    row.require(not row.updates_lost, f"{row.updates_lost} updates were made again")
    row.require(not any(worker.end() for worker in workers), "a worker did not end well")


def free_address() -> tuple[str, str]:
    """Where a coordinator may listen that is to come back at the same address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "--listen", f"127.0.0.1:{free.getsockname()[1]}"


def away(bench: Bench, row: Row, seconds: float) -> None:
    """`kill -9` of `medley serve` in the middle of the run; the same command comes back after a while. Its workers stay."""
    output, listen = bench.output(), free_address()
    run = bench.serve(2, *listen, output=output)
    workers = [bench.worker(run.process.address()) for _ in range(2)]
    run.ledger.wait_for_update(bench.updates // 2)
    run.process.signal(signal.SIGKILL)
    run.end()
    time.sleep(seconds)
    started = now()
    run = bench.serve(2, *listen, output=output)
    row.recovered_s = run.ledger.wait_for("update", started).at - started
    run.conclude(row)
    row.note = "the way back is from the restart to the next update"
    row.require(not row.updates_lost, f"{row.updates_lost} updates were made again")
    row.require(not any(worker.end() for worker in workers), "a worker did not end well")


def launcher_is_killed(bench: Bench, row: Row) -> None:
    """No worker outlives `medley train`."""
    run = bench.train(3)
    run.ledger.wait_for_update(3)
    address = run.process.address()
    struck = run.process.signal(signal.SIGKILL)
    wait_until(lambda: not workers_of(address), "the end of all workers", 5)
    row.note = f"all its workers are gone after {now() - struck:.2f} s"
    row.orphans = left_behind(address, 0)


def launcher_freezes(bench: Bench, row: Row) -> None:
    """`medley train` is suspended for longer than the heartbeat limit: its workers were never silent."""
    run = bench.train(2)
    run.ledger.wait_for_update(bench.updates // 4)
    run.process.signal(signal.SIGSTOP)
    time.sleep(1.5 * bench.heartbeat_s)
    woken = run.process.signal(signal.SIGCONT)
    row.recovered_s = run.ledger.wait_for("update", woken).at - woken
    row.note = f"held for {1.5 * bench.heartbeat_s:.1f} s; the way back is from its waking"
    row.require(not run.process.said("was lost while"), "it took its workers for dead")
    run.conclude(row)


def terminated(bench: Bench, row: Row) -> None:
    """SIGTERM to `medley train`: a checkpoint and exit code 75; the same command goes on."""
    output = bench.output()
    run = bench.train(2, output=output)
    run.ledger.wait_for_update(bench.updates // 4 + 3)
    struck = run.process.signal(signal.SIGTERM)
    code = run.end()
    row.detected_s = now() - struck
    row.require(code == 75, f"exit code {code}, not 75")
    row.note = f"exit code {code} after {row.detected_s:.2f} s"
    started = now()
    run = bench.train(1, output=output)
    row.recovered_s = run.ledger.wait_for("update", started).at - started
    run.conclude(row)


def cold_start(bench: Bench, row: Row) -> None:
    """No fault: from the command to its first update, the worst of five."""
    starts = 5
    for _ in range(starts):
        run = bench.train(2)
        first = run.ledger.wait_for_update(1)
        row.recovered_s = max(row.recovered_s or 0.0, first.at - run.process.started)
        run.remove()
    row.note = f"from the command to the first update, the worst of {starts}"
    row.require(row.recovered_s <= 5, f"it takes {row.recovered_s:.1f} s")


def two_of_them(bench: Bench, row: Row) -> None:
    """A second coordinator on the same output folder is refused while the first one runs."""
    run = bench.train(2)
    run.ledger.wait_for_update(3)
    started = now()
    second = bench.train(2, output=run.output)
    code = second.process.end()
    row.detected_s = now() - started
    row.cause = second.process.lines[-1].what
    row.note = f"exit code {code}"
    row.require(code == 78 and "is in use by process" in row.cause, second.process.text())
    run.conclude(row)


def port_in_use(bench: Bench, row: Row) -> None:
    """An address that somebody else has is named before anything is read."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = now()
        run = bench.train(1, "--listen", f"127.0.0.1:{port}")
        code = run.end()
        row.detected_s = now() - started
        row.cause = run.process.lines[-1].what
        row.note = f"exit code {code}"
        row.require(code == 78 and str(port) in row.cause and "--listen" in row.cause, run.process.text())


def asked_for_status(bench: Bench, row: Row) -> None:
    """A thousand GetStatus a second while it trains."""
    program = bench.binaries / "examples/status_load"
    if not program.exists():
        raise FileNotFoundError(f"{program}: cargo build --release --locked -p medley-tests --examples")
    run = bench.train(2)
    run.ledger.wait_for_update(bench.updates // 8)
    asked = subprocess.run([str(program), run.process.address(), "1000", "2000"], capture_output=True, text=True,
                           timeout=60, check=True)
    answered = json.loads(asked.stdout)
    row.note = (f"{answered['calls']} calls at {answered['calls_per_second']:.0f}/s: median {answered['p50_ms']:.2f} ms, "
                f"p99 {answered['p99_ms']:.2f} ms, longest {answered['max_ms']:.1f} ms")
    row.require(answered["p99_ms"] <= 10, f"p99 is {answered['p99_ms']} ms")
    run.conclude(row)


FAULTS: dict[str, Callable[[Bench, Row], None]] = {
    "a cold start": cold_start,
    "kill -9 of `medley train`, 20 times at random moments": killed_again_and_again,
    "kill -9 of `medley serve`, 20 times at random moments, its workers stay": server_is_killed_again_and_again,
    "kill -9 of `medley serve`, away for 0 s": functools.partial(away, seconds=0),
    "kill -9 of `medley serve`, away for 20 s": functools.partial(away, seconds=20),
    "kill -9 of `medley serve`, away for 60 s": functools.partial(away, seconds=60),
    "kill -9 of `medley train`: its workers": launcher_is_killed,
    "SIGSTOP of `medley train` beyond the heartbeat limit, then SIGCONT": launcher_freezes,
    "SIGTERM to `medley train`": terminated,
    "two coordinators on one output folder": two_of_them,
    "an address that is in use": port_in_use,
    "1,000 status calls a second in training": asked_for_status,
}
