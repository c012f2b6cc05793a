"""The exported files suffice: a predictor of scipy, scikit-image and ONNX Runtime, from them alone."""

import json
from itertools import chain, combinations, product
from math import ceil

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as label_components
from skimage.transform import resize

from autoseg.cli.main import UNUSABLE, main
from autoseg.records.files import read_record, write_record
from autoseg.records.manifest import Manifest
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.records.sides import Sides
from autoseg.stages.export import ExportOptions
from autoseg.stages.export_onnx import export_onnx
from autoseg.stages.predict import PredictionOptions, Predictor
from tests.builders import CASCADE, REGIONS, make_cascade_plan, make_plan, write_model

SHAPE, SPACING = (9, 21, 26), (2.5, 1.0, 0.7)  # (z, y, x), superior, posterior, left


@pytest.fixture
def runtime():
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra `onnx`)")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")


def make_image(channels):
    noise = np.random.default_rng(4).normal(size=(channels, *SHAPE))
    blobs = np.stack([ndimage.gaussian_filter(one, 1.5) for one in noise]).astype(np.float32) * 100
    blobs[:, :, :3] = 0
    return blobs


class FilesPredictor:
    """Follows docs/onnx.md; knows nothing but the folder."""

    def __init__(self, folder, runtime):
        self.records = [json.loads(path.read_text()) for path in sorted(folder.glob("*_fold_*.json"))]
        self.sessions = {
            record["file"]: runtime.InferenceSession(folder / record["file"], providers=["CPUExecutionProvider"])
            for record in self.records
        }

    def record_of(self, configuration):
        return next(one for one in self.records if one["configuration"] == configuration)

    def predict(self, image, spacing):
        (selected,) = self.records[0]["selected"]
        record = self.record_of(selected)
        order = record["transpose"]
        self.image = image.transpose(0, *(axis + 1 for axis in order))
        self.spacing = [spacing[axis] for axis in order]
        nonzero = ndimage.binary_fill_holes((self.image != 0).any(axis=0))
        (self.box,) = ndimage.find_objects(nonzero.astype(int))
        logits, grid_spacing = self.logits(record)
        cropped_shape = self.image[0][self.box].shape
        decision = decide_by_expected_dice if record["decision"] == "expected-dice" else decide
        labels = decision(resample(logits, cropped_shape, grid_spacing, self.spacing, record, "logits_order"), record)
        for step in record["postprocessing"]:
            labels = keep_largest(labels, step["labels"], record)
        volume = np.zeros(self.image.shape[1:], dtype=int)
        volume[self.box] = np.array(record["encoding"]["values"])[labels]
        return volume.transpose(np.argsort(order))

    def logits(self, record):
        """On the network's grid, and its spacing."""
        cropped = self.image[:, *self.box].astype(np.float64)
        for channel, spec in zip(cropped, record["settings"]["normalization"], strict=True):
            if spec["scheme"] == "ct":
                channel[:] = (channel.clip(spec["lower"], spec["upper"]) - spec["mean"]) / spec["std"]
            elif not channel.any():
                assert record["presence_planes"]
            else:
                assert (spec["scheme"], spec["use_mask"]) == ("zscore", False)
                channel[:] = (channel - channel.mean()) / channel.std()
        target = [self.spacing[0]][: 3 - len(record["settings"]["spacing"])] + record["settings"]["spacing"]
        shape = [round(n * old / new) for n, old, new in zip(cropped.shape[1:], self.spacing, target, strict=True)]
        grid = resample(cropped, shape, self.spacing, target, record, "image_order")
        if record["settings"]["previous_configuration"] is not None:
            earlier = self.record_of(record["settings"]["previous_configuration"])
            logits, spacing = self.logits(earlier)
            labels = decide(resample(logits, shape, spacing, target, earlier, "logits_order"), earlier)
            grid = np.concatenate([grid, *(labels[None] == index for index in record["previous_label_indices"])])
        return self.slide(record, grid.astype(np.float32)), target

    def slide(self, record, grid):
        windows = record["windows"]
        patch = [1] * (3 - len(windows["patch_size"])) + windows["patch_size"]
        lack = [max(0, p - n) for p, n in zip(patch, grid.shape[1:], strict=True)]
        padded = np.pad(grid, [(0, 0), *((one // 2, one - one // 2) for one in lack)])
        weight = gaussian(windows).reshape(patch)
        total = np.zeros((record["output"]["shape"][1], *padded.shape[1:]))
        weights = np.zeros(padded.shape[1:])
        places = [
            range(n) if p == 1 else starts(n, p, windows["overlap"])
            for n, p in zip(padded.shape[1:], patch, strict=True)
        ]
        for corner in product(*places):
            box = tuple(slice(first, first + p) for first, p in zip(corner, patch, strict=True))
            total[:, *box] += weight * self.mean_logits(record, padded[:, *box].reshape(-1, *windows["patch_size"]))[
                :
            ].reshape(-1, *patch)
            weights[box] += weight
        inside = tuple(slice(one // 2, one // 2 + n) for one, n in zip(lack, grid.shape[1:], strict=True))
        return (total / weights)[:, *inside]

    def mean_logits(self, record, window):
        present = [float(self.image[c].any()) for c, _ in enumerate(record.get("presence_planes", ()))]
        window = np.concatenate([window, *(np.full_like(window[:1], value) for value in present)])
        axes = record["windows"]["mirror_axes"]
        subsets = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
        answers = []
        for file in record["fold_files"]:
            for subset in subsets:
                flipped = tuple(axis + 1 for axis in subset)
                swap = record["windows"].get("swap")
                swap = swap if swap is not None and swap["axis"] in subset else None
                patch = np.ascontiguousarray(np.flip(window, flipped))[None]
                if swap is not None and swap["previous_label_indices"]:
                    first = patch.shape[1] - len(record["previous_label_indices"])
                    sources = [record["previous_label_indices"].index(i) for i in swap["previous_label_indices"]]
                    patch = np.concatenate([patch[:, :first], patch[:, first:][:, sources]], axis=1)
                (logits,) = self.sessions[file].run(["logits"], {"image": patch})
                answers.append(np.flip(logits[0] if swap is None else logits[0][swap["heads"]], flipped))
        return np.mean(answers, axis=0, dtype=np.float64)


def starts(n, p, overlap):
    steps = ceil((n - p) / (p * (1 - overlap)))
    return [round(i * (n - p) / steps) for i in range(steps + 1)] if steps else [0]


def gaussian(windows):
    impulse = np.zeros(windows["patch_size"])
    impulse[tuple(edge // 2 for edge in windows["patch_size"])] = 1
    blurred = ndimage.gaussian_filter(
        impulse, windows["gaussian_sigma"], mode="constant", truncate=windows["gaussian_truncation"]
    )
    return np.maximum(blurred / blurred.max(), windows["smallest_weight"])


def resample(array, shape, spacing, target, record, order_name):
    """(C, Z, Y, X), clipped to the range of what is resampled together, as scikit-image does it."""
    rules = record["settings"]["resampling"]
    order, threshold = rules[order_name], rules["anisotropy_threshold"]
    assert rules["separate_through_plane"] == "auto"
    separate = None
    for candidate in (spacing, target):
        if max(candidate) / min(candidate) > threshold:
            separate = candidate.index(max(candidate)) if candidate.count(max(candidate)) == 1 else None
            break
    options = {"order": order, "mode": "edge", "anti_aliasing": False, "preserve_range": True, "clip": True}
    if separate is None:
        return np.stack([resize(one, shape, **options) for one in array])
    plane = [n for axis, n in enumerate(shape) if axis != separate]
    moved = np.moveaxis(array, separate + 1, 1)
    slices = np.stack([[resize(one, plane, **options) for one in channel] for channel in moved])
    assert rules["through_plane_order"] == 0
    scale = slices.shape[1] / shape[separate]
    nearest = [min(slices.shape[1] - 1, int(np.floor((i + 0.5) * scale))) for i in range(shape[separate])]
    return np.moveaxis(slices[:, nearest], 1, separate + 1)


def decide(logits, record):
    heads = record["encoding"]["heads"]
    if record["encoding"]["activation"] == "softmax":
        return np.array([head["painted_index"] for head in heads])[logits.argmax(axis=0)]
    labels = np.zeros(logits.shape[1:], dtype=int)
    for head, values in zip(heads, logits, strict=True):
        labels[values > 0] = head["painted_index"]
    return labels


def decide_by_expected_dice(logits, record):
    """Labels, not regions: from the most probable voxels of each, as many as docs/onnx.md says."""
    heads = record["encoding"]["heads"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    labels, best = np.zeros(logits.shape[1:], dtype=int), np.zeros(logits.shape[1:])
    for number, (head, own) in enumerate(zip(heads, probabilities, strict=True)):
        ordered = np.sort(own, axis=None)[::-1]
        dice = 2 * np.cumsum(ordered) / (np.arange(1, ordered.size + 1) + ordered.sum())
        taken = int(dice.argmax()) + 1
        gain = (own - ordered[taken - 1]) / (taken + ordered.sum())
        if dice.max() <= 1 - ordered[0]:
            gain = np.where(probabilities.argmax(axis=0) == number, np.inf, -1)
        if head["indices"] != [0]:
            wanted = gain > best
            labels[wanted], best[wanted] = head["painted_index"], gain[wanted]
    return labels


def keep_largest(labels, names, record):
    indices = [i for head in record["encoding"]["heads"] if head["name"] in names for i in head["indices"]]
    union = np.isin(labels, indices)
    components = label_components(union, connectivity=3)
    sizes = np.bincount(components[union])
    return np.where(union & (sizes[components] < sizes.max()), 0, labels)


def cascade_model(folder):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2), channel_names=("T1", "T2"), transpose=(1, 0, 2))
    sides = Sides(axis=2, pairs=(("anterior", "posterior"),))
    workspace = write_model(folder, plan, {"3d_lowres": ("0",), CASCADE: ("0",)}, mirror_axes=(0, 2), sides=sides)
    selection = Selection(
        configurations=(CASCADE,), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=(),
        postprocessing=(KeepLargestComponent(labels=("anterior", "posterior")),),
    )  # fmt: skip
    write_record(selection, workspace.selection)
    return workspace


def flat_model(folder):
    plan = make_plan({"2d": (1.1, 0.9)}, labels=REGIONS)
    ct = plan.configurations["2d"].normalization[0].model_copy(
        update={"scheme": "ct", "mean": 1.5, "std": 12.0, "lower": -20.0, "upper": 15.0}
    )  # fmt: skip
    configuration = plan.configurations["2d"].model_copy(update={"normalization": (ct,)})
    plan = plan.model_copy(update={"configurations": {"2d": configuration}})
    return write_model(folder, plan, {"2d": ("0", "1")})


def pretrained_model(folder):
    """The network of `pretrained-2d`, with weights that nobody trained."""
    plan = make_plan({"2d": (1.1, 0.9)}, labels=REGIONS)
    network = plan.configurations["2d"].network.model_copy(
        update={
            "architecture": "efficientnet_unet", "features": (4, 6, 24), "strides": ((1, 1), (2, 2), (2, 2)),
            "kernel_sizes": ((3, 3),) * 3, "encoder_blocks": (1, 1, 2), "decoder_blocks": (1, 1),
        }
    )  # fmt: skip
    configuration = plan.configurations["2d"].model_copy(update={"network": network})
    plan = plan.model_copy(update={"configurations": {"2d": configuration}})
    return write_model(folder, plan, {"2d": ("0", "1")})


def lacking_model(folder):
    """Of channels that may be missing."""
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, channel_names=("T1", "T2"))
    configuration = plan.configurations["3d_fullres"]
    network = configuration.network.model_copy(update={"input_channels": 4})
    changes = {"network": network, "channel_presence": True}
    plan = plan.model_copy(update={"configurations": {"3d_fullres": configuration.model_copy(update=changes)}})
    return write_model(folder, plan, {"3d_fullres": ("0", "1")})


def decided_model(folder):
    workspace = cascade_model(folder)
    selection = read_record(Selection, workspace.selection)
    write_record(selection.model_copy(update={"decision": "expected-dice"}), workspace.selection)
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "channels", "most_differing"),
    [
        (cascade_model, 2, 1),
        (flat_model, 1, 1),
        (pretrained_model, 1, 1),
        (decided_model, 2, 60),
        (lacking_model, 2, 1),
    ],  # of 4914; the cut lies between two bins
)
def test_the_files_suffice_to_predict_the_same_label_map(runtime, tmp_path, make, channels, most_differing):
    workspace = make(tmp_path / "model")
    manifest = export_onnx(workspace.root, tmp_path / "onnx", ExportOptions(license="MIT"))
    image = make_image(channels)
    image[0] *= make is not lacking_model
    expected = (
        Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))
        .predict(image, spacing=SPACING)
        .labels
    )
    found = FilesPredictor(tmp_path / "onnx", runtime).predict(image, SPACING)
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(found != expected) <= most_differing  # float32 sums of another order may decide a tie
    (record, *_) = FilesPredictor(tmp_path / "onnx", runtime).records
    assert record["schema_version"] == {flat_model: 2, pretrained_model: 2, lacking_model: 5}.get(make, 3)
    assert record["windows"]["overlap"] == PredictionOptions().overlap
    written = Manifest.model_validate_json((tmp_path / "onnx" / "manifest.json").read_text())
    assert (written, written.format, written.license) == (manifest, "onnx", "MIT")
    names = {path.name for path in (tmp_path / "onnx").iterdir()}
    assert names == {*manifest.files, "manifest.json"}
    assert len(manifest.files) == 4
    session = runtime.InferenceSession(tmp_path / "onnx" / record["file"], providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert (told["configuration"], told["fold"]) == (record["configuration"], record["fold"])
    assert (told["plan_hash"], told["license"]) == (manifest.plan_hash, "MIT")
    assert str(tmp_path) not in str(told)


def test_a_missing_package_is_said_before_anything_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", pytest)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", pytest)
    assert main(["export", str(tmp_path), "--format", "onnx", "-o", str(tmp_path / "onnx")]) == UNUSABLE
    error = capsys.readouterr().err
    assert error.startswith("autoseg export: --format onnx needs a package that is not installed")
    assert error.rstrip().endswith("pip install onnx onnxruntime onnxscript")
