"""What identifies the weights of a model, such as in DICOM files.

Tested in tests/stages/test_predictor.py.
"""

import hashlib
from collections.abc import Sequence

import torch

from autoseg.inference.models.loading import LoadedConfiguration


def hash_weights(members: Sequence[LoadedConfiguration]) -> str:
    """Hash of the weights of all networks that predict, 32 hexadecimal digits (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=16)
    for member in members:
        for network in member.networks:
            for name, values in sorted(network.state_dict().items()):
                digest.update(name.encode())
                digest.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
