"""Checks that `medley convert` makes of a pickle what PyTorch and safetensors themselves read in it, to the bit.

Saves a state dict of every kind of tensor (shared memory, slices, transposes, half precision, bfloat16, integers, truth
values, scalars, none at all), in both formats of torch.save, converts it, and compares every tensor as the real safetensors
package loads it. Exits with 1 where one differs, or where a pickle is converted that holds anything else.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def odd_tensors() -> "OrderedDict[str, torch.Tensor]":
    """Tensors of every kind, the same each time."""
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    tensors = OrderedDict(whole=whole, tied=whole, transposed=whole.t(), sliced=whole[1:3, 2:5], row=whole[2])
    tensors["expanded"] = whole[:, :1].expand(4, 3)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        tensors[str(dtype).removeprefix("torch.")] = (whole * 7).to(dtype)
    tensors["bool"] = whole > 1.5
    tensors["half_transposed"] = whole.to(torch.float16).t()
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["special"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    tensors["parameter"] = torch.nn.Parameter(whole[:2].clone())
    return tensors


def save(tensors: "OrderedDict[str, torch.Tensor]", path: Path, legacy: bool) -> None:
    """Saves them as torch.save does, or did before torch 1.6."""
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)


class Hostile:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the checks, prints a line for each, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medley", type=Path, default=Path("target/release/medley"))
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="pickles of your own to compare as well")
    parser.add_argument("--save", type=Path, help="write the files that the tests keep into this folder, and end")
    options = parser.parse_args(arguments)
    tensors = odd_tensors()
    if options.save:
        save(tensors, options.save / "odd_tensors.bin", legacy=False)
        save(tensors, options.save / "legacy_odd_tensors.bin", legacy=True)
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, options.save / "odd_tensors.safetensors")
        return 0
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = list(options.files)
        for legacy in (False, True):
            files.append(place / f"odd{'_legacy' if legacy else ''}.bin")
            save(tensors, files[-1], legacy)
        for file in files:
            out = place / f"{file.stem}-{len(list(place.iterdir()))}.safetensors"
            subprocess.run([options.medley, "convert", file, out], check=True, capture_output=True)
            expected = torch.load(file, weights_only=True, map_location="cpu")
            found = load_file(out)
            wrong = [name for name in expected.keys() | found.keys() if not same(expected.get(name), found.get(name))]
            failures += bool(wrong)
            print(f"{file.name}: {len(found)} tensors", f"WRONG: {', '.join(wrong)}" if wrong else "equal to the bit")
        for name, content in {"code": {"weight": tensors["whole"], "code": Hostile()}, "number": {"weight": tensors["whole"], "epoch": 3}}.items():
            torch.save(content, place / f"{name}.bin")
            refused = subprocess.run([options.medley, "convert", place / f"{name}.bin", place / "out"], capture_output=True, text=True)
            is_refused = refused.returncode == 65 and not Path("pwned").exists() and not (place / "out").exists()
            failures += not is_refused
            print(f"{name}.bin:", refused.stderr.strip() if is_refused else "WRONG: it was converted")
    return int(failures > 0)


def same(expected: torch.Tensor | None, found: torch.Tensor | None) -> bool:
    """Whether two tensors have the same type, shape and bytes."""
    if expected is None or found is None or expected.dtype != found.dtype or expected.shape != found.shape:
        return False
    data = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (expected, found)]
    return torch.equal(*data)


if __name__ == "__main__":
    sys.exit(main())
