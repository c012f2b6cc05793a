"""The recipe of a selection as text."""

from autoseg.postprocessing import describe_step
from autoseg.records.selection import Selection


def describe_recipe(selection: Selection) -> list[str]:
    """Steps of prediction, one sentence each."""
    networks = " and ".join(selection.configurations)
    folds = f"fold{'s' if len(selection.folds) > 1 else ''} {', '.join(selection.folds)}"
    averaged = len(selection.configurations) * len(selection.folds) > 1
    steps = [f"predict with {networks}, {folds}" + (", and average their probabilities" if averaged else "")]
    steps += [f"{name}: probability at least {threshold:g}" for name, threshold in selection.region_thresholds.items()]
    if selection.refinement is not None:
        steps.append(f"refine boundaries with {len(selection.refinement.refiners)} small networks, averaged")
    steps += [describe_step(step) for step in selection.postprocessing]
    return steps if selection.postprocessing else [*steps, "no post-processing: no step improved the score"]
