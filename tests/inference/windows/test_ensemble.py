"""Fold ensemble."""

import pytest
import torch

from autoseg.inference.windows.network_pass import mean_forward


def test_mean_of_three_networks_leaves_the_input_alone():
    windows = torch.full((1, 1, 2, 3), 6.0)
    forward = mean_forward([lambda x: x, lambda x: x * 2, lambda x: (x + 3).to(torch.bfloat16)])
    torch.testing.assert_close(forward(windows), torch.full((1, 1, 2, 3), (6 + 12 + 9) / 3))
    assert (windows == 6).all()


def test_one_network_is_itself():
    def forward(windows):
        return windows

    assert mean_forward([forward]) is forward


def test_none_is_refused():
    with pytest.raises(ValueError, match="at least one network"):
        mean_forward([])
