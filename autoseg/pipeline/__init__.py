"""The front door: the whole job is these stages, in this order.

    describe -> fingerprint -> plan -> preprocess -> train (every fold) -> select -> report

Each stage writes its artifact into the workspace, so a run that was interrupted resumes after the last one.
"""

from autoseg.pipeline.planning import (
    PlannedDataset,
    PlanningOptions,
    check_dataset,
    decide_by_trials,
    decide_plan,
    plan_dataset,
    request_trials,
    write_plan,
)
from autoseg.pipeline.whole_run import PipelineOptions, describe_run, run_pipeline

__all__ = [
    "PipelineOptions",
    "PlannedDataset",
    "PlanningOptions",
    "check_dataset",
    "decide_by_trials",
    "decide_plan",
    "describe_run",
    "plan_dataset",
    "request_trials",
    "run_pipeline",
    "write_plan",
]
