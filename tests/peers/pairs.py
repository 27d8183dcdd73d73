"""Sentence pairs of a JSONL file in the format of MedNLI and SNLI.

The rules are Medley's: lines labelled "-" (the annotators did not agree) and blank lines are left out, so that the
rows of a file have the same numbers on both sides.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LABELS = ("entailment", "neutral", "contradiction")
"""The order of MedNLI's label ids: that of MNLI, not the alphabet's."""

NO_CONSENSUS = "-"


@dataclass(frozen=True)
class Pair:
    """A premise, a hypothesis, and the id of their label where the file has one."""

    premise: str
    hypothesis: str
    label: int | None


def read_pairs(path: Path, labels: Sequence[str] = LABELS) -> list[Pair]:
    """Reads the rows of `path` in file order.

    Raises:
        ValueError: a line is no such row; the message names file, line and label, never a sentence.
    """
    pairs = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                premise, hypothesis, name = row["sentence1"], row["sentence2"], row.get("gold_label")
            except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path.name}:{number}: no sentence pair: {error}") from None
            if name == NO_CONSENSUS:
                continue
            if name and name not in labels:
                raise ValueError(f"{path.name}:{number}: gold_label is {name!r}; expected one of {', '.join(labels)}")
            pairs.append(Pair(premise, hypothesis, labels.index(name) if name else None))
    return pairs
