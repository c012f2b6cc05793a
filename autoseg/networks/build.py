"""The one place where a NetworkSpec becomes a network."""

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.networks.blocks import initialize_weights
from autoseg.networks.detection.mask_rcnn import MaskRCNN
from autoseg.networks.efficientnet import efficientnet_decoder_levels, efficientnet_levels
from autoseg.networks.external import ExternalModule, build_external
from autoseg.networks.hrnet import BranchDecoder, BranchEncoder
from autoseg.networks.mednext import mednext_decoder_levels, mednext_levels
from autoseg.networks.parts.levels import convolution_levels, decoder_levels
from autoseg.networks.parts.nested import NestedDecoder
from autoseg.networks.points import PointUNet
from autoseg.networks.residual import residual_levels
from autoseg.networks.unet import Decoder, Encoder, UNet
from autoseg.networks.unext import unext_decoder_levels, unext_encoder_levels
from autoseg.records.network import NetworkSpec


def build_network(spec: NetworkSpec, *, deep_supervision: bool) -> UNet | ExternalModule | MaskRCNN:
    """Build a network with freshly drawn weights (torch's global generator), on torch's default device.

    Args:
        spec: What to build.
        deep_supervision: Start value of the network's attribute of that name.

    Returns:
        A module (B, C, *S) -> logits (B, K, *S); with `deep_supervision`, if the spec has it too, in training mode a
        list of logits, full resolution first, one per decoder level. The parameters do not depend on the argument.
        Of a network with a point head, see `PointUNet`.
        With `detection` in the spec a network that finds objects, and gives logits of what it found.

    Raises:
        UsageError: If the package of an external network is not installed, or does not build it.
    """
    if spec.architecture == "external":
        return build_external(spec, deep_supervision=deep_supervision)
    if spec.architecture == "hrnet":
        network = UNet(spec, BranchEncoder(spec), BranchDecoder(spec), deep_supervision=deep_supervision)
        initialize_weights(network)
        return network
    encoder, decoder = _build_halves(spec)
    if spec.detection is not None:
        return MaskRCNN(spec, spec.detection, encoder)
    if spec.architecture != "mednext":  # published with torch's own start values; its long sums grow large from others
        initialize_weights(encoder)
        initialize_weights(decoder)
    if spec.head == "points":
        widths = ARCHITECTURES[spec.architecture].list_widths(spec)
        return PointUNet(spec, encoder, decoder, widths, deep_supervision=deep_supervision)
    return UNet(spec, encoder, decoder, deep_supervision=deep_supervision)


def _build_halves(spec: NetworkSpec) -> tuple[Encoder, Decoder | NestedDecoder]:
    match spec.architecture:
        case "unet" if spec.skip == "nested":
            return Encoder(convolution_levels(spec)), NestedDecoder(spec)
        case "unet":
            return Encoder(convolution_levels(spec)), Decoder(spec, decoder_levels(spec))
        case "residual_unet":
            return Encoder(residual_levels(spec)), Decoder(spec, decoder_levels(spec))
        case "unext":
            return Encoder(unext_encoder_levels(spec)), Decoder(spec, unext_decoder_levels(spec))
        case "efficientnet_unet":
            return Encoder(efficientnet_levels(spec)), Decoder(spec, efficientnet_decoder_levels(spec))
        case "mednext":
            return Encoder(mednext_levels(spec)), Decoder(spec, mednext_decoder_levels(spec))
        case "external" | "hrnet":
            raise ValueError(f"{spec.architecture} is not made of an encoder and a decoder of levels")
