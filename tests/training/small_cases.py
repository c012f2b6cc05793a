"""Small preprocessed cases and a configuration to load them with."""

from typing import Literal

import blosc2
import numpy as np

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.arrays.storage import StoredCase
from autoseg.records.network import NormalizationSpec
from autoseg.records.plan import Configuration
from autoseg.records.training import TrainingSpec
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import TRAINING_STREAM, VALIDATION_STREAM, BatchStream
from autoseg.training.data.loading import build_loader, training_cases
from tests import builders
from tests.builders import make_network_spec, make_record

SHAPES = {"b": (11, 13, 17), "a": (9, 14, 10), "c": (6, 9, 12)}

ENCODING = make_encoding({"background": 0, "rare": 1, "common": 5})


def make_configuration(patch_size, *, batch_size=5, channels=2, masked=(), mirror_axes=None) -> Configuration:
    dimensions: Literal[2, 3] = 2 if len(patch_size) == 2 else 3
    ones = (1,) * dimensions
    network = make_network_spec(
        dimensions,
        input_channels=channels,
        features=(4, 4),
        strides=(ones, ones),
        kernel_sizes=(ones, ones),
    )
    mirror_axes = tuple(range(dimensions)) if mirror_axes is None else mirror_axes
    configuration = builders.make_configuration(
        (1.0,) * dimensions,
        median_shape=tuple(float(edge) for edge in patch_size),
        patch_size=(8,) * dimensions,
        batch_size=batch_size,
        network=network,
        normalization=tuple(NormalizationSpec(scheme="zscore", use_mask=c in masked) for c in range(channels)),
        training=TrainingSpec(mirror_axes=mirror_axes, batch_dice=False),
        preprocessed_as="test",
    )
    return configuration.model_copy(update={"patch_size": patch_size})  # a single voxel, too, which no plan may have


def make_stored_case(case: str, shape, *, seed: int, channels=2) -> StoredCase:
    """Noise; label 1 in one voxel, label 2 in a box, -1 in the first plane."""
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((channels + 1, *shape)).astype(np.float32)
    labels = np.zeros(shape, dtype=np.float32)
    labels[:, 1:4, 2:6] = 2
    labels[tuple(edge - 1 for edge in shape)] = 1
    labels[:, 0] = -1
    array[-1] = labels
    locations = {head: np.argwhere(labels == head).astype(np.int32) for head in (1, 2)}
    record = make_record(shape, case=case, configuration="test")
    return StoredCase(record=record, array=blosc2.asarray(array), locations=locations, annotated=None)


def open_loader(
    cases, configuration, *, training=True, seed=7, workers=0, start_method=None, ram_bytes=10**9, previous=None,
    rules=None, **stream,
):  # fmt: skip
    """A loader of stored cases; training patches are augmented by nnU-Net's rules unless others are given."""
    return build_loader(
        training_cases(cases, ENCODING, ram_bytes=ram_bytes, previous=previous),
        configuration,
        ENCODING,
        BatchStream(
            seed=(seed, TRAINING_STREAM if training else VALIDATION_STREAM),
            rules=(rules or AugmentationRules()) if training else None,
            **stream,
        ),
        workers=workers,
        start_method=start_method,
    )
