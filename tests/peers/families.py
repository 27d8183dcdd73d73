#!/usr/bin/env python3
"""What transformers computes with a tiny random model of each family of encoders, for tests/fixtures: token ids, logits, loss,
gradients, a few updates by torch's AdamW, and the weights after them. Reads the rows of tests/fixtures/tiny-bert; replaces
tests/fixtures/tiny-FAMILY.

    python tests/peers/families.py roberta electra
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
LABELS = ["entailment", "neutral", "contradiction"]
LENGTH = 48
UPDATES, ROWS, MICRO = 10, 8, 4
PEAK, WARMUP, TOTAL = 2e-3, 10, 20
# Sentences at which tokenizers part: spaces, cases, accents, other scripts, control characters, their own special tokens.
ODD = [
    ("", ""),
    (" leading and trailing ", "two  spaces\tand\na line"),
    ("Naïve café, ÅNGSTRÖM ½", "日本語 текст 👩‍🔬"),
    ("a\u0000b\u00a0c\u200bd\ufffd", "don't I'll we've 12,345.6e-7"),
    ("see <mask> and </s> here", "[MASK] [SEP] <s>"),
    ("ﬁne ＡＢＣ", "x" * 120),
]
SIZES = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
)


def rows():
    with open(FIXTURES / "tiny-bert/rows.jsonl") as file:
        return [json.loads(line) for line in file]


def texts():
    return [row[name] for row in rows() for name in ("sentence1", "sentence2")]


def byte_pairs(folder):
    """A byte-level BPE vocabulary, as RoBERTa's two files, and its tokenizer.json."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=341, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts(), trainer)
    learner.model.save(str(folder))
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder)
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(folder)


def word_pieces(folder):
    """A WordPiece vocabulary, the beginning of that of tiny-bert, as ELECTRA's vocab.txt, and its tokenizer.json."""
    lines = (FIXTURES / "tiny-bert/model/vocab.txt").read_text().splitlines()[:400]
    (folder / "vocab.txt").write_text("".join(line + "\n" for line in lines))
    tokenizer = transformers.ElectraTokenizerFast.from_pretrained(folder)
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(folder)


# Of each family: who makes its tokenizer, the files that the tokenizer can also be loaded from, and what its configuration
# has of its own. A second one is computed from a formula, without a file: ELECTRA's large models have no projection.
FAMILIES = {
    "roberta": (
        byte_pairs,
        ["vocab.json", "merges.txt"],
        dict(max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
        {},
    ),
    "electra": (
        word_pieces,
        ["vocab.txt"],
        dict(max_position_embeddings=LENGTH, embedding_size=8),
        dict(embedding_size=16),
    ),
}


def random_model(config):
    """Weights large enough that logits differ, biases that are not 0 and norms that are not 1."""
    torch.manual_seed(7)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.1 if parameter.dim() == 1 else 0.25))
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)
    return model


def formula_model(config):
    """Weights that another program can compute as well: 0.2 sin(0.7 i + the length of the name), norms 1 more."""
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = 0.2 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + len(name))
            parameter.copy_(values.float().reshape(parameter.shape))
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)
    return model


def encode(tokenizer, some):
    pairs = [row["sentence1"] for row in some], [row["sentence2"] for row in some]
    batch = tokenizer(*pairs, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
    return dict(batch, labels=torch.tensor([LABELS.index(row["gold_label"]) for row in some]))


def example(tokenizer, row):
    """Without padding; the first segment is all where the tokenizer knows no other."""
    batch = encode(tokenizer, [row])
    ids = batch["input_ids"][0].tolist()
    types = batch.get("token_type_ids", torch.zeros(1, len(ids)))[0].tolist()
    return dict(input_ids=ids, first_segment=types.count(0), label=batch["labels"].item())


def tokens(tokenizer, again):
    """Ids of pairs at several lengths; the tokenizer of the old files must give the same."""
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows()[:12]] + ODD
    found = []
    for length in (LENGTH, 17, 9):
        calls = [each([a for a, _ in pairs], [b for _, b in pairs], truncation=True, max_length=length,
                      return_token_type_ids=True) for each in (tokenizer, again)]
        for index, (a, b) in enumerate(pairs):
            ids = calls[0]["input_ids"][index]
            assert ids == calls[1]["input_ids"][index], (a, b, ids, calls[1]["input_ids"][index])
            found.append(dict(sentence1=a, sentence2=b, max_length=length, input_ids=ids,
                              token_type_ids=calls[0]["token_type_ids"][index]))
    return found


def forward(model, batch):
    model.eval()
    with torch.no_grad():
        out = model(**batch)
    return dict(logits=out.logits.tolist(), loss=out.loss.item())


def gradients(model, batch):
    """Of the summed loss of the batch."""
    model.zero_grad()
    (model(**batch).loss * len(batch["labels"])).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def train(model, tokenizer):
    """Updates as Trainer makes them: mean of the micro-batches' gradients, clipped; no decay of biases and layer norms."""
    plain = [name for name, _ in model.named_parameters() if name.endswith(".bias") or "LayerNorm" in name]
    groups = [
        dict(params=[p for name, p in model.named_parameters() if name not in plain], weight_decay=0.01),
        dict(params=[p for name, p in model.named_parameters() if name in plain], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.999), eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, TOTAL)
    followed, data = [], rows()
    for update in range(UPDATES):
        optimizer.zero_grad()
        loss = 0.0
        for start in range(update * ROWS, (update + 1) * ROWS, MICRO):
            part = model(**encode(tokenizer, data[start:start + MICRO])).loss * MICRO / ROWS
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        followed.append(dict(update=update + 1, loss=loss, grad_norm=norm, lr=schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return followed


def save(tensors, path):
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def make(family):
    learn, old_files, own, formula = FAMILIES[family]
    folder = FIXTURES / f"tiny-{family}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / "old").mkdir()
    learn(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for name in old_files:
        if not (folder / "model" / name).exists():
            raise SystemExit(f"{folder}/model has no {name}")
        shutil.copy(folder / "model" / name, folder / "old" / name)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **SIZES, **own)
    again = type(tokenizer).from_pretrained(folder / "old")
    shutil.rmtree(folder / "old")
    (folder / "tokens.json").write_text(json.dumps(tokens(tokenizer, again), ensure_ascii=False))

    model = random_model(config)
    model.save_pretrained(folder / "model")
    batch = encode(tokenizer, rows()[:ROWS])
    reference = dict(versions=dict(transformers=transformers.__version__, torch=torch.__version__), max_length=LENGTH)
    reference["rows"] = [example(tokenizer, row) for row in rows()[:UPDATES * ROWS]]
    reference |= forward(model, batch)
    if formula:
        other = AutoConfig.for_model(family, vocab_size=len(tokenizer), **SIZES, **(own | formula))
        reference["formula"] = formula | forward(formula_model(other), batch)
    model.train()
    save(gradients(model, batch), folder / "gradients.safetensors")
    reference["updates"] = train(model, tokenizer)
    save(dict(model.named_parameters()), folder / "trained.safetensors")
    (folder / "reference.json").write_text(json.dumps(reference))


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        make(name)
