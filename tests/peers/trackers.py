"""Checks that TensorBoard, MLflow and huggingface_hub read what Medley reports and writes of a run.

A run of a tiny model reports to all trackers. It is stopped and gone on with, loses all of its workers and goes back to a
checkpoint, and the MLflow server is suspended for a while. What TensorBoard's reader, TensorBoard itself over HTTP, and a real
MLflow server then show must be the run's log, each update once. Exits with 1 if it is not.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import mlflow
from huggingface_hub import ModelCard
from mlflow.tracking import MlflowClient
from tensorboard import version as tensorboard_version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/tiny-bert"
DEADLINE_S = 120
SPEEDS = ("_runtime", "_per_second")
"""What the names of values end with that are of one process alone."""

Values = dict[tuple[str, int], float]
"""Values by tag and step."""


def main() -> int:
    """Makes all checks, prints a line for each, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--medley", type=Path, default=ROOT / "target/release/medley")
    medley = parser.parse_args().medley.resolve()
    print(f"tensorboard {tensorboard_version.VERSION}, mlflow {mlflow.__version__}, huggingface_hub {huggingface_hub.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        with mlflow_server(folder) as (uri, server):
            run(medley, folder, uri, server)
            problems = checks(folder, uri)
    for name, found in problems.items():
        print(f"{'ok  ' if not found else 'FAIL'} {name}" + "".join(f"\n     {problem}" for problem in found[:5]))
    return 1 if any(problems.values()) else 0


def prepare(folder: Path) -> None:
    """Puts a model and rows into `folder`."""
    shutil.copytree(FIXTURES / "model", folder / "model")
    rows = (FIXTURES / "rows.jsonl").read_text().splitlines()
    for name, part in [("train", rows[:100]), ("dev: 1", rows[-50:-20]), ("test", rows[-20:])]:
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n")


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A real server on a free port, with its own store; killed at the end with all that it has started."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen([*command, *store], cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_for(f"{uri}/health")
        yield uri, server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(address: str) -> bytes:
    """What `address` answers, once it does."""
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            return fetch(address)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def fetch(address: str, body: dict | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return answer.read()


def run(medley: Path, folder: Path, uri: str, server: subprocess.Popen) -> None:
    """The run, in two processes and through a loss of all workers."""
    flags = {
        "model_name_or_path": "model", "train_file": "train.jsonl", "validation_file": "dev: 1.jsonl", "test_file": "test.jsonl",
        "output_dir": "out", "max_seq_length": 64, "per_device_train_batch_size": 8, "num_train_epochs": 6,
        "learning_rate": 1e-3, "logging_steps": 1, "evaluation_strategy": "steps", "eval_steps": 10, "save_steps": 8,
        "workers": 2, "threads": 1, "report_to": "tensorboard,jsonl,mlflow", "run_name": "a run: of \"all\"",
        "chaos": "kill:worker=0@update=45; kill:worker=1@update=45",
    }
    command = [str(medley), "train", "--do_train", "--do_eval", "--do_predict"]
    command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "n l/i", "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_OFFLINE": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)

    first = start()
    seen = read_until(first, "update 20: ")
    # Its reports wait, and the run does not.
    os.killpg(server.pid, signal.SIGSTOP)
    seen += read_until(first, "update 25: ")
    first.send_signal(signal.SIGTERM)
    time.sleep(1)
    os.killpg(server.pid, signal.SIGCONT)
    seen += first.stderr.read()
    assert first.wait() == 75, f"the first process ended with {first.returncode}:\n{seen}"
    second = start()
    seen = second.stderr.read()
    assert second.wait() == 0, f"the second process ended with {second.returncode}:\n{seen}"
    assert "warning" not in seen, seen


def read_until(process: subprocess.Popen, text: str) -> str:
    """Reads what a process says up to the line that has `text`."""
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it never said {text!r}:\n{seen}")


def checks(folder: Path, uri: str) -> dict[str, list[str]]:
    """What is wrong, by what was looked at."""
    history = json.loads((folder / "out/trainer_state.json").read_text())["log_history"]
    logged = {(name, entry["step"]): value for entry in history for name, value in entry.items() if name != "step"}
    predicted = json.loads((folder / "out/predict_results.json").read_text())
    last = max(step for _, step in logged)
    logged |= {("predict_loss", last): predicted["predict_loss"], ("predict_accuracy", last): predicted["predict_accuracy"]}
    tagged = {(tag(name), step): value for (name, step), value in logged.items()}
    records = [json.loads(line) for line in (folder / "out/ledger.jsonl").read_text().splitlines()]
    went_back = sum(record["kind"] == "rewind" for record in records)
    (place,) = (folder / "out/runs").iterdir()
    return {
        "the run went back": [] if went_back == 1 else [f"{went_back} times"],
        "TensorBoard's reader": compare(tagged, *read_events(place)),
        "TensorBoard over HTTP": compare(tagged, *ask_tensorboard(place)),
        "TensorBoard's settings": settings(place),
        "jsonl": compare(tagged, *read_lines(place / "metrics.jsonl")),
        "MLflow's server": mlflow_problems(uri, logged),
        "the model's card": card(folder),
    }


def tag(name: str) -> str:
    """`rewrite_logs` of transformers.integrations, and the same for predictions."""
    for split in ("eval", "predict"):
        if name.startswith(f"{split}_"):
            return f"{split}/{name.removeprefix(f'{split}_')}"
    return f"train/{name}"


def compare(logged: Values, shown: Values, problems: list[str]) -> list[str]:
    """Holds what is shown against what was logged; single precision is enough."""
    for key, value in logged.items():
        if key not in shown:
            problems.append(f"{key} is not shown")
        elif not key[0].endswith(SPEEDS) and abs(shown[key] - value) > 1e-6 * max(1.0, abs(value)):
            problems.append(f"{key} is {value}; shown is {shown[key]}")
    strange = [key for key in shown if key not in logged and not key[0].startswith("predict/")]
    return problems + [f"{key} was never logged" for key in strange]


def gathered(points: Iterator[tuple[str, int, float]]) -> tuple[Values, list[str]]:
    """Values by tag and step, and what is shown twice."""
    values, problems = {}, []
    for name, step, value in points:
        if (name, step) in values:
            problems.append(f"{name} of update {step} is shown twice")
        values[name, step] = value
    return values, problems


def read_events(place: Path) -> tuple[Values, list[str]]:
    files = list(place.glob("*tfevents*"))
    reader = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    scalars = ((name, event.step, event.value) for name in reader.Tags()["scalars"] for event in reader.Scalars(name))
    values, problems = gathered(scalars)
    return values, problems + ([] if len(files) == 2 else [f"{len(files)} files of 2 processes"])


def ask_tensorboard(place: Path) -> tuple[Values, list[str]]:
    """What TensorBoard answers a browser."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(place.parent), "--port", str(port)]
    command += ["--samples_per_plugin", "scalars=5000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as board:
        try:
            base = f"http://127.0.0.1:{port}/data/plugin/scalars"
            points: list[tuple[str, int, float]] = []
            until = time.monotonic() + DEADLINE_S
            # It shows what it has read so far, file by file: two answers in a row that are the same are all there is.
            while time.monotonic() < until:
                before, points = points, []
                for name, known in json.loads(wait_for(f"{base}/tags")).items():
                    for known_tag in known:
                        query = urllib.parse.urlencode({"run": name, "tag": known_tag})
                        answer = json.loads(fetch(f"{base}/scalars?{query}"))
                        points += [(known_tag, step, value) for _, step, value in answer]
                if points and points == before:
                    break
                time.sleep(3)
        finally:
            os.killpg(board.pid, signal.SIGTERM)
    return gathered(iter(points))


def read_lines(path: Path) -> tuple[Values, list[str]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return gathered((name, line["step"], value) for line in lines for name, value in line.items()
                    if name not in ("step", "time"))


def settings(place: Path) -> list[str]:
    """The table of settings, and their text."""
    reader = EventAccumulator(str(place)).Reload()
    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    ended = reader.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    status = plugin_data_pb2.HParamsPluginData.FromString(ended).session_end_info.status
    text = reader.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()
    found = {
        "learning_rate": start.hparams["learning_rate"].number_value == 1e-3,
        "train_file": start.hparams["train_file"].string_value == "train.jsonl",
        "reproducible": start.hparams["reproducible"].bool_value is True,
        "group_name": start.group_name == 'a run: of "all"',
        "status": status == 1,
        "text": '"train_file": "train.jsonl"' in text,
    }
    return [f"{name} is not as given" for name, is_right in found.items() if not is_right]


def mlflow_problems(uri: str, logged: Values) -> list[str]:
    """What MLflow's own client finds on the server; its names are those of the log, as those of Trainer's are."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("n l/i")
    found = client.search_runs([experiment.experiment_id])
    if len(found) != 1:
        return [f"{len(found)} runs instead of one"]
    (there,) = found
    points = ((name, point.step, point.value) for name in there.data.metrics
              for point in client.get_metric_history(there.info.run_id, name))
    shown, problems = gathered(points)
    shown = {key: value for key, value in shown.items() if not key[0].startswith("predict_") or key in logged}
    problems = compare(logged, shown, problems)
    expected = {"status": (there.info.status, "FINISHED"), "name": (there.info.run_name, 'a run: of "all"'),
                "learning_rate": (float(there.data.params["learning_rate"]), 1e-3),
                "train_file": (there.data.params["train_file"], "train.jsonl")}
    return problems + [f"{name} is {is_!r}" for name, (is_, wanted) in expected.items() if is_ != wanted]


def card(folder: Path) -> list[str]:
    """The card, as the hub's own library reads it."""
    data = ModelCard.load(folder / "out/README.md").data
    results = {(it.dataset_name, it.dataset_split, it.metric_type): it.metric_value for it in data.eval_results}
    wanted = {}
    for prefix, file, split in [("eval", "dev: 1.jsonl", "validation"), ("predict", "test.jsonl", "test")]:
        numbers = json.loads((folder / f"out/{prefix}_results.json").read_text())
        for metric, key in [("accuracy", "accuracy"), ("f1", "macro_f1"), ("matthews_correlation", "matthews_correlation")]:
            wanted[file, split, metric] = numbers[f"{prefix}_{key}"]
    found = {
        "results": (results, wanted),
        "name": (data.model_name, 'a run: of "all"'),
        "library_name": (data.library_name, "transformers"),
        "pipeline_tag": (data.pipeline_tag, "text-classification"),
        "base_model": (data.base_model, None),
        "metrics": (data.metrics, ["accuracy", "f1", "matthews_correlation"]),
    }
    return [f"{name} is {is_!r} instead of {should!r}" for name, (is_, should) in found.items() if is_ != should]


if __name__ == "__main__":
    sys.exit(main())
