"""A recipe in words."""

from autoseg.records.files import Record
from autoseg.records.selection import Selection


def say_step(step: Record) -> str:
    """One post-processing step as a person would say it; known by its `operation`."""
    values = step.model_dump()
    labels = ", ".join(values["labels"]) if "labels" in values else str(values.get("label", ""))
    match str(values["operation"]):
        case "keep_largest_component":
            return f"keep the largest component of {labels}"
        case "remove_small_components":
            return f"remove components of {labels} below {values['min_volume_mm3']:g} mm³"
        case "fill_holes":
            return f"fill holes in {labels}"
        case other:
            return f"{other.replace('_', ' ')} of {labels}"


def say_recipe(selection: Selection) -> list[str]:
    """What prediction will do, step by step."""
    networks = " and ".join(selection.configurations)
    folds = f"fold{'s' if len(selection.folds) > 1 else ''} {', '.join(selection.folds)}"
    averaged = len(selection.configurations) * len(selection.folds) > 1
    steps = [f"predict with {networks}, {folds}" + (", and average their probabilities" if averaged else "")]
    steps += [f"{name}: from probability {at:g}" for name, at in selection.region_thresholds.items()]
    steps += [say_step(step) for step in selection.postprocessing]
    return steps if selection.postprocessing else [*steps, "no post-processing: none helped"]
