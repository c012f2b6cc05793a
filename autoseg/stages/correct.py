"""Correct: from images and clicks to corrected label maps.

How one label map is corrected stands in `inference.predictor.correction`.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.inference.files.corrections import correct_cases, read_clicks
from autoseg.inference.files.inputs import choose_series, find_inputs
from autoseg.inference.files.outputs import CaseOutcome, assign_outputs, refuse_clashes
from autoseg.inference.files.run_lists import PredictionFailure, keep_lists
from autoseg.inference.files.run_provenance import keep_provenance
from autoseg.inference.predictor.missing_channels import may_lack_channels
from autoseg.progress import Progress, no_progress
from autoseg.records.part import WHOLE_RUN
from autoseg.records.prediction import OutputChoices
from autoseg.stages.predict import Predictor, RunOptions

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True, kw_only=True)
class CorrectionOptions:
    """What is corrected."""

    clicks: Path
    """JSON file with the clicks of each case, see `records.clicks.CaseClicks`."""
    first_labels: Path | None = None
    """Folder with the label maps to correct, named as those that are written; None: they are predicted first."""
    outputs: OutputChoices = field(default_factory=OutputChoices)
    """Outputs besides label maps."""


def correct_files(
    predictor: Predictor,
    inputs: Path,
    output: Path,
    correction: CorrectionOptions,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
) -> list[PredictionFailure]:
    """Correct the label maps of the cases that the file of clicks names; a case that fails does not stop the others.

    Args:
        predictor: The model, with trained networks of the configuration `interactive`.
        inputs: Images, as for `predict_files`.
        output: Folder, or file of a single case, as for `predict_files`.
        correction: Clicks, label maps to correct, and outputs.
        options: How images are found; None: the defaults.
        progress: Called after every case.

    Returns:
        The cases that failed; also written to `failures.json`.

    Raises:
        UsageError: If there is nothing to correct, or something is asked for that corrections do not have.
        RecordError: If the file of clicks is missing or damaged.
        PredictionError: If the model has no networks for corrections.
    """
    choices, options = correction.outputs, options or RunOptions()
    _refuse_probabilities(choices, options)
    names, labels, may_lack = predictor.plan.channel_names, predictor.plan.labels, may_lack_channels(predictor.plan)
    cases = find_inputs(inputs, names, options.image_pattern, labels, may_lack_channels=may_lack)
    cases = choose_series(cases, options.series, resample_gaps=options.resample_gaps)
    clicks = read_clicks(correction.clicks, [item.case for item in cases])
    clicked = [item for item in cases if item.case in clicks]
    logger.info("%d of %d cases have clicks; the others are left alone", len(clicked), len(cases))
    outputs = refuse_clashes(assign_outputs(clicked, output), choices)
    sound = [index for index, file in enumerate(outputs) if not file.fault]
    files = [outputs[index] for index in sound]
    with ExitStack() as stack:
        lists = stack.enter_context(keep_lists(outputs, [], predictor.plan, choices, WHOLE_RUN, progress))
        if choices.provenance:
            stack.enter_context(keep_provenance(lists, predictor.describe(), outputs[0].target.parent, WHOLE_RUN))
        for index in sorted({*range(len(outputs))} - {*sound}):
            lists.add(index, CaseOutcome(outputs[index].fault))
        outcomes = correct_cases(predictor.case_predictor, files, clicks, correction.first_labels, choices)
        for index, outcome in zip(sound, outcomes, strict=True):
            lists.add(index, outcome)
    return lists.failures


def _refuse_probabilities(choices: OutputChoices, options: RunOptions) -> None:
    """Refuse outputs that come from probabilities, which corrected voxels do not have, and shared work."""
    asked = {
        "--save-probabilities": choices.probabilities,
        "--save-uncertainty": choices.uncertainty,
        "--instances": choices.instances,
        "--seg-type fractional": choices.segmentation_type == "fractional",
        "--scheduler": options.cluster is not None,
        "--part": options.part != WHOLE_RUN,
        "--skip-existing": options.skip_existing,
    }
    if refused := [option for option, is_asked in asked.items() if is_asked]:
        raise UsageError(f"{refused[0]} is not available with --clicks; leave one of them out")
