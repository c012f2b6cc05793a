"""The schedule of a training and its constants.

Tested in tests/records/test_plan.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from autoseg.records.budget import CaseSampling, Contrasts
from autoseg.records.encoders import EncoderName
from autoseg.records.files import Record
from autoseg.records.losses import LossName, Regularizer
from autoseg.records.names import FileName
from autoseg.records.network import Size, Sizes
from autoseg.records.sides import Sides

Count = Annotated[int, Field(gt=0, le=10**9)]
"""Number of epochs or steps."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class GrowingPatch(Record):
    """A patch that training begins with before it takes the configuration's own."""

    patch_size: Sizes
    """Voxels, axes as in the configuration's patch."""
    batch_size: Size
    """Patches per step."""
    until: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Progress of the training up to which it is taken."""
    cost_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Time of a step as a fraction of a step's with the configuration's own patch and batch, estimated: epochs of a
    training that is limited by time have so many more steps."""


class SoftLabelSpec(Record):
    """Unlabelled images that a configuration is trained on too, with labels of its teacher."""

    teacher: FileName
    """Name of the configuration that labels them: for fold k its own fold k, which has seen none of the cases that this
    fold validates on."""
    min_confidence: Fraction = 0.75
    """Calibrated probability of a label from which a voxel counts; it does so with this probability in each patch."""
    labelled_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Fraction of the patches that come from labelled cases, however many of either there are."""


class TrainingSpec(Record):
    """The schedule and its constants."""

    loss: LossName = "dice_ce"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: NonNegativeFloat = 0.01
    momentum: Fraction = 0.99
    """Nesterov momentum of sgd."""
    weight_decay: NonNegativeFloat = 3e-5
    schedule: Literal["poly", "cosine"] = "poly"
    """Course of the learning rate over progress in [0, 1]; poly has the exponent 0.9."""
    warmup_fraction: Fraction = 0.0
    """Fraction of the progress over which the learning rate rises linearly from 0."""
    epochs: Count = 1000
    steps_per_epoch: Count = 250
    validation_steps: Count = 50
    time_per_fold_seconds: PositiveFloat | None = None
    """Wall-clock limit of the fold, final validation included. The clock then decides the number of steps; epochs and
    steps per epoch are estimates from the measured speed."""
    foreground_fraction: Fraction = 0.33
    """Fraction of a batch's patches that must contain foreground."""
    case_sampling: CaseSampling = Field(default="uniform", exclude_if=lambda value: value == "uniform")
    """Which cases these patches come from. uniform: all are equally likely, as in nnU-Net, and a patch of an empty case
    shows no foreground. balanced: first a label is drawn, all equally likely, then a case that has it."""
    regularizer: Regularizer = Field(default="none", exclude_if=lambda value: value == "none")
    """What is added to the loss on voxels with the ignore label."""
    contrasts: Contrasts = Field(default="usual", exclude_if=lambda value: value == "usual")
    """Augmentation of contrasts. usual: nnU-Net's. random: random convolutions too, for unknown scanners."""
    channel_dropout: Fraction = Field(default=0.0, exclude_if=lambda value: value == 0.0)
    """Probability that a training sample loses channels, at random and never all, so that networks learn to do without;
    only with `channel_presence`."""
    gradient_clip: PositiveFloat = 12.0
    mirror_axes: tuple[NonNegativeInt, ...]
    """Spatial axes of the patch mirrored in training and at prediction; 0 is the first of `patch_size`."""
    sides: Sides | None = Field(default=None, exclude_if=lambda value: value is None)
    """Labels that change places where the axis from left to right is mirrored; None: none do."""
    batch_dice: bool
    """Whether Dice is computed over the whole batch instead of per sample."""
    weight_average_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Decay per step of an exponential moving average of the weights; None: no average."""
    growing_patches: tuple[GrowingPatch, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Smaller patches that training begins with, in their order; the configuration's own patch and batch follow.
    Validation and prediction take the own patch throughout."""
    initial_weights: EncoderName | None = Field(default=None, exclude_if=lambda value: value is None)
    """Published weights that the encoder starts from; None: freshly drawn ones."""
    encoder_rate: Annotated[float, Field(ge=0.0, le=1.0)] = Field(default=1.0, exclude_if=lambda value: value == 1.0)
    """Learning rate of the encoder as a multiple of `learning_rate`."""
    soft_labels: SoftLabelSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """How unlabelled images are learnt from; None: labelled cases alone are."""
