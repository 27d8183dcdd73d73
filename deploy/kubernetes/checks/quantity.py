"""Kubernetes' quantities: 500m, 2Gi."""

import re
from fractions import Fraction

_SUFFIX = {"": 1, "m": Fraction(1, 1000), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
           "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse(text):
    """The number that `text` stands for; None where it stands for none."""
    match = re.fullmatch(r"([+-]?[0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(text))
    return Fraction(match[1]) * _SUFFIX[match[2] or ""] if match else None
