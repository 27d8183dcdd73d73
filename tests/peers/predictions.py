"""The prediction files of an output folder: `predictions.jsonl` and `predict_results.txt`."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LINES_FILE = "predictions.jsonl"
TABLE_FILE = "predict_results.txt"


@dataclass(frozen=True)
class Prediction:
    """What a model said of one row: its label's name, and its scores in label order."""

    index: int
    label: str
    scores: np.ndarray
    """Logits; natural logarithms of the probabilities where the file has those instead."""
    are_logits: bool


def read_lines(path: Path) -> list[Prediction]:
    """Reads a JSON line a row: `index`, `label` (or `prediction`), `logits` (or `probabilities`).

    Raises:
        ValueError: a line is no prediction.
    """
    predictions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            label = row["label"] if "label" in row else row["prediction"]
            if "logits" in row:
                scores = np.array(row["logits"], dtype=np.float64)
            else:
                with np.errstate(divide="ignore"):
                    scores = np.log(np.array(row["probabilities"], dtype=np.float64))
            predictions.append(Prediction(row["index"], label, scores, "logits" in row))
        except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path.name}:{number}: no prediction: {error!r}") from None
    return predictions


def read_table(path: Path) -> list[str]:
    """Reads the labels of a table `index<TAB>prediction`, whose indices must count the rows from 0.

    Raises:
        ValueError: it is no such table.
    """
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if header != "index\tprediction":
        raise ValueError(f"{path.name}: the header is {header!r}; expected 'index\\tprediction'")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows):
        if len(row) != 2 or row[0] != str(number):
            raise ValueError(f"{path.name}:{number + 2}: expected row {number} and its label")
    return [row[1] for row in rows]


def write_predictions(folder: Path, logits: np.ndarray, labels: Sequence[str]) -> None:
    """Writes both files for `logits`, [rows, labels]."""
    names = [labels[index] for index in logits.argmax(axis=1)]
    lines = [
        json.dumps({"index": index, "label": name, "logits": [float(logit) for logit in row]})
        for index, (name, row) in enumerate(zip(names, logits, strict=True))
    ]
    (folder / LINES_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    table = ["index\tprediction"] + [f"{index}\t{name}" for index, name in enumerate(names)]
    (folder / TABLE_FILE).write_text("".join(f"{line}\n" for line in table), encoding="utf-8")


def difference(prediction: Prediction, logits: np.ndarray) -> float:
    """The largest difference between `prediction` and `logits`, [labels]; infinite where one is not a number.

    Probabilities are compared by their logarithms: those tell the logits apart, but for a number added to all.
    """
    reference = logits.astype(np.float64)
    if not prediction.are_logits:
        highest = reference.max()
        reference = reference - highest - math.log(np.exp(reference - highest).sum())
    if prediction.scores.shape != reference.shape:
        return math.inf
    largest = float(np.abs(prediction.scores - reference).max())
    return math.inf if math.isnan(largest) else largest
