import pytest
import torch
from torch import nn

from autoseg.training.steps.averaging import WeightAverage


def network_of(value: float) -> nn.Module:
    network = nn.Linear(3, 2)
    set_weights(network, value)
    return network


def set_weights(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def test_average_follows_the_growing_decay_worked_by_hand():
    network = network_of(1.0)
    average = WeightAverage(network, 0.15)
    set_weights(network, 11.0)
    average.update(network)  # decay 1/10: 0.1 * 1 + 0.9 * 11 = 10
    assert average.network.state_dict()["weight"][0, 0].item() == pytest.approx(10.0)
    set_weights(network, 0.0)
    average.update(network)  # decay min(0.15, 2/11) = 0.15: 1.5
    assert average.network.state_dict()["bias"].tolist() == pytest.approx([1.5, 1.5])


def test_decay_grows_until_its_limit():
    network = network_of(0.0)
    average = WeightAverage(network, 0.999)
    expected = 0.0
    for step in range(50):
        set_weights(network, float(step))
        decay = min(0.999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        average.update(network)
    assert average.num_updates == 50
    assert average.network.state_dict()["weight"][1, 2].item() == pytest.approx(expected, rel=1e-5)


def test_update_leaves_the_network_alone():
    network = network_of(4.0)
    average = WeightAverage(network, 0.5)
    set_weights(network, 8.0)
    average.update(network)
    assert network.weight.unique().tolist() == [8.0]  # type: ignore[operator]
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert average.network.state_dict()["weight"][0, 0].item() == pytest.approx(0.1 * 4 + 0.9 * 8)


def test_counting_buffers_are_copied():
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.9)
    network(torch.randn(5, 2))
    average.update(network)
    assert average.network.state_dict()["num_batches_tracked"].item() == 1


def test_resumed_average_goes_on_bit_for_bit():
    torch.manual_seed(2)
    network = nn.Linear(4, 3)
    straight = WeightAverage(network, 0.9)
    resumed = WeightAverage(network, 0.9)
    for step in range(12):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        straight.update(network)
        if step == 5:
            state = {name: value.clone() for name, value in resumed.state_dict().items()}
            resumed = WeightAverage(nn.Linear(4, 3), 0.9)
            resumed.load_state_dict(state)
        resumed.update(network)
    assert resumed.num_updates == straight.num_updates == 12
    assert all(
        torch.equal(value, straight.network.state_dict()[name]) for name, value in resumed.network.state_dict().items()
    )


def test_state_of_another_network_is_refused():
    average = WeightAverage(nn.Linear(4, 3), 0.9)
    with pytest.raises(ValueError, match=r"another network.*\['weight'\]"):
        average.load_state_dict(WeightAverage(nn.Linear(5, 3), 0.9).state_dict())
    with pytest.raises(ValueError, match="num_updates"):
        average.load_state_dict(average.network.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="expected a number in"):
        WeightAverage(nn.Linear(1, 1), decay)
