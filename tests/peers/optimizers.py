"""What torch's optimizers make of the tiny BERT, for tests/fixtures/tiny-bert/optimizers.json:

python tests/peers/optimizers.py > FILE

Each case is 20 updates of 8 rows in the order of rows.jsonl, the rate rising over 10 of them and falling over the others,
as in trajectory.json. Of the trained weights each tensor's first, middle and last element are told.
"""

import json
import pathlib

import torch
from transformers import BertForSequenceClassification, BertTokenizerFast, get_linear_schedule_with_warmup

FOLDER = pathlib.Path(__file__).parent.parent / "fixtures" / "tiny-bert"
LABELS = ["entailment", "neutral", "contradiction"]
UPDATES, BATCH, WARMUP = 20, 8, 10
DECAY = 0.01
SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
CASES = {
    "sgd": {"optimizer": SGD, "peak": 0.1},
    "sgd_momentum": {"optimizer": SGD, "peak": 0.02, "settings": {"momentum": 0.9}},
    "sgd_dampened": {"optimizer": SGD, "peak": 0.05, "settings": {"momentum": 0.9, "dampening": 0.5}},
    "sgd_nesterov": {"optimizer": SGD, "peak": 0.02, "settings": {"momentum": 0.9, "nesterov": True}},
    "layer_lr_decay": {"optimizer": ADAMW, "peak": 2e-3, "layer_decay": 0.75},
    "freeze_embeddings": {"optimizer": ADAMW, "peak": 2e-3, "frozen": 0},
    "freeze_layers": {"optimizer": ADAMW, "peak": 2e-3, "frozen": 1, "layer_decay": 0.9},
    "freeze_all_layers": {"optimizer": SGD, "peak": 0.1, "frozen": 2},
    "class_weights": {"optimizer": ADAMW, "peak": 2e-3, "weights": [0.5, 1.0, 2.5]},
    "class_weights_smoothed": {"optimizer": ADAMW, "peak": 2e-3, "weights": [2.0, 0.25, 1.0], "smoothing": 0.1},
}


def rows():
    tokenizer = BertTokenizerFast.from_pretrained(FOLDER / "model")
    lines = [json.loads(line) for line in (FOLDER / "rows.jsonl").read_text().splitlines()]
    for start in range(0, UPDATES * BATCH, BATCH):
        batch = lines[start : start + BATCH]
        pairs = [[row[name] for row in batch] for name in ("sentence1", "sentence2")]
        inputs = tokenizer(*pairs, truncation=True, max_length=128, padding=True, return_tensors="pt")
        yield inputs, torch.tensor([LABELS.index(row["gold_label"]) for row in batch])


def depth(name, layers):
    """0 for the embeddings, from 1 for the layers, then the head."""
    if name.startswith("bert.embeddings."):
        return 0
    return int(name.split(".")[3]) + 1 if name.startswith("bert.encoder.") else layers + 1


def groups(model, case):
    """As Hugging Face's Trainer has them, by decay; and by depth, as ELECTRA and BEiT are fine-tuned."""
    layers = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        place = depth(name, layers)
        if "frozen" in case and place <= case["frozen"]:
            parameter.requires_grad = False
            continue
        lasts = name.endswith(".bias") or "LayerNorm" in name
        scale = case.get("layer_decay", 1.0) ** (layers + 1 - place)
        yield {"params": [parameter], "weight_decay": 0.0 if lasts else DECAY, "lr": case["peak"] * scale}


def train(case):
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(FOLDER / "model", attn_implementation="eager").train()
    parameters = list(groups(model, case))
    optimizer = case["optimizer"](parameters, lr=case["peak"], **case.get("settings", {}))
    scheduler = get_linear_schedule_with_warmup(optimizer, WARMUP, UPDATES)
    weights = torch.tensor(case["weights"]) if "weights" in case else None
    loss_of = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=case.get("smoothing", 0.0))
    updates = []
    for inputs, labels in rows():
        optimizer.zero_grad()
        loss = loss_of(model(**inputs).logits, labels)
        loss.backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        updates.append({"loss": loss.item(), "grad_norm": norm.item()})
        scheduler.step()
    flat = {name: tensor.detach().flatten() for name, tensor in model.named_parameters()}
    return {
        "peak": case["peak"],
        "updates": updates,
        "trained": {name: [values[at].item() for at in (0, len(values) // 2, -1)] for name, values in flat.items()},
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


if __name__ == "__main__":
    print(json.dumps({"torch": torch.__version__, "cases": {name: train(case) for name, case in CASES.items()}}))
