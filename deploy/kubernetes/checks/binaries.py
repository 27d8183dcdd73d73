"""What the real programs say to the arguments in the manifests, and what their exit codes are."""

import functools
import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from .command import expanded

USAGE = 64
"""How a program ends whose flags make no sense."""
LIMIT_S = 60
"""The longest that a program may take to look at its arguments."""


def programs(folder):
    """Where `medley` and `medley-worker` lie; None where they are not built."""
    found = {name: Path(folder, name) for name in ("medley", "medley-worker")}
    return found if all(os.access(path, os.X_OK) for path in found.values()) else None


def arguments(objects, pods, there):
    """Every container's command, parsed by its program: it must come as far as to miss the files that are not here."""
    for pod in pods:
        if not pod.is_medley:
            continue
        for container in pod.containers():
            command, words = expanded(pod, container)
            name = (command or ["medley-worker" if pod.role == "worker" else "medley"])[0]
            if name not in there:
                yield f"{pod.owner}: {container['name']} runs {name}, which is no program of Medley's"
                continue
            run = next((it["data"]["run.toml"] for it in objects if "run.toml" in (it.get("data") or {})), "")
            code, said = _parsed(there[name], tuple(words), run)
            if code == USAGE:
                yield f"{pod.owner}: {container['name']}: {name} {words[0]} does not take its arguments: {said}"
            elif code not in (0, 65, 70, 78):
                yield f"{pod.owner}: {container['name']}: {name} ended with {code}: {said}"


@functools.cache
def _parsed(program, words, run):
    with tempfile.TemporaryDirectory() as folder:
        return _run([program, *_moved(words, run, folder)], folder)


def _moved(words, run, folder):
    """Arguments with all files below `folder`, where only run.toml is, so that nothing is started."""
    moved = []
    for word in words:
        flag, sign, value = word.partition("=")
        if flag == "--config":
            value = f"{folder}/run.toml"
            Path(value).write_text(re.sub(r'"/', f'"{folder}/', run))
        elif value.startswith("/"):
            value = folder + value
        elif flag in ("--listen", "--http_listen"):
            value = value.rsplit(":", 1)[0] + ":0"
        elif flag == "--coordinator":
            value = "127.0.0.1:1"
        elif flag in ("--connect_timeout", "--reconnect_timeout"):
            value = "0"
        moved.append(flag + sign + value)
    return moved


def _run(words, folder, **more):
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "HF_HUB_OFFLINE": "1"}
    try:
        ended = subprocess.run([str(word) for word in words], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                               capture_output=True, text=True, timeout=LIMIT_S, **more)
    except subprocess.TimeoutExpired:
        return "no exit code within a minute", ""
    return ended.returncode, (ended.stderr.strip().splitlines() or [""])[0]


TRIED = {0, 64, 65, 70, 75, 78}
"""What `codes` brings about."""


def untried(table):
    """README.md's table has these exit codes and no others."""
    for code in sorted(table ^ TRIED):
        yield f"README.md's table and what is tried here differ in exit code {code}"


def codes(there):
    """The exit codes that the manifests rely on, each brought about."""
    with tempfile.TemporaryDirectory() as folder:
        sample = f"{folder}/sample"
        worker = [there["medley-worker"], "--coordinator=127.0.0.1:1"]
        run = ["--do_train", f"--output_dir={folder}/out", "--listen=127.0.0.1:0", "--workers=1", "--from_scratch"]
        rows = [f"--model_name_or_path={sample}/untrained", f"--train_file={sample}/data/train.jsonl"]
        serve = [there["medley"], "serve", *run]
        cases = [
            (0, [there["medley"], "quickstart", "--prepare_only", f"--output_dir={sample}"]),
            (64, [*serve, "--no_such_flag"]), (64, [*worker, "--no_such_flag"]),
            (65, [*serve, rows[0], f"--train_file={sample}/untrained/config.json"]),
            (70, [*worker, "--connect_timeout=0"]),
            (78, [*serve, *rows, f"--credentials={folder}/none"]), (78, [*worker, f"--credentials={folder}/none"]),
        ]
        for expected, words in cases:
            code, said = _run(words, folder)
            if code != expected:
                yield f"{' '.join(map(str, words[1:]))} ends with {code}, not {expected}: {said}"
        code = _terminated([*serve, *rows], folder)
        if code != 75:
            yield f"medley serve ends with {code} after SIGTERM, not 75"
        for number, (after, steps, signalled, sent, expected) in enumerate((
            ("the run is complete", 3, None, None, (0, 0)),
            ("the coordinator gets SIGTERM", 1_000_000, 0, signal.SIGTERM, (75, 75)),
            ("the only worker is killed", 1_000_000, 1, signal.SIGKILL, (70, -signal.SIGKILL)),
        )):
            more = [f"--output_dir={folder}/out-{number}", f"--max_steps={steps}", "--logging_steps=1", "--save_strategy=no"]
            words = [it for it in serve if "--output_dir" not in str(it)] + [*rows, *more, "--join_timeout=5"]
            ended = _training(words, there["medley-worker"], folder, signalled, sent)
            if ended != expected:
                yield f"a run and its worker end with {ended} where {after}, not with {expected}"


def _terminated(words, folder):
    """The exit code of a coordinator that gets SIGTERM while it waits for workers."""
    process = subprocess.Popen([str(word) for word in words], cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "waiting for workers" in line:
                process.send_signal(signal.SIGTERM)
        return process.wait(LIMIT_S)
    finally:
        process.kill()


def _training(words, worker, folder, signalled, sent):
    """The exit codes of a coordinator and of its only worker (None: not started), of which one may get a signal in training."""
    started = [subprocess.Popen([str(word) for word in words], cwd=folder, stderr=subprocess.PIPE, text=True)]
    late = threading.Timer(LIMIT_S, started[0].kill)
    late.start()
    try:
        for line in started[0].stderr:
            address = re.search(r"coordinator listens on (\S+?);", line)
            if address:
                words = [str(worker), f"--coordinator={address[1]}", "--device=cpu", "--threads=1"]
                started.append(subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL))
            if "update 2:" in line and sent:
                started[signalled].send_signal(sent)
        codes = [process.wait(LIMIT_S) for process in started]
        return codes[0], codes[1] if len(codes) > 1 else None
    except subprocess.TimeoutExpired:
        return "no exit code", "within a minute"
    finally:
        late.cancel()
        for process in started:
            process.kill()
            process.wait(LIMIT_S)
