"""The user's options of one training, and the schedule that they make of the planned one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from autoseg.errors import UsageError
from autoseg.records.losses import LossName
from autoseg.records.plan import Configuration, Plan
from autoseg.system import ThreadOption

CompileChoice = Literal["auto", "on", "off"]
OptimizerName = Literal["sgd", "adamw"]

USUAL_RATES: Final = {
    "sgd": {"learning_rate": 1e-2, "weight_decay": 3e-5},
    "adamw": {"learning_rate": 3e-3, "weight_decay": 1e-2},
}
"""For an optimiser that was not planned: the planned rates are meant for the other one."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The user's options of one training; None: as planned."""

    device: str = "auto"
    devices: int = 1
    """Processes that train together, started by torchrun; 1: also as many as torchrun started."""
    precision: str = "auto"
    epochs: int | None = None
    steps_per_epoch: int | None = None
    max_time_seconds: float | None = None
    """Wall-clock limit for the fold, final validation included; it then decides instead of `epochs`."""
    restart: bool = False
    """False: resume from the last checkpoint when there is one."""
    seed: int = 0
    workers: int | None = None
    """Processes that prepare batches; 0: none besides the training process."""
    loss: LossName | None = None
    mirror_axes: tuple[int, ...] | None = None
    """Spatial axes of the patch; (): none. Prediction averages over the same ones."""
    learning_rate: float | None = None
    optimizer: OptimizerName | None = None
    warmup_fraction: float | None = None
    """Fraction of the training over which the learning rate rises."""
    weight_average_decay: float | None = None
    """Decay of a moving average of the weights, per step."""
    compile: CompileChoice = "auto"
    threads: ThreadOption | None = None
    """Threads on a CPU; None: `auto` where time ends the training, else `all`: the weights of a seed depend on it."""
    pretrained: Path | None = None
    """A workspace, an exported model or a fold's folder to start from; see `training.transfer`."""
    freeze_encoder: bool = False
    """Train the decoder alone."""
    tracking: Literal["tensorboard", "mlflow"] | None = None


_FIELDS = (
    "epochs",
    "steps_per_epoch",
    "loss",
    "mirror_axes",
    "learning_rate",
    "optimizer",
    "warmup_fraction",
    "weight_average_decay",
)
"""Options that have the name of the planned value they replace."""


def find_configuration(plan: Plan, name: str, path: Path) -> Configuration:
    """Configuration of a plan by its name.

    Args:
        plan: Plan with its configurations.
        name: Name of the configuration, as the user gave it.
        path: Path of the plan, for the message.

    Raises:
        UsageError: If the plan has no such configuration; lists the existing ones.
    """
    if name not in plan.configurations:
        raise UsageError(f"{path}: no configuration {name!r}; it has {', '.join(plan.configurations)}")
    return plan.configurations[name]


def apply_options(configuration: Configuration, options: TrainingOptions) -> Configuration:
    """The configuration with the user's options instead of planned values.

    Steps that were asked for are not limited by the plan's clock. Another optimiser brings its usual rates along.

    Raises:
        UsageError: If a value is outside its range, an axis is not the patch's, or two options contradict each other.
    """
    if options.epochs is not None and options.max_time_seconds is not None:
        raise UsageError("--epochs and --max-time both say when the training ends; give one")
    if options.loss is not None and configuration.network.detection is not None:
        raise UsageError(
            f"--loss {options.loss}: a network that finds objects (--target mask-rcnn) has losses of its own for "
            "boxes, labels and masks. Leave --loss out."
        )
    spec = configuration.training
    changes: dict[str, object] = {}
    if options.optimizer is not None and options.optimizer != spec.optimizer:
        changes |= USUAL_RATES[options.optimizer]
    if options.epochs is not None or options.steps_per_epoch is not None:
        changes["time_per_fold_seconds"] = None
    if options.max_time_seconds is not None:
        changes["time_per_fold_seconds"] = options.max_time_seconds
    for name in _FIELDS:
        value = getattr(options, name)
        if value is not None:
            changes[name] = value
    if not changes:
        return configuration
    content = configuration.model_dump()
    content["training"] |= changes
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"These options do not fit the plan: {_faults(error)}") from error


def _faults(error: ValidationError) -> str:
    """Name of the option, what was given, what is wrong with it."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])).removeprefix('training.') or 'training'}: {fault['msg']}"
        for fault in error.errors(include_url=False)
    )
