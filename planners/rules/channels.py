"""What a plan does about images that may lack channels.

Called for each configuration of a dataset whose cases may lack some.

Example: cases with T1, T2 and FLAIR, of which some lack T2. Half of the training samples keep the channels that their
case has, the others lose one or two at random; three more inputs of the network say which channels are there.
"""

from autoseg.records.fingerprint import Fingerprint
from planners.rules import Decided

CHANNEL_DROPOUT = 0.5
"""Part of the samples that lose channels: the others show the network images as they usually are."""


def count_inputs(fingerprint: Fingerprint, slices: int = 1) -> int:
    """Inputs of a network: the channels of each slice that it sees, and where images may lack channels one plane each.

    Args:
        fingerprint: Facts about the dataset.
        slices: Slices that a 2D network gets at once.
    """
    channels = len(fingerprint.channel_names)
    return slices * channels + (channels if fingerprint.missing_channels else 0)


def choose_channel_dropout(fingerprint: Fingerprint) -> Decided[float]:
    """Probability that a training sample loses channels.

    References:
        Training on random subsets of the channels follows Havaei et al., "HeMIS: hetero-modal image segmentation",
        MICCAI 2016; the probability is our own rule.
    """
    if not fingerprint.missing_channels:
        return Decided(0.0, "Images have all channels.")
    incomplete = sum(bool(case.absent_channels) for case in fingerprint.cases)
    return Decided(
        CHANNEL_DROPOUT,
        f"Images may lack channels, as {incomplete} of {len(fingerprint.cases)} cases do: of half of the samples some "
        "channels are taken away at random, so that the network learns to do without them.",
    )
