"""The one place where a NetworkSpec becomes a network."""

from autoseg.errors import RecordError
from autoseg.networks.unet import UNet
from autoseg.records.plan import NetworkSpec


def build_network(spec: NetworkSpec, *, deep_supervision: bool) -> UNet:
    """Build a network with freshly drawn weights (torch's global generator), on torch's default device.

    Args:
        spec: What to build; its decoder has one level fewer than its encoder.
        deep_supervision: Start value of the network's attribute of that name.

    Returns:
        A module (B, C, *S) -> logits (B, K, *S); with `deep_supervision` and in training mode a list of logits, full
        resolution first, one per decoder level. The parameters are the same in both cases.

    Raises:
        RecordError: If the spec's parts do not fit together.
    """
    faults = _find_faults(spec)
    if faults:
        raise RecordError("the plan's network cannot be built: " + "; ".join(faults) + ". Mend or remake the plan.")
    match spec.architecture:
        case "unet":
            return UNet(spec, deep_supervision=deep_supervision)


def _find_faults(spec: NetworkSpec) -> list[str]:
    levels = len(spec.features)
    if levels < 2:
        return [f"{levels} level(s) in `features`, a U-Net needs at least 2"]
    lengths = {
        "strides": (len(spec.strides), levels),
        "kernel_sizes": (len(spec.kernel_sizes), levels),
        "encoder_convolutions": (len(spec.encoder_convolutions), levels),
        "decoder_convolutions": (len(spec.decoder_convolutions), levels - 1),
    }
    faults = [
        f"{found} entries in `{name}`, expected {expected} for {levels} levels"
        for name, (found, expected) in lengths.items()
        if found != expected
    ]
    triples = (*spec.strides, *spec.kernel_sizes)
    if any(len(sizes) != spec.dimensions for sizes in triples):
        faults.append(f"strides and kernel sizes must have {spec.dimensions} numbers each")
    if any(size % 2 == 0 for kernel in spec.kernel_sizes for size in kernel):
        faults.append(f"even sizes in `kernel_sizes` {spec.kernel_sizes}, only odd ones keep the grid")
    if any(stride != 1 for stride in spec.strides[0]):
        faults.append(f"first stride is {spec.strides[0]}, expected all ones")
    counts = (*spec.features, *spec.encoder_convolutions, *spec.decoder_convolutions)
    if min(counts, default=0) < 1 or min((size for sizes in triples for size in sizes), default=0) < 1:
        faults.append("features, convolutions, strides and kernel sizes must be at least 1")
    return faults
