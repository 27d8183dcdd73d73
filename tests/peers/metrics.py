"""Metrics of scikit-learn, for tests/fixtures/metrics.json: python tests/peers/metrics.py > FILE"""

import json
import random

import sklearn
from sklearn.metrics import confusion_matrix, matthews_corrcoef, precision_recall_fscore_support

NAMES = ["entailment", "neutral", "contradiction"]


def case(rows, skill, classes, seed):
    chance = random.Random(seed)
    labels = [chance.randrange(classes) for _ in range(rows)]
    logits = [[round(chance.gauss(skill * (label == it), 1), 3) for it in range(3)] for label in labels]
    predicted = [row.index(max(row)) for row in logits]
    expected = {"matthews_correlation": matthews_corrcoef(labels, predicted)}
    kinds = ["precision", "recall", "f1"]
    common = {"labels": [0, 1, 2], "zero_division": 0}
    for kind, values in zip(kinds, precision_recall_fscore_support(labels, predicted, **common)):
        expected |= {f"{kind}_{name}": float(value) for name, value in zip(NAMES, values)}
    means = precision_recall_fscore_support(labels, predicted, average="macro", **common)
    expected |= {f"macro_{kind}": float(value) for kind, value in zip(kinds, means)}
    expected["confusion_matrix"] = confusion_matrix(labels, predicted, labels=[0, 1, 2]).tolist()
    return {"labels": labels, "logits": logits, "expected": expected}


def main():
    # Good and bad models, one that guesses, a label that no row has, and a single row.
    cases = [case(120, 1.5, 3, 1), case(60, 0.0, 3, 2), case(40, 1.0, 2, 3), case(1, 1.0, 3, 4), case(30, 9.0, 1, 5)]
    print(json.dumps({"scikit_learn": sklearn.__version__, "cases": cases}))


main()
