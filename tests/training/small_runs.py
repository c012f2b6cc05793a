"""Networks that train on the CPU, ready for their first step."""

import torch

from autoseg.training.distributed import Ranks
from autoseg.training.steps.run import StepSettings
from autoseg.training.steps.setup import build_initial_network, start_run

CPU = torch.device("cpu")
ALONE = Ranks()


def start_on_cpu(configuration, encoding, *, precision=torch.float32, ranks=ALONE, seed=0):
    """A run in fp32 unless another precision is given."""
    network = build_initial_network(configuration, seed)
    return start_run(network, configuration, encoding, StepSettings(CPU, precision, ranks))
