"""Speed ratios of interleaved rounds, and how they are shown."""

import statistics
from collections.abc import Mapping, Sequence

MEDLEY = "medley"


def ratios(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, object]]:
    """Medley's rows/s divided by each peer's in the same round: above 1, Medley is faster.

    Returns the median, the smallest and the largest ratio of each peer, and all of them in the order of the rounds.
    """
    result: dict[str, dict[str, object]] = {}
    for peer in [name for name in rounds[0] if name != MEDLEY]:
        pairs = [speeds[MEDLEY] / speeds[peer] for speeds in rounds]
        result[peer] = {
            "median": round(statistics.median(pairs), 4),
            "min": round(min(pairs), 4),
            "max": round(max(pairs), 4),
            "pairs": [round(pair, 4) for pair in pairs],
        }
    return result


def table(rounds: Sequence[Mapping[str, float]]) -> str:
    """A Markdown table: median rows/s of each side, and Medley's ratio to it with the spread over the rounds."""
    summary = ratios(rounds)
    lines = ["| side | rows/s (median) | Medley's to its (median) | min | max | pairs |", "|---|---|---|---|---|---|"]
    for name in rounds[0]:
        speed = f"| {name} | {statistics.median(speeds[name] for speeds in rounds):.2f} |"
        if name == MEDLEY:
            lines.append(f"{speed} | | | |")
        else:
            row = summary[name]
            lines.append(f"{speed} {row['median']:.2f}x | {row['min']:.2f}x | {row['max']:.2f}x | {len(rounds)} |")
    return "\n".join(lines) + "\n"
