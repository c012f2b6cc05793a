"""Listed networks are measured in their order, until the time is over."""

from autoseg.stages.list_networks import Listing, list_networks
from autoseg.stages.time_networks import time_networks


def test_cheap_networks_are_measured_first_and_none_after_the_time(monkeypatch):
    listed, _refused = list_networks((32, 32), 1, 2, Listing("cpu", ["unext"]))
    moments = iter([0.0, 1.0, 4.0, 6.0])
    monkeypatch.setattr("autoseg.stages.time_networks.time.monotonic", lambda: next(moments))
    monkeypatch.setattr(
        "autoseg.stages.time_networks.time_configuration",
        lambda configuration, _device: (configuration.network.features[0], 0.5),
    )
    seen = []
    rows = time_networks(listed, "cpu", 5.0, lambda done, total: seen.append((done, total)))
    assert [row.step_seconds for row in rows] == [8, 16, None]
    assert [row.prediction_seconds for row in rows] == [0.5, 0.5, None]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_network_that_the_memory_is_too_small_for_has_no_times(monkeypatch):
    listed, _refused = list_networks((32, 32), 1, 2, Listing("cpu", ["unext"]))
    monkeypatch.setattr("autoseg.stages.time_networks.time_configuration", lambda _configuration, _device: None)
    assert all(row.step_seconds is None for row in time_networks(listed, "cpu", 60.0))


def test_a_small_network_is_measured():
    listed, _refused = list_networks((32, 32), 1, 2, Listing("cpu", ["unext"]))
    [row] = time_networks(listed[:1], "cpu", 60.0)
    assert row.step_seconds is not None
    assert row.prediction_seconds is not None
    assert 0 < row.prediction_seconds < row.step_seconds


def test_heads_of_objects_have_the_labels_of_the_invented_images(monkeypatch):
    """One label was asked for, and noise has two."""
    listed, _refused = list_networks((32, 32), 1, 2, Listing("cpu", ["unet"], "mask_rcnn"))
    timed = []

    def refuse(configuration, *_rest):
        timed.append(configuration.network)
        raise MemoryError

    monkeypatch.setattr("autoseg.training.probe._training_seconds", refuse)
    [row] = time_networks(listed[:1], "cpu", 60.0)
    assert row.step_seconds is None
    assert timed[0].output_channels == 3
    assert timed[0].detection.num_labels == 2
