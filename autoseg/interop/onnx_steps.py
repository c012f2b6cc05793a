"""In words: how another program predicts with an exported network and the constants beside it."""

from collections.abc import Iterator

from autoseg.records.plan import Configuration, Plan
from autoseg.records.selection import (
    FillHoles,
    KeepLargestComponent,
    PostprocessingStep,
    RemoveSmallComponents,
    Selection,
)


def list_steps(plan: Plan, configuration: Configuration, selection: Selection) -> tuple[str, ...]:
    """One sentence or two per step, in order, naming the fields of the JSON file that each one is about."""
    return (
        *_before(plan, configuration),
        *_network(configuration),
        *_after(plan, configuration, selection),
    )


def _before(plan: Plan, configuration: Configuration) -> Iterator[str]:
    yield "Read the image as (channels, z, y, x), float32, channels as in `channel_names`."
    if plan.orientation == "canonical":
        yield (
            "Permute and flip the axes, without resampling, so that z runs towards superior, y towards posterior, x "
            "towards left."
        )
    elif plan.orientation == "canonical_ras":
        yield (
            "Permute and flip the axes, without resampling, so that z runs towards superior, y towards anterior, x "
            "towards right."
        )
    yield "Transpose: new axis i is axis `transpose[i]`; the spacing likewise. All that follows is in this order."
    yield (
        "Crop to the bounding box of voxels that are nonzero in any channel; the nonzero mask is these voxels and the "
        "holes that they enclose (face neighbours). Without any, nothing is cropped."
    )
    yield (
        "Normalise each channel by `settings.normalization`: zscore subtracts the mean and divides by the population "
        "standard deviation, with use_mask inside the nonzero mask and zero outside; ct clips to [lower, upper], "
        "subtracts mean and divides by std; rescale_0_1 maps the smallest value to 0 and the largest to 1; rgb_0_1 "
        "divides by 255; none does nothing. No divisor is smaller than `smallest_divisor`."
    )
    kept = "" if configuration.network.dimensions == 3 else " along y and x; slices stay"
    yield (
        f"Resample to `settings.spacing`{kept} by `settings.resampling`: new size round(old size * old spacing / "
        "spacing), at least 1 (half to even); voxels are areas, so the image's outer borders stay. Spline of order "
        "image_order, edge values beyond the border, each channel clipped to its own range. With "
        "separate_through_plane auto, where the largest spacing is more than anisotropy_threshold times the smallest "
        "(of the image, else of the target), that axis, if it is alone in this, is resampled after the others with "
        "through_plane_order, and values are clipped slice by slice; always: the axis of the image's largest spacing; "
        "never: none."
    )


def _network(configuration: Configuration) -> Iterator[str]:
    if configuration.previous_configuration is not None and configuration.previous_labels == "label_map":
        yield (
            "Predict the label map of the whole image with the networks of `settings.previous_configuration` first, "
            "transpose and crop it as the image, resample it to this grid (each label's mask by label_order, the "
            "largest share decides), and append one 0/1 channel for each of `previous_label_indices`."
        )
    elif configuration.previous_configuration is not None:
        yield (
            "Predict with the networks of `settings.previous_configuration` first, resample their logits to this grid "
            "(orders as below), decide, and append one 0/1 channel for each of `previous_label_indices`."
        )
    yield "Pad axes shorter than the patch with zeros on both sides, the odd voxel at the end."
    yield (
        "Cut windows of `windows.patch_size`. Along an axis of n voxels with patch p: s = ceil((n - p) / (p * (1 - "
        "overlap))) steps, starts round(i * (n - p) / s) for i = 0..s (half to even); only 0 if n = p."
    )
    yield (
        "Run the networks of all `fold_files` on each window and on its mirrored variants (all subsets of "
        "`windows.mirror_axes`), mirror back, and take the mean of all logits."
    )
    yield (
        "Blend: the sum of weight * logits over windows, divided by the sum of weights. The weight is a Gaussian of "
        "`windows.gaussian_sigma`, centred at patch_size // 2, zero beyond gaussian_truncation sigmas, scaled to a "
        "largest value of 1, then not smaller than smallest_weight. Remove the padding."
    )
    if configuration.logits_precision == "float16":
        yield "Round the blended logits to float16."


def _after(plan: Plan, configuration: Configuration, selection: Selection) -> Iterator[str]:
    if len(selection.configurations) > 1:
        yield "Where `selected` names several configurations, average their probabilities on the cropped grid."
    yield (
        "Resample the logits of each head to the cropped box: order logits_order, along a separate axis (rule as "
        "above, from the network's spacing to the image's) through_plane_order; voxels are areas, edge values beyond "
        "the border."
    )
    if plan.encoding.activation == "softmax":
        yield "Decide by the largest head, the first of equals; the label index is the head's painted_index."
    else:
        yield (
            "Start with index 0. In the order of the heads, write the head's painted_index where its logit is above 0 "
            "(probability above one half)."
        )
    if selection.region_thresholds:
        yield (
            "In the final label map, not in what a next stage gets, a region in `region_thresholds` is written where "
            "its probability is above that value p instead: its logit above log(p / (1 - p))."
        )
    yield "Put the box back into a volume of background, undo the transpose, and then the change of orientation."
    if selection.refinement is not None:
        yield "autoseg itself refines boundaries here with networks that are not exported: surfaces differ slightly."
    for step in selection.postprocessing:
        yield _postprocessing(step)
    yield "Write encoding.values[index] for each label index."


def _postprocessing(step: PostprocessingStep) -> str:
    match step:
        case KeepLargestComponent():
            return (
                "Keep only the largest connected component (26 neighbours) of the union of "
                f"{', '.join(step.labels)}; equal ones stay; the rest becomes background."
            )
        case RemoveSmallComponents():
            return (
                f"Make background of every connected component (26 neighbours) of the union of "
                f"{', '.join(step.labels)} whose volume is below {step.min_volume_mm3:g} mm³; equal ones stay. A "
                "voxel's volume is the product of the image's spacings; of a file with two axes it is the area of a "
                "pixel in mm², of a picture 1."
            )
        case FillHoles():
            return (
                f"Give {step.label} (its head's painted_index) the background that it encloses: of what does not "
                "belong to it, the components by faces (6 neighbours, 4 in a single slice) that do not reach the "
                "border; other labels in there stay."
            )
