"""Checks that Hugging Face loads what Medley wrote, and computes the same with it.

Exits with 1 if the folder does not load cleanly, its files lack a key, a label differs, or a logit differs by more
than the tolerance.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
)
from transformers.utils import logging

from pairs import LABELS, Pair, read_pairs
from predictions import LINES_FILE, TABLE_FILE, Prediction, difference, read_lines, read_table

TOLERANCE = 1e-4
"""The largest difference of two logits, or of two losses."""

ARCHITECTURES = {
    family: f"{family.capitalize()}ForSequenceClassification" for family in ("bert", "roberta", "electra")
}
SPEED_KEYS = ("runtime", "samples", "samples_per_second", "steps_per_second")
RESULT_KEYS = {
    "train": ["epoch", "train_loss", *(f"train_{key}" for key in SPEED_KEYS)],
    "eval": ["eval_accuracy", "eval_loss", *(f"eval_{key}" for key in SPEED_KEYS)],
    "predict": [f"predict_{key}" for key in SPEED_KEYS],
}


@dataclass(frozen=True)
class Loaded:
    """What transformers makes of the folder, and the rows as its tokenizer encodes them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pairs: list[Pair]
    encodings: list[BatchEncoding]


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes all checks, prints a line for each, and returns the exit status."""
    options = parse(arguments)
    folder: Path = options.model_dir
    labels: list[str] = options.labels.split(",")
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    checks = [
        ("config.json", check_config(folder, labels)),
        ("model.safetensors", check_weights(folder)),
        ("result files", check_results(folder, options.results)),
    ]
    try:
        model, problems = load_model(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds, and each of them is the finding
        checks.append(("loading with transformers", [f"{type(error).__name__}: {error}"]))
        return conclude(checks)
    pairs = read_pairs(options.data, labels)
    encodings = [
        tokenizer(pair.premise, pair.hypothesis, truncation=True, max_length=options.max_seq_length) for pair in pairs
    ]
    loaded = Loaded(model, tokenizer, pairs, encodings)
    checks.append(("loading with transformers", problems))
    checks.append(("tokenizer.json", check_tokens(folder, loaded, options.max_seq_length)))

    logits = compute_logits(loaded, options.batch_rows)
    files = options.predictions or [folder / LINES_FILE, folder / TABLE_FILE]
    for path in files:
        checks.append((path.name, check_predictions(path, logits, labels)))
    if "predict" in options.results and all(pair.label is not None for pair in pairs):
        checks.append(("accuracy and loss", check_metrics(folder / "predict_results.json", logits, pairs)))
    print(f"{len(pairs)} rows in batches of {options.batch_rows}, {model.dtype}, torch {torch.__version__}")
    return conclude(checks)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", type=Path, required=True, help="Medley's --output_dir")
    parser.add_argument("--data", type=Path, required=True, help="the --test_file that was predicted")
    parser.add_argument("--predictions", type=Path, nargs="+", metavar="FILE",
                        help=f"files to compare with [default: {LINES_FILE} and {TABLE_FILE} of --model_dir]")
    parser.add_argument("--max_seq_length", type=int, default=128, metavar="TOKENS")
    parser.add_argument("--batch_rows", type=int, default=1, metavar="ROWS",
                        help="1: rows one by one, unpadded; more: padded and masked batches [default: 1]")
    parser.add_argument("--labels", default=",".join(LABELS), help="the labels in the order of their ids")
    parser.add_argument("--results", nargs="*", choices=list(RESULT_KEYS), default=list(RESULT_KEYS),
                        help="the result files that the folder must have [default: all]")
    return parser.parse_args(arguments)


def conclude(checks: list[tuple[str, list[str]]]) -> int:
    """Prints the outcome of the checks, and returns the exit status."""
    for name, problems in checks:
        print(f"{'FAIL' if problems else 'ok  '}  {name}")
        for problem in problems:
            print(f"      {problem}")
    return int(any(problems for _, problems in checks))


def check_config(folder: Path, labels: Sequence[str]) -> list[str]:
    """Whether config.json describes a classifier of a known family, of these labels in this order."""
    config = read_json(folder / "config.json")
    family = config.get("model_type") if config.get("model_type") in ARCHITECTURES else "bert"
    expected = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }
    wrong = {key: value for key, value in expected.items() if config.get(key) != value}
    return [f"{key} is {config.get(key)!r}; expected {value!r}" for key, value in wrong.items()]


def check_weights(folder: Path) -> list[str]:
    """Whether the weights are float32 and marked as PyTorch's, without which transformers refuses them."""
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        metadata = weights.metadata() or {}
        names = list(weights.keys())
        types = {weights.get_slice(name).get_dtype() for name in names}
    problems = [] if metadata.get("format") == "pt" else [f"its metadata is {metadata}; expected format pt"]
    return problems + ([] if types == {"F32"} else [f"its {len(names)} tensors are {sorted(types)}; expected F32"])


def load_model(folder: Path) -> tuple[PreTrainedModel, list[str]]:
    """Loads the model; a weight that is missing would be drawn at random, so each one counts as a problem."""
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    return model.eval(), [f"{kind}: {sorted(map(str, found))}" for kind, found in info.items() if found]


def check_tokens(folder: Path, loaded: Loaded, limit: int) -> list[str]:
    """Whether tokenizer.json gives the ids that AutoTokenizer gives, and words come back from them."""
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    own.enable_truncation(limit)
    problems = []
    for index, (pair, encoding) in enumerate(zip(loaded.pairs, loaded.encodings, strict=True)):
        tokens = own.encode(pair.premise, pair.hypothesis)
        if (tokens.ids, tokens.type_ids) != (encoding["input_ids"], encoding.get("token_type_ids", tokens.type_ids)):
            problems.append(f"row {index}: {tokens.ids} is not AutoTokenizer's {encoding['input_ids']}")
        elif own.decode(tokens.ids) != decode(loaded.tokenizer, tokens.ids):
            problems.append(f"row {index}: its ids decode to different words")
    return problems[:3]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The words of `ids` as they are; by default transformers also closes the spaces before punctuation."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def check_results(folder: Path, splits: Sequence[str]) -> list[str]:
    """Whether the result files have Hugging Face's keys, and all_results.json the same numbers."""
    problems = []
    union = read_json(folder / "all_results.json")
    for split in splits:
        name = f"{split}_results.json"
        results = read_json(folder / name)
        missing = [key for key in RESULT_KEYS[split] if not isinstance(results.get(key), (int, float))]
        if missing:
            problems.append(f"{name} lacks {', '.join(missing)}")
        differing = [key for key in results if union.get(key) != results[key]]
        problems += [f"{name} and all_results.json differ in {key}" for key in differing]
    if "train" in splits:
        try:
            state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            if not (state.global_step > 0 and state.max_steps >= state.global_step and state.log_history):
                problems.append("trainer_state.json tells of no update")
        except (OSError, TypeError, ValueError) as error:
            problems.append(f"trainer_state.json: {error}")
    return problems


@torch.inference_mode()
def compute_logits(loaded: Loaded, batch_rows: int) -> np.ndarray:
    """The logits of all rows, [rows, labels]; batches are padded on the right and masked."""
    logits = []
    for start in range(0, len(loaded.encodings), batch_rows):
        batch = loaded.tokenizer.pad(loaded.encodings[start : start + batch_rows], return_tensors="pt")
        logits.append(loaded.model(**batch).logits.float().numpy())
    return np.concatenate(logits)


def check_predictions(path: Path, logits: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Whether a file says what `logits`, [rows, labels], say; prints the largest difference."""
    own = [labels[index] for index in logits.argmax(axis=1)]
    try:
        if path.suffix == ".txt":
            return differing_labels(read_table(path), own)
        predictions = read_lines(path)
    except (OSError, ValueError) as error:
        return [str(error)]
    problems = differing_labels([prediction.label for prediction in predictions], own)
    problems += differing_scores(path, predictions, logits)
    if [prediction.index for prediction in predictions] != list(range(len(logits))):
        problems.append(f"its indices do not count {len(logits)} rows from 0")
    return problems


def differing_labels(labels: Sequence[str], own: Sequence[str]) -> list[str]:
    """What is wrong with `labels` where the model says `own`."""
    if len(labels) != len(own):
        return [f"it has {len(labels)} rows; expected {len(own)}"]
    wrong = [index for index, (label, expected) in enumerate(zip(labels, own, strict=True)) if label != expected]
    return [f"{len(wrong)} labels differ, the first in row {wrong[0]}"] if wrong else []


def differing_scores(path: Path, predictions: Sequence[Prediction], logits: np.ndarray) -> list[str]:
    """What is wrong with the scores; prints the largest difference."""
    differences = [difference(prediction, row) for prediction, row in zip(predictions, logits, strict=False)]
    if not differences:
        return ["it has no row"]
    row = int(np.argmax(differences))
    scale = "logits" if all(prediction.are_logits for prediction in predictions) else "log-probabilities"
    print(f"{path.name}: max |difference| of {scale} {differences[row]:.3g} (row {row}), tolerance {TOLERANCE:g}")
    return [] if differences[row] <= TOLERANCE else [f"a score differs by {differences[row]:.3g} in row {row}"]


def check_metrics(path: Path, logits: np.ndarray, pairs: Sequence[Pair]) -> list[str]:
    """Whether predict_results.json has the accuracy and the mean loss of `logits`, [rows, labels]."""
    results = read_json(path)
    targets = torch.tensor([pair.label for pair in pairs])
    accuracy = float((logits.argmax(axis=1) == targets.numpy()).mean())
    loss = float(torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), targets))
    problems = []
    for key, value, tolerance in (("predict_accuracy", accuracy, 1e-6), ("predict_loss", loss, TOLERANCE)):
        found = results.get(key)
        if not isinstance(found, float | int) or not abs(found - value) <= tolerance:
            problems.append(f"{key} is {found}; expected {value:.6f}")
    return problems


def read_json(path: Path) -> dict:
    """The object in `path`; an empty one where there is none, so that each key is reported as missing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
