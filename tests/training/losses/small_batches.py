"""Encodings and random batches for the tests of the losses."""

from typing import get_args

import torch

from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.losses import LossName

NAMES = get_args(LossName)


def labels(num_classes, *, ignore=False):
    heads = tuple(Head(name=str(k), indices=(k,), painted_index=k) for k in range(num_classes))
    return LabelEncoding(
        values=tuple(range(num_classes)), ignore_value=200 if ignore else None, activation="softmax", heads=heads
    )


def regions(*, ignore=False):
    return LabelEncoding(
        values=(0, 1, 2),
        ignore_value=3 if ignore else None,
        activation="sigmoid",
        heads=(Head(name="whole", indices=(1, 2), painted_index=1), Head(name="core", indices=(2,), painted_index=2)),
    )


def draw(seed, encoding, *, batch=2, shape=(3, 5, 4)):
    """Logits (B, K, *S) float32 and target (B, *S) int16, every label and the ignore index about equally often."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, len(encoding.heads), *shape, generator=generator)
    highest = len(encoding.values) + int(encoding.ignore_value is not None)
    return logits, torch.randint(0, highest, (batch, *shape), generator=generator, dtype=torch.int16)
