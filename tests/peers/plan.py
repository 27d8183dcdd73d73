"""What `measure` runs: the parts of a measurement, each a command line of `compare.py`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sides import length_group

BATCH = {"cpu": 16, "cuda": 32}
"""Rows of an update."""

UPDATES = {"cpu": 50, "cuda": 300}
"""About how many a run of training makes; a GPU makes them in seconds. For an accuracy it is twice as many."""

EVALUATED = {"cpu": 250, "cuda": 8192}
"""Rows that are enough to time an evaluation."""

ROUNDS = 5
QUICK_UPDATES = 3


@dataclass(frozen=True)
class Inputs:
    """What is measured with: folders of models by shape (`pretrained` is all-MiniLM-L6-v2 itself), files of rows, and the
    machine. `rows` is how many `train_file` has; `evaluated_file` is for the speed, and `validation_file` for the accuracy."""

    models: dict[str, Path]
    train_file: Path
    rows: int
    evaluated_file: Path
    validation_file: Path
    device: str
    precision: str
    threads: int
    gpus: int
    target: float


def rows_wanted(device: str) -> int:
    """Training rows with which all parts stay in one epoch."""
    return 2 * UPDATES[device] * BATCH[device]


@dataclass(frozen=True)
class Part:
    """One command of `compare.py`.

    `updates` are given by the flag `counted`, if it has one; `least` of them is the least that it can be done with. `minutes`
    are those of all rounds on 2 cores without a GPU, or on one GPU. `models` are the shapes it needs.
    """

    name: str
    what: str
    mode: str
    words: tuple[str, ...]
    minutes: float
    counted: str | None = None
    updates: int = 0
    least: int = QUICK_UPDATES
    rounds: int = ROUNDS
    models: tuple[str, ...] = ()

    def command(self, quick: bool = False, rounds: int | None = None) -> list[str]:
        """The words behind `compare.py`; `quick`: one round of few updates; `rounds`: in place of the part's own."""
        updates = min(self.updates, self.least) if quick else self.updates
        counted = [self.counted, str(updates)] if self.counted else []
        return [self.mode, *self.words, *counted, "--pairs", str(1 if quick else rounds or self.rounds)]


def parts(inputs: Inputs) -> list[Part]:
    """The parts for a device, in the order they are run. `train_file` has the rows that are wanted."""
    return list(on_gpus(inputs) if inputs.device == "cuda" else on_cpus(inputs))


def on_cpus(inputs: Inputs) -> Iterator[Part]:
    """What is measured without a GPU."""
    threads = ("--threads", str(inputs.threads))
    for shape, updates, minutes in (("minilm", 12, 2), ("bert-base", 4, 6)):
        yield Part(f"step-{shape}", f"One update of 16 x 64 tokens in the shape of {shape}", "step",
                   ("--shape", shape, *threads), minutes, "--updates", updates)
    yield Part("reproducible", "What --reproducible on costs an update in MiniLM's shape", "step",
               ("--reproducible", *threads), 1, "--updates", 12)
    for shape, minutes in (("minilm", 1), ("bert-base", 2)):
        yield Part(f"products-{shape}", f"The matrix products of a layer in the shape of {shape}", "products",
                   ("--shape", shape, *threads), minutes, "--updates", 20)
    yield training(inputs, "train", "pretrained", ("--padding", "longest", "longest_grouped", "--strong"), 16)
    yield padded(inputs, "pretrained", 128, whole_groups(inputs), 8)
    yield padded(inputs, "pretrained", 512, 6, 5)
    yield shared(inputs, "pretrained", 2, 10)
    yield evaluation(inputs, "minilm", (8, 64), 3)
    yield Part("allreduce", "A sum of 90 MB of float32 over 2 ranks of this machine", "allreduce",
               ("--ranks", "2", "--megabytes", "90", *threads), 1, "--updates", 20)
    yield accuracy(inputs, 12)


def on_gpus(inputs: Inputs) -> Iterator[Part]:
    """What is measured on GPUs."""
    for shape, minutes in (("bert-base", 8), ("bert-large", 12)):
        yield training(inputs, f"train-{shape}", shape, ("--padding", "longest", "--strong", "--compile"), minutes)
        yield padded(inputs, shape, 512, whole_groups(inputs) // 3, minutes, "--strong", "--compile")
        yield evaluation(inputs, shape, (8, 64, 256), 5)
    if inputs.gpus > 1:
        # A batch that they can share equally.
        workers = max(count for count in (2, 4, 8) if count <= inputs.gpus)
        yield shared(inputs, "bert-base", workers, 8)
    yield accuracy(inputs, 8)


def whole_groups(inputs: Inputs) -> int:
    """Updates of a run: as many whole groups of Trainer's longest_grouped as fit."""
    group = group_of(inputs)
    return max(1, UPDATES[inputs.device] // group) * group


def group_of(inputs: Inputs) -> int:
    """Updates after which rows of all lengths have been seen."""
    return length_group(inputs.rows, BATCH[inputs.device])


def real(inputs: Inputs, shape: str, workers: int = 1) -> tuple[str, ...]:
    """The flags of all that is done with a model and rows of a file; so many workers can share the threads equally."""
    threads = max(1, inputs.threads // workers) * workers
    return ("--model_name_or_path", str(inputs.models[shape]), "--device", inputs.device,
            "--precision", inputs.precision, "--workers", str(workers), "--threads", str(threads))


def trained(inputs: Inputs, shape: str, workers: int = 1) -> tuple[str, ...]:
    """The flags of training."""
    return (*real(inputs, shape, workers), "--train_file", str(inputs.train_file),
            "--per_device_train_batch_size", str(BATCH[inputs.device]))


def called(shape: str) -> str:
    """A model, as it is called in a text."""
    return "all-MiniLM-L6-v2" if shape == "pretrained" else f"a model in the shape of {shape}"


def training(inputs: Inputs, name: str, shape: str, peers: tuple[str, ...], minutes: float) -> Part:
    """The first updates of real training."""
    least = group_of(inputs) if "longest_grouped" in peers else QUICK_UPDATES
    return Part(name, f"Training {called(shape)}, {BATCH[inputs.device]} rows an update", "train",
                (*trained(inputs, shape), *peers), minutes, "--max_steps", whole_groups(inputs), least, models=(shape,))


def shared(inputs: Inputs, shape: str, workers: int, minutes: float) -> Part:
    """Training in several processes."""
    units = "GPUs" if inputs.device == "cuda" else "workers, which share the threads,"
    what = f"Training {called(shape)} on {workers} {units} against one process, and torchrun's {workers}"
    words = (*trained(inputs, shape, workers), "--padding", "--alone", "--torchrun")
    return Part("workers", what, "train", words, minutes, "--max_steps", whole_groups(inputs), models=(shape,))


def padded(inputs: Inputs, shape: str, length: int, count: int, minutes: float, *peers: str) -> Part:
    """Training in which Trainer pads all rows to one length, as `run_glue.py` does by default."""
    name = f"train-{length}" if shape == "pretrained" else f"train-{shape}-{length}"
    what = f"Training {called(shape)}, up to {length} tokens, all rows padded to that by Trainer"
    words = (*trained(inputs, shape), "--padding", "max_length", "--max_seq_length", str(length), *peers)
    return Part(name, what, "train", words, minutes, "--max_steps", max(1, count), models=(shape,))


def evaluation(inputs: Inputs, shape: str, batches: tuple[int, ...], minutes: float) -> Part:
    """Evaluation alone."""
    name = "evaluate" if shape == "minilm" else f"evaluate-{shape}"
    words = (*real(inputs, shape), "--validation_file", str(inputs.evaluated_file),
             "--eval_batches", *map(str, batches))
    return Part(name, f"Evaluation of {called(shape)}", "evaluate", words, minutes, models=(shape,))


def accuracy(inputs: Inputs, minutes: float) -> Part:
    """The time to an accuracy, at a learning rate at which few updates are enough."""
    every = UPDATES[inputs.device] // 5
    words = (*trained(inputs, "pretrained"), "--validation_file", str(inputs.validation_file), "--learning_rate", "2e-4",
             "--eval_steps", str(every), "--target", str(inputs.target), "--padding", "longest", "--strong")
    return Part("accuracy", f"The time to an accuracy of {inputs.target} on the validation rows, start-up included",
                "accuracy", words, minutes, "--max_steps", 10 * every, every, rounds=3, models=("pretrained",))
