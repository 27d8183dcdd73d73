"""Learning rates of transformers' schedules, for tests/fixtures/schedules.json: python tests/peers/schedules.py > FILE"""

import json
import warnings

import torch
import transformers
from transformers import get_scheduler

PEAK = 3e-5
CASES = [
    ("linear", {}, 10, 40),
    ("cosine", {}, 10, 40),
    ("cosine", {"num_cycles": 1.25}, 4, 40),
    ("cosine_with_restarts", {}, 10, 40),
    ("cosine_with_restarts", {"num_cycles": 3}, 7, 40),
    ("polynomial", {}, 10, 40),
    ("polynomial", {"power": 2.5, "lr_end": 1e-6}, 0, 40),
    ("constant", {}, 10, 40),
    ("constant_with_warmup", {}, 10, 40),
    ("inverse_sqrt", {}, 10, 40),
    ("inverse_sqrt", {}, 0, 40),
    ("inverse_sqrt", {"timescale": 25}, 10, 40),
    ("warmup_stable_decay", {"num_decay_steps": 12}, 10, 40),
    ("warmup_stable_decay", {"num_decay_steps": 12, "decay_type": "linear", "min_lr_ratio": 0.1}, 10, 40),
    ("warmup_stable_decay", {"num_decay_steps": 35, "decay_type": "1-sqrt"}, 10, 40),
    ("warmup_stable_decay", {"num_decay_steps": 12, "num_cycles": 1.0, "min_lr_ratio": 0.2}, 0, 40),
]


def rates(name, kwargs, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, total, kwargs or None)
    made = []
    for _ in range(total):
        made.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return made


def main():
    warnings.simplefilter("ignore")
    cases = [
        {"name": name, "kwargs": kwargs, "warmup": warmup, "total": total, "rates": rates(name, kwargs, warmup, total)}
        for name, kwargs, warmup, total in CASES
    ]
    print(json.dumps({"transformers": transformers.__version__, "peak": PEAK, "cases": cases}))


main()
