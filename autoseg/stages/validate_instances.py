"""The instances of a fold's validation cases: written beside the label maps, then scored against the references.

Only for networks that find instances one by one; `stages.validate` does the rest.

Tested in tests/stages/test_validate_instances.py.
"""

import logging

from autoseg.imaging.datasets.cases import CaseVolume
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.reading import read_label_map
from autoseg.imaging.formats.writing import label_map_ending, write_label_map
from autoseg.inference.files.instance_scores import read_instance_scores
from autoseg.inference.files.instance_scoring import InstanceOptions, pool_cases, score_instances
from autoseg.inference.files.tables import INSTANCES_FILE, instance_rows, instance_table
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.instance_maps import InstanceMap, map_instances
from autoseg.inference.restoring.restore import LabelIndices
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.records.evaluation import InstanceEvaluation
from autoseg.records.files import write_record
from autoseg.records.prediction import INSTANCES
from autoseg.text import format_number
from autoseg.training.folds.fold import Fold

logger = logging.getLogger("autoseg.train")

INSTANCE_EVALUATION_NAME = "instance_evaluation.json"


def find_case_instances(fold: Fold, loaded: LoadedConfiguration, case_id: str) -> InstanceMap:
    """Instances of a preprocessed case, in working orientation."""
    stored, name = fold.open_case(case_id), fold.configuration_name
    return map_instances([loaded], {name: stored.read_image()}, {name: stored.record}, WindowSettings())


def write_case_instances(fold: Fold, found: InstanceMap, original: CaseVolume, case_id: str) -> LabelIndices:
    """Write the map of instances and its rows of the table; the label map is written by the caller.

    Returns:
        Label indices (Z, Y, X) in working orientation.
    """
    encoding, template = fold.plan.encoding, original.template
    is_flat = template.file_dimensions == 2
    _, instances = found.restore(encoding, template.grid, original.orientation, is_flat=is_flat)
    ending = label_map_ending(fold.dataset.file_ending)
    write_label_map(instances.ids, template, fold.validation_folder / f"{case_id}_{INSTANCES}{ending}")
    table = instance_table(fold.validation_folder / INSTANCES_FILE)
    table.put(case_id, instance_rows(case_id, instances.table))
    table.write()
    return found.label_indices()


def evaluate_fold_instances(fold: Fold) -> InstanceEvaluation:
    """Score the instances of all validation cases, write `validation/instance_evaluation.json`, and log the scores."""
    options = InstanceOptions(labels=fold.plan.labels, reading=fold.plan.encoding.reading)
    table = read_instance_scores(fold.validation_folder)
    dataset = fold.workspace.dataset_folder(fold.dataset.folder)
    by_case = {files.case: files for files in fold.dataset.cases}
    ending = label_map_ending(fold.dataset.file_ending)
    cases = [
        score_instances(
            case,
            read_label_map(fold.validation_folder / f"{case}{ending}"),
            read_reference(dataset, by_case[case], fold.plan.encoding),
            options,
            table.by_case.get(case, {}),
            reference_map=read_label_map(dataset / by_case[case].instances) if by_case[case].instances else None,
        )
        for case in fold.split.validation
    ]
    evaluation = pool_cases(cases, options, table.source)
    write_record(evaluation, fold.validation_folder / INSTANCE_EVALUATION_NAME)
    precision = evaluation.mean_average_precision
    for name, scores in evaluation.labels.items():
        logger.info("instances of fold %s, %s: panoptic quality %s", fold.fold_name, name,
                    format_number(scores.panoptic_quality))  # fmt: skip
    if precision is not None:
        logger.info("instances of fold %s: average precision %s, at IoU 0.5 %s", fold.fold_name,
                    format_number(precision.mean), format_number(precision.by_iou["0.50"]))  # fmt: skip
    return evaluation
