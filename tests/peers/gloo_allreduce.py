"""Times gloo's all-reduce between processes of this machine, as torch.distributed uses it: the peer of Medley's example
`allreduce`. The last line is `{"gb_per_s": ...}`, the size of one process's numbers divided by the median time of a sum."""

import argparse
import json
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

LAYER = 1_774_464
"""Elements of an encoder layer of MiniLM: what backward hands over at a time on both sides."""


def main() -> None:
    """Starts the ranks and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # gloo makes the file, and removes it.
        processes.spawn(rank, args=(f"{folder}/meeting", options), nprocs=options.ranks)


def rank(number: int, meeting: str, options: argparse.Namespace) -> None:
    """One process: joins the others and sums; the first prints the result."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=options.ranks)
    layers = [torch.ones(LAYER) for _ in range(max(1, round(options.megabytes * 1e6 / 4 / LAYER)))]
    times = []
    for update in range(options.rounds + 1):
        dist.barrier()
        start = time.perf_counter()
        for work in [dist.all_reduce(layer, async_op=True) for layer in layers]:
            work.wait()
        if update > 0:
            times.append(time.perf_counter() - start)
        for layer in layers:
            layer.fill_(1.0)
    if number == 0:
        size = sum(layer.numel() * layer.element_size() for layer in layers)
        print(json.dumps({"gb_per_s": size / statistics.median(times) / 1e9}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
