"""Random logits of a cropped and resampled case, for labels and for regions."""

import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.restoring.restore import LogitStream
from autoseg.records.network import ResamplingSpec
from tests.builders import LABELS, REGIONS, make_record

SOFTMAX, SIGMOID = make_encoding(LABELS), make_encoding(REGIONS, (1, 2, 3))
PREPROCESSED, CROPPED, ORIGINAL = (4, 9, 6), (7, 11, 8), (9, 14, 13)


def case_logits(encoding, seed=0, transpose=(0, 1, 2)):
    record = make_record(
        PREPROCESSED, (2.0, 1.2, 1.2), original_spacing=(1.1, 1.0, 0.9), original_shape=ORIGINAL,
        crop_start=(1, 2, 3), crop_stop=(8, 13, 11), transpose=transpose,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((len(encoding.heads), *PREPROCESSED), generator=generator)
    return LogitStream(logits.unbind(1), record, ResamplingSpec())
