"""What the server's own routes answer, as the OpenAPI document describes it.

Tested in tests/server/http/test_v1.py.
"""

from autoseg.records.files import Record
from autoseg.server.jobs import Job, Jobs, State
from autoseg.server.messages import ModelFacts


class LabelAnswer(Record):
    """One value of label maps."""

    value: int
    name: str
    color: tuple[int, int, int]
    """Red, green, blue, 0 to 255."""


class ModelAnswer(Record):
    """One model."""

    name: str
    description: str
    channels: tuple[str, ...]
    """Images that a case has, in the order in which they are sent."""
    dimensions: int
    """2 or 3: what its networks see at once."""
    labels: tuple[LabelAnswer, ...]


class ModelsAnswer(Record):
    """All models of the server."""

    models: tuple[ModelAnswer, ...]


class StatisticsRow(Record):
    """One label in one label map."""

    label: str
    values: tuple[int, ...]
    """Values in the label map; a region has several."""
    voxels: int
    volume_ml: float | None
    """None for a two-dimensional image."""
    mean_intensities: dict[str, float | None]
    """Mean of the image by channel; None without voxels."""


class JobAnswer(Record):
    """One job."""

    id: str
    model: str
    state: State
    status: int
    """202 while it is not over, 200 when it is done, else the HTTP status of what went wrong."""
    error: str
    """Sentence that says why there is no result; empty if there is one, or not yet."""
    results: dict[str, str]
    """Paths of what can be fetched, by kind, such as `label-map`; empty until the job is done."""
    statistics: tuple[StatisticsRow, ...]
    notes: tuple[str, ...]
    """Assumptions about the image, and deviations from the training images."""
    seconds: float
    """Time that the prediction took."""


def describe_models(jobs: Jobs) -> ModelsAnswer:
    """All models."""
    return ModelsAnswer(models=tuple(_describe_model(facts) for facts in jobs.facts.values()))


def _describe_model(facts: ModelFacts) -> ModelAnswer:
    labels = tuple(LabelAnswer(value=label.value, name=label.name, color=label.color) for label in facts.labels)
    return ModelAnswer(
        name=facts.name, description=facts.description, channels=facts.channels, dimensions=facts.dimensions,
        labels=labels,
    )  # fmt: skip


def describe_job(job: Job) -> JobAnswer:
    """What is known of a job now."""
    result = job.result if job.is_over else None
    root = f"/v1/jobs/{job.id}"
    kinds: list[str] = []
    if result is not None and job.state == "done":
        kinds = [*result.files, "statistics", *(["slices"] if job.task is not None and job.task.slices else [])]
    return JobAnswer(
        id=job.id,
        model=job.model,
        state=job.state,
        status=202 if result is None else result.status,
        error="" if result is None else result.error,
        results={kind: f"{root}/{kind}" for kind in kinds},
        statistics=describe_statistics(job),
        notes=() if result is None else result.notes,
        seconds=0.0 if result is None else result.seconds,
    )


def describe_statistics(job: Job) -> tuple[StatisticsRow, ...]:
    """Voxels and volume of each label; empty until the job is done."""
    rows = () if job.result is None else job.result.statistics
    return tuple(
        StatisticsRow(
            label=row.label, values=row.values, voxels=row.voxels, volume_ml=row.volume_ml,
            mean_intensities=row.mean_intensities,
        )
        for row in rows
    )  # fmt: skip
