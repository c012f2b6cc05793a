"""Processes that train together: two of them on the CPU do what one does with the whole batch."""

import json
import subprocess
import sys
from contextlib import closing

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import spawn

from autoseg.errors import UsageError
from autoseg.training import distributed
from autoseg.training.data.batch import Share
from autoseg.training.distributed import Ranks, device_of_process, join_ranks, leave
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.run import Clock
from tests.builders import make_network_spec
from tests.training.small_cases import ENCODING, make_configuration, make_stored_case, open_loader
from tests.training.small_runs import CPU, start_on_cpu

STEPS = 5


def three_levels(batch_size, **training):
    """Deep supervision with a lowest head that gets no gradient."""
    configuration = make_configuration((8, 16, 12), batch_size=batch_size)
    strides = ((1, 1, 1), (2, 2, 2), (1, 2, 2))
    network = make_network_spec(input_channels=2, features=(4, 6, 8), strides=strides)
    spec = configuration.training.model_copy(update={"steps_per_epoch": 1, "validation_steps": 2, **training})
    return configuration.model_copy(update={"network": network, "training": spec})


def train_a_little(ranks, folder, batch_size, training):
    """Five steps and a validation; the figures go into a file per process."""
    configuration = three_levels(batch_size, **training)
    cases = {name: make_stored_case(name, (9, 17, 13), seed=seed) for seed, name in enumerate("abc")}
    run = start_on_cpu(configuration, ENCODING, ranks=ranks, seed=3)
    clock = Clock(total_steps=20, limit_seconds=None)

    share = Share(ranks.rank, ranks.count)
    training_batches = open_loader(cases, configuration, seed=1, share=share)
    validation_batches = open_loader(cases, configuration, seed=1, share=share, training=False)
    with closing(training_batches) as batches, closing(validation_batches) as held_out:
        losses = [train_epoch(run, batches, clock, lambda _step: None).mean_loss for _ in range(STEPS)]
        validation_loss, pseudo_dice = validate_epoch(run, held_out, clock)
    figures = {"losses": losses, "validation_loss": validation_loss, "pseudo_dice": pseudo_dice}
    (folder / f"figures_{ranks.rank}_of_{ranks.count}.json").write_text(json.dumps(figures))
    weights = {name: value.contiguous() for name, value in run.network.state_dict().items()}
    save_file(weights, folder / f"weights_{ranks.rank}_of_{ranks.count}.safetensors")


def in_process(rank, count, folder, function, *arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        with join_ranks(CPU) as ranks:
            function(ranks, folder, *arguments)
    finally:
        dist.destroy_process_group()
    leave(0)  # as the command does; an exception goes up to `spawn`


def read_figures(folder, rank, count):
    figures = json.loads((folder / f"figures_{rank}_of_{count}.json").read_text())
    return figures, load_file(folder / f"weights_{rank}_of_{count}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "training"),
    [
        (2, {"batch_dice": False}),
        (3, {"batch_dice": True}),
        (3, {"batch_dice": False, "loss": "exp_log", "learning_rate": 1e-3}),
    ],
)
def test_two_processes_train_as_one_does_with_the_whole_batch(tmp_path, batch_size, training):
    spawn(in_process, (2, tmp_path, train_a_little, batch_size, training), nprocs=2)
    train_a_little(Ranks(), tmp_path, batch_size, training)
    expected, expected_weights = read_figures(tmp_path, 0, 1)
    for rank in range(2):
        figures, weights = read_figures(tmp_path, rank, 2)
        assert figures["losses"] == pytest.approx(expected["losses"], abs=1e-5)
        assert figures["validation_loss"] == pytest.approx(expected["validation_loss"], abs=1e-5)
        assert figures["pseudo_dice"] == pytest.approx(expected["pseudo_dice"], abs=1e-3)
        for name, value in expected_weights.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)


def talk(ranks, folder):
    heard = {
        "first": ranks.is_first,
        "sum": ranks.sum(torch.tensor([1.0, 10.0]) * (ranks.rank + 1)).tolist(),
        "numbers": ranks.broadcast_numbers([4.0, 0.5] if ranks.is_first else [0.0, 0.0]),
        "agreed": ranks.agree(0.25 + ranks.rank, stop=ranks.rank == 1),
    }
    ranks.barrier()
    (folder / f"heard_{ranks.rank}.json").write_text(json.dumps(heard))


@pytest.mark.slow
def test_processes_agree_on_the_first_ones_clock_and_on_anybodys_stop(tmp_path):
    spawn(in_process, (2, tmp_path, talk), nprocs=2)
    heard = [json.loads((tmp_path / f"heard_{rank}.json").read_text()) for rank in range(2)]
    assert [answer.pop("first") for answer in heard] == [True, False]
    assert heard[0] == heard[1] == {"sum": [3.0, 30.0], "numbers": [4.0, 0.5], "agreed": [0.25, True]}


def test_leaving_says_everything_and_runs_nothing_more():
    script = (
        "import atexit, sys; from autoseg.training.distributed import leave; atexit.register(print, 'too late');"
        "print('last words', end=''); print('and errors', end='', file=sys.stderr); leave(3)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (3, "last words", "and errors")


def test_a_process_alone_needs_nobody():
    with join_ranks(CPU) as ranks:
        assert ranks.is_first
        tensor = torch.ones(2, requires_grad=True)
        assert ranks.sum(tensor) is tensor
        assert ranks.broadcast_numbers([1.0, 2.0]) == [1.0, 2.0]
        assert ranks.agree(0.5, stop=True) == (0.5, True)
        ranks.barrier()
    assert not dist.is_initialized()
    assert device_of_process(torch.device("cuda:1")) == torch.device("cuda:1")
    assert distributed.is_first_process()


def test_processes_know_how_many_of_them_share_the_machine(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 5)
    monkeypatch.setattr(dist, "get_world_size", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # torchrun's: two machines
    with join_ranks(CPU) as ranks:
        assert ranks == Ranks(rank=5, count=6, count_here=4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with join_ranks(CPU) as ranks:
        assert ranks.count_here == 6
    assert Ranks().count_here == 1


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(distributed, "is_launched", lambda: True)
    monkeypatch.setattr(dist, "get_node_local_rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device_of_process(torch.device("cuda")) == torch.device("cuda:1")
    assert device_of_process(CPU) == CPU
    with pytest.raises(UsageError, match=r"cuda:0 names one GPU.*--device cuda"):
        device_of_process(torch.device("cuda:0"))
    with pytest.raises(UsageError, match="device mps trains in one process; leave --devices out"):
        device_of_process(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes of this machine need a GPU each, and it has 1"):
        device_of_process(torch.device("cuda"))
