"""What nnU-Net itself planned, as numbers, and the same numbers of a plan of ours.

Each file of tests/golden/nnunet holds, per dataset, the `input` (groups of [count, spacing, cropped shape] and whatever
is not the default), what the four planners agree on (`transpose`, `normalization`, `use_mask`), and a row per planner
and configuration. Axes follow the transpose. `strides`, `kernels`, `features` and the blocks of `encoder` and `decoder`
are written level by level, repeats counted: "111 122 222*3". `elements` is nnU-Net's feature-map size at batch 1.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autoseg.records.budget import Budget, Overrides
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.testing import synthetic_fingerprint

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "nnunet"
PLANNERS = ("unet", "resenc-m", "resenc-l", "resenc-xl")
DECIDED_BY_ALL = ("transpose", "normalization", "use_mask")

Values = dict[str, Any]


def read_values(name: str) -> dict[str, Values]:
    values: dict[str, Values] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return values


def make_fingerprint(source: Values) -> Fingerprint:
    cases = [(tuple(spacing), tuple(shape)) for count, spacing, shape in source["groups"] for _ in range(count)]
    return synthetic_fingerprint(
        [spacing for spacing, _ in cases],
        [shape for _, shape in cases],
        channel_names=source.get("channels", ["MR"]),
        label_values=range(source.get("labels", 2)),
        regions=source.get("regions", False),
        ignore=source.get("ignore", False),
    ).model_copy(update={"median_cropped_fraction": source.get("cropped_fraction", 1.0)})


def make_budget(source: Values) -> Budget:
    overrides = Overrides(spacing=tuple(source["spacing"])) if "spacing" in source else Overrides()
    return Budget(memory_gigabytes=source.get("memory"), overrides=overrides)


def expected_values(dataset: Values, planner: str) -> Values:
    """One flat dictionary: field -> value."""
    rows = dataset["planners"][planner]
    fields = {f"{name}.{key}": value for name, row in rows.items() for key, value in row.items()}
    return {"configurations": sorted(rows), **{key: dataset[key] for key in DECIDED_BY_ALL}, **fields}


def planned_values(plan: Plan) -> Values:
    """The same dictionary from a plan of ours."""
    (normalization,) = {made.normalization for made in plan.configurations.values()}
    fields = {
        f"{name}.{key}": value for name, made in plan.configurations.items() for key, value in planned_row(made).items()
    }
    return {
        "configurations": sorted(plan.configurations),
        "transpose": list(plan.transpose),
        "normalization": [spec.scheme for spec in normalization],
        "use_mask": [spec.use_mask for spec in normalization],
        **fields,
    }


def planned_row(made: Configuration) -> Values:
    if made.previous_configuration is not None:
        return {"inherits": made.preprocessed_as, "previous": made.previous_configuration}
    network = made.network
    return {
        "patch": list(made.patch_size),
        "batch": made.batch_size,
        "spacing": list(made.spacing),
        "shape": list(made.median_shape),
        "strides": write_levels("".join(map(str, stride)) for stride in network.strides),
        "kernels": write_levels("".join(map(str, kernel)) for kernel in network.kernel_sizes),
        "features": write_levels(network.features),
        "encoder": write_levels(network.encoder_blocks),
        "decoder": write_levels(network.decoder_blocks),
        "batch_dice": made.training.batch_dice,
        "elements": made.estimates.feature_map_elements,
    }


def write_levels(entries: Iterable[object]) -> str:
    """Example: 2, 2, 1 -> "2*2 1"."""
    runs = ((text, len(list(group))) for text, group in itertools.groupby(map(str, entries)))
    return " ".join(text if count == 1 else f"{text}*{count}" for text, count in runs)


def list_differences(theirs: Values, ours: Values) -> list[str]:
    keys: Sequence[str] = sorted(theirs.keys() | ours.keys())
    return [
        f"{key}: nnU-Net {theirs.get(key)}, autoseg {ours.get(key)}" for key in keys if theirs.get(key) != ours.get(key)
    ]
