"""Times PyTorch's training step on a BERT classifier, by default of MiniLM's shape: the peer of Medley's example `step`.

The loop is plain: forward, backward, fused AdamW on random token ids of one length, so nothing is padded. The last
line is `{"ms_per_update": ...}`, the median over the timed updates.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import BertConfig, BertForSequenceClassification

WARMUP_UPDATES = 3
"""Updates before the timed ones: they allocate memory, and create AdamW's state."""

FIRST_WORD = 1000
"""Ids below are special or unused in BERT's English vocabulary."""


def main() -> None:
    """Runs the updates and prints a JSON line for each, then the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=384, help="width of the hidden states")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--head", type=int, default=32, help="width of an attention head")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--updates", type=int, default=20, help="timed updates")
    parser.add_argument("--max_grad_norm", type=float, default=0.0, help="clip gradients to it; 0: do not [default: 0]")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(42)

    model = build_model(options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, fused=True)
    forward = torch.compile(model) if options.compile else model
    times = []
    for update in range(1, WARMUP_UPDATES + options.updates + 1):
        ids = torch.randint(FIRST_WORD, model.config.vocab_size, (options.rows, options.length))
        labels = torch.randint(0, model.config.num_labels, (options.rows,))
        start = time.perf_counter()
        loss = forward(input_ids=ids, labels=labels).loss
        loss.backward()
        if options.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.perf_counter() - start) * 1000)
        print(json.dumps({"update": update, "ms": round(times[-1], 3), "loss": round(loss.item(), 6)}))
    print(json.dumps({"ms_per_update": round(statistics.median(times[WARMUP_UPDATES:]), 3)}))


def build_model(options: argparse.Namespace) -> BertForSequenceClassification:
    """A classifier with three labels, randomly initialised, in training mode."""
    config = BertConfig(
        vocab_size=30522,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // options.head,
        intermediate_size=4 * options.hidden,
        max_position_embeddings=512,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        num_labels=3,
        attn_implementation="sdpa",
    )
    return BertForSequenceClassification(config).train()


if __name__ == "__main__":
    main()
