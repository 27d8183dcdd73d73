"""Injects faults into runs of Medley, one after another, and measures what each costs.

Every run is compared with one without faults: the final weights, the predictions and all applied updates must be equal to
the byte, and `medley verify` must find every row of every epoch in exactly one of them. Prints a table, writes it with
all that was measured to --save, and fails if anything was not as it should be.

    cargo build --release --bins --examples
    python tests/peers/faults.py                                  # a tiny model, some minutes
    python tests/peers/faults.py --only SIGKILL --model_name_or_path $MODEL --train_file train.jsonl \\
        --test_file test.jsonl --max_seq_length 128 --per_device_train_batch_size 32 --max_steps 40
"""

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import coordinator_faults
import machine
import network_faults
import state_faults
import worker_faults
from bench import ROOT, Bench, Row

HEAD = ["fault", "seen after", "next update after", "updates lost", "rows lost / twice", "result", "named as", "left"]


def main() -> None:
    """Injects all faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="a folder with a BERT [default: the tests' tiny one]")
    parser.add_argument("--train_file")
    parser.add_argument("--test_file")
    parser.add_argument("--max_seq_length", type=int, default=64)
    parser.add_argument("--per_device_train_batch_size", type=int, default=32)
    parser.add_argument("--max_steps", type=int, default=400)
    parser.add_argument("--heartbeat_timeout", type=float, default=5)
    parser.add_argument("--only", default="", help="only faults whose name has this")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--binaries", default=str(ROOT / "target/release"))
    parser.add_argument("--save", default="runs/faults.json", help="where the figures go")
    options = parser.parse_args()
    if options.model_name_or_path and not (options.train_file and options.test_file):
        parser.error("--model_name_or_path needs --train_file and --test_file")
    found = []
    with tempfile.TemporaryDirectory(prefix="medley-faults-") as folder:
        bench = Bench(options, Path(folder))
        print(f"an update takes {bench.update_s * 1000:.0f} ms with 1 worker\n\n| {' | '.join(HEAD)} |")
        print("|---" * len(HEAD) + "|")
        for row in all_rows(bench, options):
            found.append(row)
            print(line(row), flush=True)
    failed = [row for row in found if row.problems]
    for row in failed:
        print(f"\n{row.fault}:\n  " + "\n  ".join(row.problems))
    path = Path(options.save)
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine.describe(ROOT), "options": vars(options), "update_s": bench.update_s,
              "faults": [asdict(row) for row in found]}
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{len(found)} faults, {len(failed)} of them not as they should be; all figures in {path}")
    sys.exit(bool(failed) or not found)


def all_rows(bench: Bench, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of all faults that are asked for; one that cannot be carried through is a row with a problem."""
    faults = worker_faults.FAULTS | coordinator_faults.FAULTS | state_faults.FAULTS | network_faults.FAULTS
    for name, inject in faults.items():
        if options.only.lower() not in name.lower():
            continue
        row = Row(name)
        try:
            inject(bench, row)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this fault
            row.problems.append(f"{error}\n{traceback.format_exc(limit=4)}")
        finally:
            bench.clear()
        yield row


def line(row: Row) -> str:
    """The row as Markdown."""
    result = {True: "equal bytes", False: "**DIFFERENT**", None: "-"}[row.equal]
    if row.problems:
        result = "**FAILED**"
    note = f"{row.cause}; {row.note}" if row.cause and row.note else row.cause or row.note
    cells = [row.fault, seconds(row.detected_s), seconds(row.recovered_s), row.updates_lost,
             f"{row.rows_lost} / {row.rows_twice}", result, note.replace("|", "/"), row.orphans]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def seconds(value: float | None) -> str:
    """A time in words."""
    return "-" if value is None else f"{value:.2f} s"


if __name__ == "__main__":
    main()
