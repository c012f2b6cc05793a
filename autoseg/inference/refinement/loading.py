"""Load refiners from a workspace, and check that they are the ones that were selected.

Tested in tests/selection/test_refinement.py.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError

from autoseg.errors import PredictionError
from autoseg.inference.refinement.refine import LoadedRefiners
from autoseg.networks.layout import place_network
from autoseg.networks.refiner import RefinerNetwork
from autoseg.networks.weight_files import read_weights
from autoseg.records.files import hash_file
from autoseg.records.network import NetworkSpec
from autoseg.records.selection import Refinement
from autoseg.records.workspace import Workspace


def load_refiners(workspace: Workspace, refinement: Refinement, device: torch.device) -> LoadedRefiners:
    """Load the refiners that a selection names.

    Raises:
        PredictionError: If a file is missing, is damaged, or is not the one that was selected.
    """
    networks = []
    for index, expected in enumerate(refinement.refiners):
        path = refiner_path(workspace, index).with_suffix(".safetensors")
        if not path.is_file() or hash_file(path) != expected:
            found = "was changed after it was selected" if path.is_file() else "does not exist"
            raise PredictionError(
                f"{path}: {found}, but {workspace.selection.name} refines boundaries with it. Run autoseg select "
                "--refine boundary again, or predict with --refine none."
            )
        networks.append(load_refiner(path, refinement.network, device))
    return LoadedRefiners(refinement.patches, tuple(networks), device)


def load_refiner(path: Path, spec: NetworkSpec, device: torch.device) -> RefinerNetwork:
    """Build one refiner and load its weights.

    Raises:
        PredictionError: If the weights cannot be read, or do not fit.
    """
    network = RefinerNetwork(spec)
    try:
        network.load_state_dict(read_weights(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise PredictionError(f"{path}: the weights cannot be read ({error}); run autoseg select again") from error
    return place_network(network, spec, device).eval()


def refiner_path(workspace: Workspace, index: int) -> Path:
    """Path of one refiner's files, without ending."""
    return workspace.refinement / f"refiner_{index}"
