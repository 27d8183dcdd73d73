"""Tests of the tools themselves: what they accept, and that they refuse what is wrong.

Run with `python -m unittest discover -s tests/peers`.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertTokenizer

import compare
import hf_trainer
import interop
import sides
import torch_train
from numpy_bert import NumpyBert
from observed import observe
from pairs import LABELS, Pair, read_pairs
from predictions import LINES_FILE, TABLE_FILE, write_predictions
from ratio import ratios, table
from torment import Schedule, Victim, children
from watched import alive

HERE = Path(__file__).resolve().parent
ROWS = [
    ("neutral", "The patient has a cough.", "The patient has pneumonia."),
    ("entailment", "Blood pressure was 180/110.", "The patient has hypertension."),
    ("contradiction", "No fever, no chills.", "The patient is febrile."),
    ("entailment", "He takes insulin.", "He has diabetes."),
]


def write_rows(path: Path) -> None:
    """Writes the rows as MedNLI has them."""
    rows = [{"gold_label": row[0], "sentence1": row[1], "sentence2": row[2]} for row in ROWS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def write_model(folder: Path) -> None:
    """Writes a tiny random classifier, its weights spread so that logits differ from row to row."""
    words = {word for _, *sentences in ROWS for text in sentences for word in text.lower().replace(".", " .").split()}
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789.,/")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words | letters)]
    folder.mkdir()
    BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128, id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)


class Interop(unittest.TestCase):
    """`interop.py` on a folder with logits of another implementation, and on what `hf_trainer.py` writes."""

    parent: Path
    rows: Path
    trained: Path
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        """Trains the tiny model with `hf_trainer.py`, and replaces its logits by NumPy's."""
        parent = tempfile.TemporaryDirectory()
        cls.addClassCleanup(parent.cleanup)
        cls.parent = Path(parent.name)
        cls.rows = cls.parent / "rows.jsonl"
        write_rows(cls.rows)
        write_model(cls.parent / "model")
        cls.trained = cls.parent / "trained"
        command = [
            *(sys.executable, str(HERE / "hf_trainer.py"), "--model_name_or_path", str(cls.parent / "model")),
            *("--train_file", str(cls.rows), "--validation_file", str(cls.rows), "--test_file", str(cls.rows)),
            *("--do_train", "--do_eval", "--do_predict", "--padding", "longest_grouped", "--use_cpu"),
            *("--max_steps", "2", "--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2"),
            *("--report_to", "none", "--save_strategy", "no", "--threads", "1", "--output_dir", str(cls.trained)),
        ]
        subprocess.run(command, check=True, capture_output=True)

    def setUp(self) -> None:
        """Copies the folder, for the test to spoil."""
        self.folder = self.parent / "spoilt"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.trained, self.folder)

    def check(self, *flags: str) -> tuple[int, str]:
        """The exit status and the output of `interop.py` on the folder."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = interop.main(["--model_dir", str(self.folder), "--data", str(self.rows), *flags])
        return status, printed.getvalue()

    def assert_fails(self, part: str, *flags: str) -> None:
        """That `part` fails, and the exit status tells."""
        status, printed = self.check(*flags)
        self.assertEqual(status, 1, printed)
        self.assertIn(f"FAIL  {part}", printed)

    def rewrite(self, name: str, change: Callable[[dict], object]) -> None:
        """Changes the object in a JSON file."""
        path = self.folder / name
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    def numpy_logits(self) -> np.ndarray:
        """Logits of the rows, computed without PyTorch."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        bert = NumpyBert(self.folder)
        encodings = [tokenizer(row[1], row[2]) for row in ROWS]
        return np.array([bert.logits(row["input_ids"], row["token_type_ids"]) for row in encodings])

    def test_what_the_trainer_wrote_passes(self) -> None:
        status, printed = self.check()
        self.assertEqual(status, 0, printed)
        self.assertNotIn("FAIL", printed)

    def test_logits_of_another_implementation_pass_unpadded_and_padded(self) -> None:
        write_predictions(self.folder, self.numpy_logits(), LABELS)
        for rows in ("1", "3"):
            status, printed = self.check("--batch_rows", rows)
            self.assertEqual(status, 0, printed)

    def test_probabilities_pass_in_place_of_logits(self) -> None:
        logits = self.numpy_logits()
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        for shift, status in ((0.0, 0), (2e-3, 1)):
            shifted = probabilities + np.array([shift, -shift, 0.0])
            lines = [
                json.dumps({"index": index, "prediction": LABELS[logits[index].argmax()], "probabilities": row})
                for index, row in enumerate(shifted.tolist())
            ]
            (self.folder / LINES_FILE).write_text("\n".join(lines), encoding="utf-8")
            self.assertEqual(self.check()[0], status)

    def test_perturbed_logits_fail(self) -> None:
        for wrong in (2e-4, float("nan")):
            logits = self.numpy_logits()
            logits[2, 1] += wrong
            write_predictions(self.folder, logits, LABELS)
            self.assert_fails(LINES_FILE)

    def test_rows_that_are_missing_or_swapped_fail(self) -> None:
        path = self.folder / LINES_FILE
        first, second, *others = path.read_text(encoding="utf-8").splitlines()
        for lines in ([first, second], [second, first, *others], []):
            path.write_text("\n".join(lines), encoding="utf-8")
            self.assert_fails(LINES_FILE)

    def test_a_wrong_label_fails(self) -> None:
        path = self.folder / TABLE_FILE
        lines = path.read_text(encoding="utf-8").splitlines()
        index, label = lines[1].split("\t")
        lines[1] = f"{index}\t{LABELS[LABELS.index(label) - 1]}"
        path.write_text("\n".join(lines), encoding="utf-8")
        self.assert_fails(TABLE_FILE)

    def test_another_order_of_labels_fails(self) -> None:
        self.rewrite("config.json", lambda config: config["id2label"].update({"0": "neutral", "1": "entailment"}))
        self.assert_fails("config.json")

    def test_a_missing_weight_fails(self) -> None:
        path = self.folder / "model.safetensors"
        tensors = load_file(path)
        del tensors["bert.pooler.dense.bias"]
        save_file(tensors, path, metadata={"format": "pt"})
        self.assert_fails("loading with transformers")

    def test_weights_without_their_format_fail(self) -> None:
        path = self.folder / "model.safetensors"
        save_file(load_file(path), path)
        self.assert_fails("model.safetensors")

    def test_another_tokenizer_fails(self) -> None:
        def swap(tokenizer: dict) -> None:
            vocabulary = tokenizer["model"]["vocab"]
            vocabulary["patient"], vocabulary["has"] = vocabulary["has"], vocabulary["patient"]

        self.rewrite("tokenizer.json", swap)
        # Either transformers takes its words from elsewhere, and the ids differ, or they agree, and the logits differ.
        status, printed = self.check()
        self.assertEqual(status, 1, printed)

    def test_a_missing_key_fails(self) -> None:
        self.rewrite("eval_results.json", lambda results: results.pop("eval_samples_per_second"))
        self.assert_fails("result files")
        self.assertEqual(self.check("--results", "train", "predict")[0], 0)

    def test_a_wrong_accuracy_fails(self) -> None:
        for name in ("predict_results.json", "all_results.json"):
            self.rewrite(name, lambda results: results.update(predict_accuracy=results["predict_accuracy"] + 0.25))
        self.assert_fails("accuracy and loss")


class Comparison(unittest.TestCase):
    """`compare.py`, and what it reads."""

    def test_ratios_are_taken_pair_by_pair(self) -> None:
        speeds = [(30.0, 10.0), (10.0, 10.0), (12.0, 6.0)]
        rounds = [{"medley": {"rows_per_s": ours, "peak_mb": 50.0}, "torch": {"rows_per_s": theirs, "peak_mb": 100.0}}
                  for ours, theirs in speeds]
        expected = {"median": 2.0, "min": 1.0, "max": 3.0, "pairs": [3.0, 1.0, 2.0]}
        self.assertEqual(ratios(rounds, "rows_per_s"), {"torch": expected})
        # Less memory is better.
        self.assertIn("| torch | 10.00 | 2.00x (1.00 to 3.00) | 100.00 | 2.00x (2.00 to 2.00) |", table(rounds))

    def test_the_last_step_time_counts(self) -> None:
        self.assertEqual(sides.number('{"ms_per_update": 1}\n{"ms_per_update": 2.5}\nbye\n', "ms_per_update"), 2.5)
        with self.assertRaises(ValueError):
            sides.number('{"update": 1}\n', "ms_per_update")

    def test_a_run_over_other_rows_is_refused(self) -> None:
        results = {"train_runtime": 10.0, "train_samples_per_second": 16.0, "train_loss": 1.1}
        self.assertEqual(sides.training_speed(results, 160)["rows_per_s"], 16.0)
        with self.assertRaises(ValueError):
            sides.training_speed(results, 320)

    def test_milestones_and_memory_are_seen_from_outside(self) -> None:
        script = textwrap.dedent("""
            import json, pathlib, sys, time
            full = bytearray(100_000_000)
            time.sleep(0.5)
            folder = pathlib.Path(sys.argv[1])
            folder.mkdir()
            with (folder / "progress.jsonl").open("w", buffering=1) as progress:
                for update, accuracy in ((1, None), (2, 0.5), (3, 0.75)):
                    progress.write(json.dumps({"update": update, "accuracy": accuracy}) + "\\n")
                    time.sleep(0.1)
        """)
        side = sides.Side("peer", [], lambda _stdout, _folder: {}, sides.PROGRESS, sides.of_peer)
        with tempfile.TemporaryDirectory() as parent:
            output = Path(parent) / "output"
            seen = observe(side, [sys.executable, "-c", script, str(output)], dict(os.environ), output)
        self.assertEqual((seen.code, len(seen.milestones)), (0, 3), seen.stderr)
        self.assertGreater(seen.first_update_s(), 0.5)
        self.assertGreater(seen.reached_s(0.6), seen.reached_s(0.5))
        self.assertIsNone(seen.reached_s(0.8))
        self.assertTrue(100 < seen.peak_mb < 200, seen.peak_mb)

    def test_a_record_of_the_ledger_is_a_milestone_or_none(self) -> None:
        lines = ['{"kind": "update", "update": 3}', '{"kind": "group"}',
                 '{"kind": "evaluation", "update": 4, "entry": {"eval_accuracy": 0.5}}']
        found = [sides.of_ledger(line) for line in lines]
        self.assertEqual(found, [sides.Progress(3), None, sides.Progress(4, 0.5)])

    def test_the_strong_peer_takes_every_row_once_an_epoch(self) -> None:
        rows = [{"input_ids": list(range(1 + number % 7)), "number": number} for number in range(50)]
        batches = torch_train.drawn(rows, 8, random.Random(1))
        epoch = [next(batches) for _ in range(7)]
        self.assertEqual(sorted(row["number"] for batch in epoch for row in batch), list(range(50)))
        # The speed is that of full batches.
        self.assertEqual([len(batch) for batch in epoch], [8] * 6 + [2])

    def test_processes_in_sessions_of_their_own_are_seen_and_ended(self) -> None:
        script = ("import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', "
                  "'full = bytearray(100_000_000); import time; time.sleep(1000)'], start_new_session=True); "
                  "print(child.pid, flush=True); time.sleep(1)")
        side = sides.Side("peer", [], lambda _stdout, _folder: {})
        with tempfile.TemporaryDirectory() as parent:
            seen = observe(side, [sys.executable, "-c", script], dict(os.environ), Path(parent))
        self.assertGreater(seen.peak_mb, 100)
        self.assertFalse(alive(int(seen.stdout)))

    def test_a_step_is_compared_from_end_to_end(self) -> None:
        with tempfile.TemporaryDirectory() as parent:
            medley = Path(parent) / "step"
            medley.write_text('#!/bin/sh\necho \'{"ms_per_update": 0.001}\'\n', encoding="utf-8")
            medley.chmod(0o755)
            with contextlib.redirect_stdout(io.StringIO()):
                compare.main([
                    *("step", "--medley_step", str(medley), "--rows", "2", "--length", "8", "--updates", "1"),
                    *("--threads", "1", "--pairs", "1", "--report", f"{parent}/report"),
                ])
            report = json.loads((Path(parent) / "report.json").read_text(encoding="utf-8"))
            self.assertEqual(report["rounds"][0]["medley"]["rows_per_s"], 2e6)
            self.assertGreater(report["ratios"]["rows_per_s"]["torch"]["median"], 1000)
            self.assertIn("| torch |", (Path(parent) / "report.md").read_text(encoding="utf-8"))

    def test_training_that_favours_a_side_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as parent:
            rows = Path(parent) / "rows.jsonl"
            rows.write_text('{"sentence1": "a", "sentence2": "b"}\n' * 100, encoding="utf-8")
            train = ["train", "--medley", sys.executable, "--model_name_or_path", "model", "--train_file", str(rows)]
            train += ["--per_device_train_batch_size", "10"]
            with self.assertRaisesRegex(SystemExit, "stay in one epoch"):
                compare.main([*train, "--max_steps", "11"])
            with self.assertRaisesRegex(SystemExit, "a multiple of 2 with longest_grouped"):
                compare.main([*train, "--max_steps", "3", "--padding", "longest_grouped"])

    def test_a_program_that_was_not_built_is_named(self) -> None:
        with self.assertRaisesRegex(SystemExit, "missing/step does not exist; build it with: cargo build"):
            compare.main(["step", "--medley_step", "missing/step"])

    def test_a_failing_side_ends_the_comparison(self) -> None:
        side = sides.Side("torch", ["false"], lambda _stdout, _folder: {})
        with self.assertRaises(SystemExit) as raised:
            compare.measure(side, 1, argparse.Namespace(threads=1, device="cpu"))
        self.assertIn("exit status 1", str(raised.exception))


class Soak(unittest.TestCase):
    """`torment.py`, and what `hf_trainer.py` goes on from."""

    def test_the_schedule_is_its_seeds(self) -> None:
        first, again, other = (Schedule(seed, 10) for seed in (1, 1, 2))
        blows = [first.next() for _ in range(90)]
        self.assertEqual(blows, [again.next() for _ in range(90)])
        self.assertNotEqual(blows, [other.next() for _ in range(90)])
        self.assertEqual(round(sum(pause for pause, _ in blows) / 900, 1), 1.0)

    def test_whoever_is_struck_starts_again_and_nobody_is_left(self) -> None:
        seen: set[int] = set()

        def workers(process: object) -> list[int]:
            found = children(process.popen.pid, "")
            seen.update(found)
            return found

        with tempfile.TemporaryDirectory() as folder:
            # It ends with its workers when one of the two does.
            victim = Victim(["bash", "-c", "sleep 1000 & sleep 1000 & wait -n; kill -9 $(jobs -p); exit 75"], Path(folder), workers)
            victim.torment(Schedule(3, 0.2), 6)
            self.assertFalse(list(filter(alive, seen)))
        self.assertGreaterEqual(victim.faults.total(), 5)
        self.assertGreater(victim.starts, 1)
        self.assertFalse(alive(victim.process.popen.pid))

    def test_a_checkpoint_that_is_not_whole_is_passed_over(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder)
            self.assertIsNone(hf_trainer.newest_whole(output / "none"))
            for step in (5, 10, 100):
                checkpoint = output / f"checkpoint-{step}"
                checkpoint.mkdir()
                for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
                    (checkpoint / name).touch()
                (checkpoint / "trainer_state.json").write_text("{}" if step < 100 else '{"global_')
            self.assertEqual(hf_trainer.newest_whole(output), str(output / "checkpoint-10"))


class Rows(unittest.TestCase):
    """`pairs.py`."""

    def read(self, *lines: str) -> list[Pair]:
        """The rows of a file of these lines."""
        with tempfile.TemporaryDirectory() as parent:
            path = Path(parent) / "rows.jsonl"
            path.write_text("\n".join(lines), encoding="utf-8")
            return read_pairs(path)

    def test_rows_without_consensus_are_left_out(self) -> None:
        line = '{"sentence1": "a", "sentence2": "b", "gold_label": "%s"}'
        self.assertEqual(self.read(line % "-", "", line % "contradiction"), [Pair("a", "b", 2)])
        self.assertEqual(self.read('{"sentence1": "a", "sentence2": "b"}'), [Pair("a", "b", None)])

    def test_errors_name_the_line(self) -> None:
        for line in ('{"sentence1": "a", "sentence2": "b", "gold_label": "maybe"}', '{"sentence1": "a"}', "[]", "no"):
            with self.assertRaisesRegex(ValueError, r"^rows\.jsonl:2: "):
                self.read("", line)


if __name__ == "__main__":
    unittest.main()
