"""What a measurement comes to: one Markdown table of the reports of `compare.py`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from machine import BUSY_SHARE
from plan import Part
from ratio import MEDLEY, QUANTITIES

MAIN = {
    "allreduce": ("gb_per_s",),
    "products": ("forward_gflops", "input_gradient_gflops", "weight_gradient_gflops"),
    "accuracy": ("target_s",),
}
"""What a mode is about, each a row of the table; of all others it is rows a second."""

BESIDE = {"first_update_s": "first update", "peak_mb": "memory", "peak_device_mb": "a GPU's memory"}
"""What is told beside the rows a second, as these tell nothing of it."""

BUSY = "\\*"
NO_RATIO = "not measured: {} was not reached, or not told, in every round"


@dataclass(frozen=True)
class Result:
    """A part that was run: its report, or the last words of what failed."""

    part: Part
    report: dict[str, Any] | None
    last_words: str = ""


def document(head: str, results: Sequence[Result], command: str) -> str:
    """The whole text: hardware and versions, the table, what its marks mean, and what failed. `command` and the name of a part
    measure that part again."""
    measured = [result for result in results if result.report]
    lines = [head, ""]
    if measured:
        lines += ["| what | Medley | peer | Medley better by (smallest to largest, rounds) | command |", "|---|---|---|---|---|"]
        lines += [row for result in measured for row in rows(result, command)]
        lines += ["", "Medians of rounds in which all sides ran in turn; above 1x, Medley is faster, or needs less."]
    if any(map(is_busy, measured)):
        lines.append(f"{BUSY} Other processes used more than {BUSY_SHARE:.0%} of the CPUs in a run: repeat it on a quiet machine.")
    if said := failures(results):
        lines += ["", said]
    return "\n".join(lines) + "\n"


def rows(result: Result, command: str) -> list[str]:
    """The rows of a part: one for each peer and each quantity that it is about."""
    report, part = result.report, result.part
    mark = BUSY if is_busy(result) else ""
    again = f"`{command} --only {part.name}`"
    lines = []
    for quantity in MAIN.get(part.mode, ("rows_per_s",)):
        unit = QUANTITIES[quantity][0]
        for peer in [side for side in report["commands"] if side != MEDLEY]:
            found = report["ratios"].get(quantity, {}).get(peer)
            ours, theirs = (middle(report, side, quantity) for side in (MEDLEY, peer))
            cell = NO_RATIO.format(unit) if found is None else spread(found, len(report["rounds"])) + beside(report, part, peer)
            lines.append(f"| {part.what} | {amount(ours, unit)} | {peer}: {amount(theirs, unit)} | {cell}{mark} | {again} |")
    return lines


def middle(report: dict[str, Any], side: str, quantity: str) -> float | None:
    """The median of the rounds that have it."""
    found = [measured[side][quantity] for measured in report["rounds"] if quantity in measured[side]]
    return statistics.median(found) if found else None


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, in three or more digits."""
    if value is None:
        return "not reached"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def spread(found: dict[str, Any], rounds: int) -> str:
    """A ratio as it is written: its median, and what it was at least and at most."""
    return f"**{found['median']:.2f}x** ({found['min']:.2f} to {found['max']:.2f}, {rounds} round{'s'[: rounds > 1]})"


def beside(report: dict[str, Any], part: Part, peer: str) -> str:
    """The median ratios of the other quantities, of parts that are real training or evaluation."""
    if part.mode not in ("train", "evaluate"):
        return ""
    found = [(name, report["ratios"].get(quantity, {}).get(peer)) for quantity, name in BESIDE.items()]
    return "".join(f"; {name} {ratio['median']:.2f}x" for name, ratio in found if ratio)


def is_busy(result: Result) -> bool:
    """Whether a run that counts had too much company on the machine."""
    sides = (side for measured in result.report["rounds"] for side in measured.values())
    return any(side.get("others_cpu_share", 0.0) > BUSY_SHARE for side in sides)


def failures(results: Sequence[Result]) -> str:
    """The parts that failed, each with its last words; empty if none did."""
    return "\n".join(f"FAILED  {result.part.name}: {result.last_words}" for result in results if result.report is None)


def head(machine: dict[str, Any], facts: Sequence[str]) -> str:
    """The paragraph above the table: hardware, versions, commit, and what else is said of all parts."""
    gpus = machine["gpus"]
    hardware = [f"{machine['cpu']}, {machine['logical_cpus']} CPUs, {machine['memory_gib']} GiB"]
    hardware.append(f"{len(gpus)} x {gpus[0]}, driver {machine['gpu_driver']}" if gpus else "no GPU")
    versions = [f"{name} {machine[name]}" for name in ("torch", "transformers", "accelerate", "python") if machine[name]]
    changed = " and uncommitted changes" if machine["uncommitted_changes"] else ""
    return "\n".join([
        f"{'; '.join(hardware)}.",
        f"{', '.join(versions)}; {machine['rustc'] or 'no rustc'}; commit {(machine['commit'] or 'unknown')[:7]}{changed}.",
        *facts,
    ])
