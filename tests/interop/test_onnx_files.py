"""Networks in ONNX: written, compared with the original by ONNX Runtime, and refused when they differ."""

import sys

import numpy as np
import pytest
import torch

from autoseg.errors import InteropError, UsageError
from autoseg.interop import onnx_files
from autoseg.interop.onnx_files import check_packages, write_onnx
from autoseg.networks.build import build_network
from autoseg.records.network import BranchSpec, NetworkSpec


@pytest.fixture
def runtime():
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra `onnx`)")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")


def make_network(architecture, dimensions, **changes):
    """Anisotropic strides and kernels, more blocks than one; every kind of layer of the architecture."""
    flat = (1,) * (dimensions - 2)
    blocks = {"unext": ((1, 1, 1), (1, 1)), "hrnet": ((1, 1, 2), (1, 1))}.get(architecture, ((2, 1, 2), (1, 2)))
    spec = NetworkSpec(
        architecture=architecture, dimensions=dimensions, input_channels=2, output_channels=3, features=(6, 6, 10),
        strides=((1,) * dimensions, (*flat, 2, 2), (2,) * dimensions),
        kernel_sizes=((*flat, 3, 3), (3,) * dimensions, (3,) * dimensions),
        encoder_blocks=blocks[0], decoder_blocks=blocks[1], **changes,
    )  # fmt: skip
    torch.manual_seed(3)
    network = build_network(spec, deep_supervision=False)
    with torch.no_grad():  # normalisation layers that do nothing would hide a mistake in them
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "dimensions", "changes"),
    [
        ("unet", 2, {}),
        ("unet", 3, {}),
        ("residual_unet", 3, {}),
        ("unext", 2, {"token_levels": 1}),
        ("unext", 3, {"token_levels": 1}),
        ("unet", 2, {"block": "multires", "skip": "gate", "attention": "mixed", "bottleneck": "pyramid"}),
        ("unet", 3, {"block": "mednext", "skip": "nested", "bottleneck": "atrous_nonlocal"}),
        ("mednext", 2, {"expansions": (2, 3, 2)}),
        ("mednext", 3, {"expansions": (2, 1, 3), "response_normalization": True}),
        ("unet", 3, {"block": "factorized", "skip": "respath", "attention": "channel"}),
        ("unet", 2, {"block": "recurrent", "attention": "spatial", "bottleneck": "nonlocal"}),
        ("unet", 3, {"block": "dense", "bottleneck": "atrous"}),
        ("residual_unet", 2, {"head": "points", "coarse_level": 1, "independent_heads": True}),
        ("hrnet", 2, {"branches": BranchSpec(first_blocks=1, modules=(1, 1), joined_features=8)}),
        ("hrnet", 3, {"branches": BranchSpec(stem_levels=1, first_blocks=1, modules=(2,), joined_features=8)}),
        ("hrnet", 3, {"branches": BranchSpec(first_blocks=1, modules=(1, 1))}),
    ],
)
def test_onnx_runtime_gives_the_same_logits(runtime, tmp_path, architecture, dimensions, changes):
    network = make_network(architecture, dimensions, **changes)
    size = (12, 20, 28)[-dimensions:]
    _, parity = write_onnx(network, (2, *size), tmp_path / "network.onnx")
    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    patches = 5 * np.random.default_rng(1).normal(size=(3, 2, *size)).astype(np.float32) + 1
    (found,) = session.run(["logits"], {"image": patches})
    with torch.inference_mode():
        expected = network(torch.from_numpy(patches)).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert parity.onnxruntime_version == runtime.__version__
    assert 0 <= parity.largest_difference < 0.1 * parity.tolerance
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    content = (tmp_path / "network.onnx").read_bytes()
    assert not any(word in content for word in (b".py", b"site-packages", str(tmp_path).encode()))


@pytest.mark.slow
@pytest.mark.usefixtures("runtime")
def test_a_point_head_in_3d_stays_within_the_tolerance(tmp_path):
    """Its corrections fade with the margins of other voxels, which makes differences of rounding larger."""
    network = make_network("unet", 3, head="points", coarse_level=1)
    _, parity = write_onnx(network, (2, 12, 20, 28), tmp_path / "network.onnx")
    assert 0 <= parity.largest_difference < 0.5 * parity.tolerance


@pytest.mark.slow
def test_a_network_that_comes_out_otherwise_is_refused(runtime, tmp_path, monkeypatch):
    network = make_network("unet", 2)
    monkeypatch.setattr(onnx_files, "PARITY_TOLERANCE", 1e-12)
    with pytest.raises(InteropError, match=r"network.onnx: logits of ONNX Runtime differ by up to .*not kept"):
        write_onnx(network, (2, 20, 28), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_sentence(monkeypatch, package):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    message = rf"--format onnx needs a package that is not installed \(.*{package}.*\); pip install onnx onnxruntime"
    with pytest.raises(UsageError, match=message):
        check_packages()
