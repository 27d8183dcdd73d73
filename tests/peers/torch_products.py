"""Times PyTorch's matrix products of an encoder layer: the peer of Medley's example `products`. The last line tells the speed of
forward, of the gradients of the input and of those of the weights in GFLOP/s."""

import argparse
import json
import statistics
import time

import torch


def main() -> None:
    """Makes the products and prints their speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Queries; keys and values; attention's output; the feed-forward's two.
    sizes = [(inputs * options.hidden, outputs * options.hidden) for inputs, outputs in [(1, 1), (1, 2), (1, 1), (1, 4), (4, 1)]]
    layers = [
        (torch.rand(options.tokens, inputs), torch.rand(outputs, inputs), torch.rand(options.tokens, outputs))
        for inputs, outputs in sizes
    ]
    room = [(torch.empty_like(y), torch.empty_like(x), torch.empty_like(weight)) for x, weight, y in layers]
    operations = sum(2 * options.tokens * inputs * outputs for inputs, outputs in sizes)
    kinds = {
        "forward": lambda x, weight, _, out: torch.mm(x, weight.T, out=out[0]),
        "input_gradient": lambda _, weight, y, out: torch.mm(y, weight, out=out[1]),
        "weight_gradient": lambda x, _, y, out: torch.mm(y.T, x, out=out[2]),
    }
    speeds = {}
    for kind, make in kinds.items():
        times = []
        for _ in range(options.rounds + 1):
            start = time.perf_counter()
            for (x, weight, y), out in zip(layers, room, strict=True):
                make(x, weight, y, out)
            times.append(time.perf_counter() - start)
        speeds[f"{kind}_gflops"] = operations / statistics.median(times[1:]) / 1e9
    print(json.dumps(speeds))


if __name__ == "__main__":
    main()
