"""How the intensities of each channel are normalised.

Called once per plan; the channel's name decides.

Example: channels CT and PET, images cropped to 60 % of their voxels: the CT is clipped to the 0.5 and 99.5 percentile
of the foreground over the dataset and scaled by its mean and standard deviation; the PET gets a z-score per image,
inside the nonzero mask. A model of channels T1 and T2 adopted for images of channels T2 and FLAIR: T2 keeps the
model's normalisation, FLAIR gets the one that its own name and data ask for.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): intensity normalisation by modality.
"""

from collections.abc import Sequence
from typing import Literal

from autoseg.records.budget import AdoptedModel
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.network import NormalizationSpec
from planners.rules import Decided

Scheme = Literal["zscore", "ct", "rescale_0_1", "rgb_0_1", "none"]

SCHEMES: dict[str, Scheme] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_0_1",
    "rgb_to_0_1": "rgb_0_1",
}
"""Scheme by channel name in lower case; every other name means a z-score, because its scale means nothing."""

MASK_THRESHOLD = 0.75
"""Where cropping leaves a smaller median fraction of voxels, the empty surroundings would dominate the statistics."""

REASONS: dict[Scheme, str] = {
    "ct": "CT numbers mean the same in every scan, so all cases share one clip range, mean and standard deviation",
    "none": "the channel is called noNorm, so its values are left alone",
    "zscore": "the intensity scale differs from image to image, so each image gets mean 0 and standard deviation 1",
    "rescale_0_1": "the channel is called rescale_to_0_1",
    "rgb_0_1": "the channel is called rgb_to_0_1, so its bytes are divided by 255",
}


def choose_normalization(
    channel_names: Sequence[str], intensities: Sequence[IntensityStatistics], median_cropped_fraction: float
) -> Decided[tuple[NormalizationSpec, ...]]:
    """One scheme per channel; a z-score looks inside the nonzero mask only where cropping removed much.

    Args:
        channel_names: Names in channel order; upper or lower case.
        intensities: Foreground statistics over the dataset, per channel.
        median_cropped_fraction: Median over cases of voxels left after cropping, [0, 1].

    Returns:
        The specifications, with the reason for the schemes; `choose_masks` has the one for the masks.
    """
    use_mask = median_cropped_fraction < MASK_THRESHOLD
    specs = tuple(
        _specify(name, statistics, use_mask=use_mask)
        for name, statistics in zip(channel_names, intensities, strict=True)
    )
    reasons = dict.fromkeys(f"{spec.scheme}: {REASONS[spec.scheme]}" for spec in specs)
    return Decided(specs, "; ".join(reasons) + ".")


def choose_masks(specs: Sequence[NormalizationSpec], median_cropped_fraction: float) -> Decided[tuple[bool, ...]]:
    """Whether the statistics of each channel's z-score are taken inside the nonzero mask."""
    masks = tuple(spec.use_mask for spec in specs)
    if all(spec.scheme != "zscore" for spec in specs):
        return Decided(masks, "Only a z-score could use the mask.")
    left = f"Cropping to nonzero leaves {median_cropped_fraction:.0%} of the voxels"
    if any(masks):
        reason = f"{left}, less than {MASK_THRESHOLD:.0%}, so a z-score looks at voxels inside the nonzero mask only."
    else:
        reason = f"{left}, at least {MASK_THRESHOLD:.0%}, so a z-score looks at the whole image."
    return Decided(masks, reason)


def _specify(name: str, statistics: IntensityStatistics, *, use_mask: bool) -> NormalizationSpec:
    scheme = SCHEMES.get(name.lower(), "zscore")
    return NormalizationSpec(
        scheme=scheme,
        use_mask=use_mask and scheme == "zscore",
        mean=statistics.mean,
        std=statistics.std,
        lower=statistics.percentile_00_5,
        upper=statistics.percentile_99_5,
    )


def adopt_normalization(
    model: AdoptedModel, channel_names: Sequence[str], own: Sequence[NormalizationSpec]
) -> Decided[tuple[NormalizationSpec, ...]]:
    """The model's normalisation for channels that it knows by name, their own for the others."""
    first = next(iter(model.configurations.values()))
    known = {name.lower(): spec for name, spec in zip(model.channel_names, first.normalization, strict=True)}
    specs = tuple(known.get(name.lower(), spec) for name, spec in zip(channel_names, own, strict=True))
    others = [name for name in channel_names if name.lower() not in known]
    if not others:
        return Decided(specs, f"That of {model.model}, with its statistics.")
    names = ", ".join(others)
    return Decided(specs, f"That of {model.model}; by their names for channels that it does not know: {names}.")
