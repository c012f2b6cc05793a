import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoseg.networks.build import build_network
from autoseg.training import probe
from autoseg.training.probe import _configuration, _forward_macs, measure_training_speed


@pytest.mark.parametrize("dimensions", [2, 3])
def test_counted_multiplications_equal_those_of_torchs_own_counter(dimensions):
    configuration = _configuration(dimensions, 8)
    network = build_network(configuration.network, deep_supervision=False).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty((1, 1, *configuration.patch_size), device="meta"))
    assert _forward_macs(configuration) == counter.get_total_flops() // 2


def test_every_dimension_and_width_is_measured(monkeypatch):
    monkeypatch.setattr(probe, "SECONDS_PER_MEASUREMENT", 0.0)
    monkeypatch.setattr(probe, "MEASURED_FEATURES", (2, 4))
    measured = measure_training_speed("cpu")
    assert [(point.dimensions, point.base_features) for point in measured] == [(3, 2), (3, 4), (2, 2), (2, 4)]
    assert all(point.macs_per_second > 0 for point in measured)
