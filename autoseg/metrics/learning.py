"""Whether a training was too short to learn: few steps, and a label that is hardly found in held-out cases."""

from autoseg.records.evaluation import Evaluation

ENOUGH_STEPS = 600
"""Steps from which a training is not called short; planners aim at as many at least."""

LEARNED_DICE = 0.2
"""Mean Dice over held-out cases below which a label counts as not learned.

Measured on small networks. Phantoms of three labels: the label that was found worst had at most 0.13 in 14 trainings of
1 to 40 steps, and at least 0.49 in 5 of 80 to 700. Hippocampus of two labels: 0.05 after 10 steps, 0.07 after 80, 0.15
after 160, all of them far from the 0.87 of a full training."""


def unlearned_labels(evaluation: Evaluation, steps: int) -> dict[str, float]:
    """Mean Dice of the labels that a short training has not learned; empty after many steps.

    A label without any Dice, since no held-out case has it, says nothing.

    Args:
        evaluation: Scores of cases that were not trained on.
        steps: Optimiser steps of the training.
    """
    if steps >= ENOUGH_STEPS:
        return {}
    return {
        name: summary.dice
        for name, summary in evaluation.labels.items()
        if summary.dice is not None and summary.dice < LEARNED_DICE
    }
