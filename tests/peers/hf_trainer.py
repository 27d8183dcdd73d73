"""Fine-tunes a BERT classifier on MedNLI-format JSONL with Hugging Face's Trainer, the way `run_glue.py` does.

All flags of TrainingArguments are accepted. Rows are tokenised before training and held in memory as lists, which is
faster than the `datasets` library that `run_glue.py` reads them through.
"""

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    TrainerControl,
    default_data_collator,
    set_seed,
)

from pairs import LABELS, Pair, read_pairs
from predictions import write_predictions


@dataclass
class DataArguments:
    """What `run_glue.py` calls its model and data arguments, and the threads."""

    model_name_or_path: str
    train_file: Path | None = None
    validation_file: Path | None = None
    test_file: Path | None = None
    labels: str = ",".join(LABELS)
    max_seq_length: int = 128
    padding: str = field(
        default="max_length",
        metadata={"choices": ["max_length", "longest", "longest_grouped"],
                  "help": "to --max_seq_length (the default of run_glue.py), to a batch's longest row, or so with "
                          "batches of rows of similar length"},
    )
    threads: int = field(default=0, metadata={"help": "of PyTorch; 0: its own choice"})
    resume_newest: bool = field(default=False, metadata={"help": "go on from the newest whole checkpoint, if there is "
                                                                 "one, and save on SIGTERM to any rank (exit code 75)"})
    row_cache: Path | None = field(default=None, metadata={"help": "a file that keeps the tokenised training rows"})
    progress_file: Path | None = field(default=None, metadata={"help": "gets a line of JSON for every update and every "
                                                                       "accuracy in training, as it is made"})


def main() -> None:
    """Trains, evaluates and predicts, as the flags say."""
    data, training = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    if data.padding == "longest_grouped":
        training.train_sampling_strategy = "group_by_length"
    if data.threads:
        torch.set_num_threads(data.threads)
    set_seed(training.seed)

    labels = data.labels.split(",")
    tokenizer = AutoTokenizer.from_pretrained(data.model_name_or_path)
    model = load_model(data.model_name_or_path, labels)

    def rows(flag: str, path: Path | None) -> list[dict]:
        if path is None:
            raise SystemExit(f"--{flag} is needed")
        return encode(read_pairs(path, labels), tokenizer, data)

    trainer = Trainer(
        model=model,
        eval_dataset=rows("validation_file", data.validation_file) if training.eval_strategy != "no" else None,
        args=training,
        processing_class=tokenizer,
        data_collator=default_data_collator if data.padding == "max_length" else DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )

    if training.do_train:
        trainer.train_dataset = cached(data.row_cache, lambda: rows("train_file", data.train_file))
        if data.progress_file:
            trainer.add_callback(Progress(data.progress_file))
        preemption = Preemption()
        if data.resume_newest:
            trainer.add_callback(preemption)
        train(trainer, newest_whole(Path(training.output_dir)) if data.resume_newest else None)
        if preemption.is_due:
            sys.exit(75)
    # group_by_length would put the evaluated rows out of order, too.
    training.train_sampling_strategy = "random"
    if training.do_eval:
        evaluated = rows("validation_file", data.validation_file)
        metrics = trainer.evaluate(evaluated)
        trainer.save_metrics("eval", metrics | {"eval_samples": len(evaluated)} | device_memory())
    if training.do_predict:
        predicted = rows("test_file", data.test_file)
        output = trainer.predict(predicted, metric_key_prefix="predict")
        trainer.save_metrics("predict", output.metrics | {"predict_samples": len(predicted)})
        write_predictions(Path(training.output_dir), output.predictions, labels)


def load_model(name: str, labels: list[str]) -> torch.nn.Module:
    """The pretrained model with a new classifier, unless it has one of as many labels; float32."""
    config = AutoConfig.from_pretrained(
        name,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return AutoModelForSequenceClassification.from_pretrained(
        name, config=config, attn_implementation="sdpa", dtype=torch.float32
    )


def encode(pairs: list[Pair], tokenizer: PreTrainedTokenizerBase, data: DataArguments) -> list[dict]:
    """Tokenises rows; labels are left out if a row has none."""
    padding = "max_length" if data.padding == "max_length" else False
    rows = [
        dict(tokenizer(pair.premise, pair.hypothesis, truncation=True, max_length=data.max_seq_length, padding=padding))
        for pair in pairs
    ]
    if all(pair.label is not None for pair in pairs):
        for row, pair in zip(rows, pairs, strict=True):
            row["labels"] = pair.label
    return rows


def cached(path: Path | None, rows: Callable[[], list[dict]]) -> list[dict]:
    """Rows that were tokenised before, as the `datasets` library would keep them."""
    if path is None:
        return rows()
    if not path.is_file():
        own = path.with_name(f"{path.name}.{os.getpid()}")
        own.write_bytes(pickle.dumps(rows()))
        own.replace(path)
    return pickle.loads(path.read_bytes())


def newest_whole(output: Path) -> str | None:
    """The newest checkpoint that was written to its end: Trainer's own choice is the newest folder, whole or not."""
    def is_whole(checkpoint: Path) -> bool:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            return False
        return all((checkpoint / name).is_file() for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"))

    whole = filter(is_whole, output.glob("checkpoint-*"))
    newest = max(whole, key=lambda checkpoint: int(checkpoint.name.split("-")[1]), default=None)
    return str(newest) if newest else None


class Preemption(TrainerCallback):
    """Saves and stops once any rank gets SIGTERM: all agree after each update, as a save takes all of them."""

    def __init__(self) -> None:
        self.is_asked, self.is_due = False, False

    def on_train_begin(self, *_: object, **__: object) -> None:
        """From now on there is something to save."""
        def ask(*_: object) -> None:
            self.is_asked = True

        signal.signal(signal.SIGTERM, ask)

    def on_step_end(self, arguments: TrainingArguments, _: TrainerState, control: TrainerControl, **__: object) -> None:
        """Asks all ranks."""
        asked = torch.tensor(int(self.is_asked))
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        if asked.item():
            self.is_due = control.should_save = control.should_training_stop = True


class Progress(TrainerCallback):
    """Appends what is done to a file, as somebody who watches from outside cannot see it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, state: TrainerState, **more: float) -> None:
        """Adds a line, once for all processes."""
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="ascii") as file:
                file.write(json.dumps({"update": state.global_step} | more) + "\n")

    def on_step_end(self, arguments: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        """An update is made."""
        self.write(state)

    def on_evaluate(self, arguments: TrainingArguments, state: TrainerState, control: TrainerControl,
                    metrics: dict[str, float], **__: object) -> None:
        """The validation rows are predicted."""
        self.write(state, accuracy=metrics["eval_accuracy"])


def train(trainer: Trainer, checkpoint: str | None) -> None:
    """Trains, from the checkpoint if there is one, and writes the model, train_results.json and trainer_state.json."""
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_model()
    trainer.save_metrics("train", metrics | {"train_samples": len(trainer.train_dataset)} | device_memory())
    trainer.save_state()


def device_memory() -> dict[str, int]:
    """The most bytes of its GPU's memory that this process had in use at once, under Medley's name; nothing without a GPU."""
    return {"peak_memory_device_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_initialized() else {}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose highest logit is that of their label."""
    correct = prediction.predictions.argmax(axis=1) == prediction.label_ids
    return {"accuracy": float(correct.astype(np.float32).mean())}


if __name__ == "__main__":
    main()
