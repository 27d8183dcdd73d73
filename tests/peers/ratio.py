"""Ratios of interleaved rounds, and how they are shown."""

import statistics
from collections.abc import Mapping, Sequence

MEDLEY = "medley"

Round = Mapping[str, Mapping[str, float]]
"""What was measured of each side in one round, by name."""

QUANTITIES = {
    "rows_per_s": ("rows/s", False),
    "gb_per_s": ("GB/s", False),
    "forward_gflops": ("GFLOP/s forward", False),
    "input_gradient_gflops": ("GFLOP/s of the input's gradients", False),
    "weight_gradient_gflops": ("GFLOP/s of the weights' gradients", False),
    "target_s": ("s to the accuracy", True),
    "first_update_s": ("s to the first update", True),
    "wall_s": ("s in all", True),
    "peak_mb": ("MB of memory", True),
    "peak_device_mb": ("MB of a GPU's memory", True),
}
"""What is compared, its heading, and whether less of it is better."""


def ratios(rounds: Sequence[Round], quantity: str) -> dict[str, dict[str, object]]:
    """How many times better Medley was than each peer in the same round: above 1, Medley is faster, or needs less.

    Returns the median, the smallest and the largest ratio of each peer, and all of them in the order of the rounds.
    """
    result: dict[str, dict[str, object]] = {}
    less_is_better = QUANTITIES[quantity][1]
    for peer in [name for name in rounds[0] if name != MEDLEY]:
        quotients = [measured[MEDLEY][quantity] / measured[peer][quantity] for measured in rounds]
        pairs = [1 / quotient for quotient in quotients] if less_is_better else quotients
        result[peer] = {
            "median": round(statistics.median(pairs), 4),
            "min": round(min(pairs), 4),
            "max": round(max(pairs), 4),
            "pairs": [round(pair, 4) for pair in pairs],
        }
    return result


def measured_of_all(rounds: Sequence[Round]) -> list[str]:
    """The quantities that every side has in every round: what was over before it could be looked at has none."""
    return [name for name in QUANTITIES if all(side.get(name) for measured in rounds for side in measured.values())]


def tables(rounds: Sequence[Round]) -> dict[str, dict[str, dict[str, object]]]:
    """The ratios of every quantity that all sides have."""
    return {quantity: ratios(rounds, quantity) for quantity in measured_of_all(rounds)}


def table(rounds: Sequence[Round]) -> str:
    """A Markdown table: the medians of each side, and how many times better Medley was, with the spread over the rounds."""
    quantities = measured_of_all(rounds)
    summary = tables(rounds)
    lines = [
        "| side | " + " | ".join(f"{QUANTITIES[quantity][0]} | Medley better by" for quantity in quantities) + " |",
        "|---" * (1 + 2 * len(quantities)) + "|",
    ]
    for name in rounds[0]:
        cells = []
        for quantity in quantities:
            cells.append(f"{statistics.median(measured[name][quantity] for measured in rounds):.2f}")
            row = summary[quantity].get(name)
            cells.append(f"{row['median']:.2f}x ({row['min']:.2f} to {row['max']:.2f})" if row else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Medians of {len(rounds)} rounds."]) + "\n"
