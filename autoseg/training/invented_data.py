"""What is trained to measure a speed: small networks, and batches of one invented case.

Tested in tests/training/test_probe.py.
"""

import math
from collections.abc import Generator
from typing import Literal

import numpy as np

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.network import Architecture, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates
from autoseg.records.training import TrainingSpec
from autoseg.training.data.augmentation.parameters import choose_rules
from autoseg.training.data.batch import Batch, BatchStream
from autoseg.training.data.loading import TrainingCase, build_loader

VOXELS_WITH_LABEL = 1000
"""Voxels of the invented volume that are drawn at random for the sampling of foreground."""

NOISE_ENCODING = LabelEncoding(
    values=(0, 1, 2),
    activation="softmax",
    heads=tuple(
        Head(name=name, indices=(index,), painted_index=index) for index, name in enumerate(("background", "a", "b"))
    ),
)


def measured_configuration(
    dimensions: Literal[2, 3], base_features: int, architecture: Architecture = "unet"
) -> Configuration:
    """A network of four levels on a patch of the size that short trainings use."""
    patch = (32, 48, 48) if dimensions == 3 else (160, 160)
    build_small = ARCHITECTURES[architecture].build_small
    if build_small is None:
        raise ValueError(f"{architecture} has no small networks")
    network = build_small(dimensions, base_features)
    return Configuration(
        spacing=tuple(1.0 for _ in patch),
        median_shape=tuple(float(size) for size in patch),
        patch_size=patch,
        batch_size=2 if dimensions == 3 else 4,
        network=network.model_copy(update={"output_channels": len(NOISE_ENCODING.heads)}),
        normalization=(NormalizationSpec(scheme="zscore"),),
        resampling=ResamplingSpec(),
        training=TrainingSpec(
            optimizer="adamw", steps_per_epoch=1, epochs=1, mirror_axes=tuple(range(dimensions)), batch_dice=False
        ),
        estimates=Estimates(feature_map_elements=0, parameters=0, macs=math.prod(patch), training_memory_bytes=0),
        preprocessed_as="noise",
    )


def open_invented_batches(
    configuration: Configuration, encoding: LabelEncoding, workers: int, *, intensity_on_device: bool = False
) -> Generator[Batch, None, None]:
    """Augmented batches of one invented case, prepared as in training, which leaves intensities to a GPU."""
    stream = BatchStream(
        seed=(0,),
        rules=choose_rules(configuration.training.contrasts),
        intensity_on_device=intensity_on_device,
    )
    return build_loader([invent_case(configuration, encoding)], configuration, encoding, stream, workers=workers)


def invent_case(configuration: Configuration, encoding: LabelEncoding) -> TrainingCase:
    """Noise with random labels, a quarter longer than the patch along each of its axes; 2D: eight slices."""
    generator = np.random.default_rng(0)
    shape = [math.ceil(1.25 * edge) for edge in configuration.patch_size]
    if len(shape) == 2:
        shape = [8, *shape]
    array = generator.standard_normal((len(configuration.normalization) + 1, *shape), dtype=np.float32)
    array[-1] = generator.integers(len(encoding.values), size=shape)
    voxels = generator.integers(shape, size=(VOXELS_WITH_LABEL, 3)).astype(np.int32)
    labels = array[-1][tuple(voxels.T)]
    locations = {
        head: voxels[np.isin(labels, spec.indices)]
        for head, spec in enumerate(encoding.heads)
        if set(spec.indices) != {0} and np.isin(labels, spec.indices).any()
    }
    previous = None if configuration.previous_configuration is None else array[-1].astype(np.int16)
    return TrainingCase(case_id="noise", array=array, locations=locations, annotated=None, previous=previous)
