"""Writes a BERT classifier of a given shape with random weights, and with the tokenizer of another model: speed is the same
whatever the weights are."""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from pairs import LABELS
from sides import SHAPES


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="a model with an English BERT tokenizer")
    parser.add_argument("--labels", default=",".join(LABELS))
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    hidden, layers, head = SHAPES[options.shape]
    labels = options.labels.split(",")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // head,
        intermediate_size=4 * hidden, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)), label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(42)
    # The weights come last: whoever finds them finds all of it.
    tokenizer.save_pretrained(options.output_dir)
    BertForSequenceClassification(config).save_pretrained(options.output_dir)


if __name__ == "__main__":
    main()
