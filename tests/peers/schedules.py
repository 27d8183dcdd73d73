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

# Losses and accuracies that evaluations may measure; None is one that is no number.
FALLING = [1.0, 0.8, 0.79995, 0.9, 0.81, 0.7, 0.75, 0.75, 0.75, 0.75, None, 0.75, 0.6, 0.61, 0.62, 0.63, 0.64, 0.65, 0.66]
RISING = [0.5, 0.6, 0.6, 0.60001, 0.59, 0.7, 0.69, 0.69, None, 0.7, 0.71, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
EVALUATED = [
    ({}, FALLING + [0.67] * 20),
    ({"patience": 1, "factor": 0.5}, FALLING),
    ({"patience": 0, "factor": 0.3, "min_lr": 1e-6}, FALLING),
    ({"patience": 0, "factor": 0.1, "eps": 1e-6}, FALLING),
    ({"patience": 1, "factor": 0.5, "cooldown": 2}, FALLING),
    ({"patience": 1, "factor": 0.5, "threshold": 0.05, "threshold_mode": "abs"}, FALLING),
    ({"patience": 2, "factor": 0.5, "mode": "max"}, RISING),
    ({"patience": 1, "factor": 0.5, "mode": "max", "threshold": 0.02, "threshold_mode": "abs"}, RISING),
]


def evaluated(kwargs, measured):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler("reduce_lr_on_plateau", optimizer, scheduler_specific_kwargs=kwargs)
    made = []
    for value in measured:
        scheduler.step(float("nan") if value is None else value)
        made.append(optimizer.param_groups[0]["lr"])
    return made


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
    plateaus = [
        {"name": "reduce_lr_on_plateau", "kwargs": kwargs, "measured": measured, "rates": evaluated(kwargs, measured)}
        for kwargs, measured in EVALUATED
    ]
    print(json.dumps({"transformers": transformers.__version__, "peak": PEAK, "cases": cases, "evaluated": plateaus}))


main()
