"""Export: write a trained model for other machines with autoseg, or for other programs.

workspace --choose recipe--> networks --copy without names and paths--> plan, weights, recipe, manifest --> zip
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from autoseg import DISTRIBUTION
from autoseg.errors import InteropError, PredictionError
from autoseg.inference.models.correction import find_correcting, load_correcting
from autoseg.inference.models.loading import LoadedConfiguration, load_with_previous, refuse_other_plans
from autoseg.inference.models.recipes import choose_recipe
from autoseg.inference.refinement.loading import load_refiners, refiner_path
from autoseg.interop.anonymous import anonymous_checkpoint, anonymous_fingerprint, anonymous_plan, anonymous_selection
from autoseg.interop.archives import refuse_output, staged_output
from autoseg.interop.models import describe_files, open_model, read_manifest
from autoseg.networks.weight_files import read_weights
from autoseg.progress import Progress, no_progress
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.encoders import ENCODER_WEIGHTS
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, replacing, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.manifest import MANIFEST_NAME, Manifest, PretrainedEncoder
from autoseg.records.plan import Plan, hash_plan
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.training.folds.checkpointing import save_weights

FINAL = "checkpoint_final"
"""File name of exported weights, final or best: prediction and training look for this name."""


RECIPE_FIELDS = (
    "configurations",
    "member_weights",
    "folds",
    "region_thresholds",
    "decision",
    "adaptation",
    "refinement",
    "postprocessing",
    "confidence",
)
"""Fields of a selection that prediction follows; the others say how it was chosen."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Choice of what is exported of a model, and how."""

    configurations: tuple[str, ...] = ()
    """Names of configurations; empty: those that prediction takes by default. Probabilities of several are averaged."""
    folds: tuple[str, ...] = ()
    """Names of folds; empty: those that prediction takes by default."""
    checkpoint: Literal["final", "best"] = "final"
    license: str | None = None
    """License text; None: not stated, or as in the manifest of a model that is exported again."""
    overwrite: bool = False
    """Replace an earlier export."""


@dataclass(frozen=True, kw_only=True)
class ModelToExport:
    """Loaded parts of a model that are exported."""

    workspace: Workspace
    plan: Plan
    selection: Selection
    members: tuple[LoadedConfiguration, ...]
    """Selected configurations with their networks; previous cascade steps lie within them."""
    options: ExportOptions
    plan_hash: str
    """Hash of the workspace's plan, before paths are taken out."""
    earlier: Manifest | None
    """Manifest of a model that was exported before; None: a workspace."""
    label_dice: dict[str, float | None]
    """Cross-validated Dice of this selection by label; empty: not known."""
    correcting: LoadedConfiguration | None = None
    """Networks that correct label maps by clicks; None: none are exported."""

    @property
    def license(self) -> str:
        """License as stated now, else in the earlier export; empty: not stated."""
        stated = "" if self.earlier is None else self.earlier.license
        return stated if self.options.license is None else self.options.license

    @property
    def checkpoint(self) -> Literal["final", "best"]:
        """Which weights of the training are exported; an exported model calls all of them final."""
        return self.options.checkpoint if self.earlier is None else self.earlier.checkpoint

    def stages(self) -> Iterator[LoadedConfiguration]:
        """Every configuration, each followed by the cascade steps before it."""
        for member in self.members if self.correcting is None else (*self.members, self.correcting):
            stage: LoadedConfiguration | None = member
            while stage is not None:
                yield stage
                stage = stage.previous

    def folds(self) -> dict[str, tuple[str, ...]]:
        """Folds by configuration; one that is needed both alone and in a cascade has the folds of both."""
        found: dict[str, set[str]] = {}
        for stage in self.stages():
            found.setdefault(stage.name, set()).update(stage.folds)
        return {name: tuple(sorted(folds)) for name, folds in found.items()}


def export_model(
    model: Path, output: Path, options: ExportOptions | None = None, progress: Progress = no_progress
) -> Manifest:
    """Write a model that predicts on other machines exactly as the original does with the same options.

    It has the layout of a workspace: plan, recipe, weights, and the fingerprint with numbered cases; no pickles, no
    paths of this machine, no images, splits, logs or results of single cases.

    Args:
        model: A workspace, or an exported model.
        output: A zip file if it ends with .zip, else a folder; written completely or not at all.
        options: Choice of configurations, folds, weights; None: all defaults.
        progress: Called after each network.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        PredictionError: If nothing is trained, or a weights file is damaged or belongs to another plan.
        InteropError: If the model cannot be opened, or the output may not be replaced.
        RecordError: If one of the model's JSON files is damaged.
    """
    options = options or ExportOptions()
    refuse_output(output, model, overwrite=options.overwrite)
    with open_model(model) as workspace:
        chosen = choose_model(workspace, options)
        with staged_output(output) as folder:
            copy = Workspace(folder)
            write_record(chosen.plan, copy.plan)
            write_record(chosen.selection, copy.selection)
            if workspace.fingerprint.is_file():
                write_record(anonymous_fingerprint(read_record(Fingerprint, workspace.fingerprint)), copy.fingerprint)
            _copy_weights(chosen, copy, progress)
            _copy_refiners(chosen, copy)
            return write_manifest(chosen, folder, "autoseg")


def choose_model(workspace: Workspace, options: ExportOptions) -> ModelToExport:
    """Choose what is exported, and load it, which checks it.

    Raises:
        PredictionError: If nothing is trained, or a weights file is damaged or belongs to another plan.
    """
    if not workspace.plan.is_file():
        raise PredictionError(f"{workspace.root}: not a model, it has no plan.json; give the folder of a trained model")
    plan = read_record(Plan, workspace.plan)
    recipe = _choose_recipe(workspace, plan, options)
    members = tuple(
        load_with_previous(workspace, plan, name, recipe.folds, options.checkpoint, torch.device("cpu"))
        for name in recipe.configurations
    )
    refuse_other_plans(workspace, members)
    stated = read_record(Selection, workspace.selection) if workspace.selection.is_file() else None
    selection = _make_selection(recipe, members, stated)
    earlier = read_manifest(workspace.root)
    return ModelToExport(
        workspace=workspace,
        plan=anonymous_plan(plan),
        selection=anonymous_selection(selection),
        members=members,
        options=options,
        plan_hash=hash_plan(plan) if earlier is None else earlier.plan_hash,
        earlier=earlier,
        label_dice=_read_label_dice(workspace, earlier) if selection == stated else {},
        correcting=_load_correcting(workspace, plan, options),
    )


def _load_correcting(workspace: Workspace, plan: Plan, options: ExportOptions) -> LoadedConfiguration | None:
    """Networks that correct by clicks, where no configurations were named, or these among others."""
    if options.configurations and find_correcting(plan) not in options.configurations:
        return None
    return load_correcting(workspace, plan, options.folds or None, options.checkpoint, torch.device("cpu"))


def without_correcting(chosen: ModelToExport, form: str) -> ModelToExport:
    """The same model in a format that has no clicks.

    Raises:
        InteropError: If the networks that correct by clicks were named.
    """
    if find_correcting(chosen.plan) in chosen.options.configurations:
        raise InteropError(
            f"{chosen.plan.dataset_name}: {find_correcting(chosen.plan)} takes clicks as input, which {form} models do "
            f"not have. Leave -c {find_correcting(chosen.plan)} out, or export without --format."
        )
    return replace(chosen, correcting=None)


def write_manifest(chosen: ModelToExport, folder: Path, form: Literal["autoseg", "onnx", "nnunet"]) -> Manifest:
    """Write manifest.json, which describes all files of the folder; the last step of an export."""
    manifest = Manifest(
        format=form,
        created=datetime.now(UTC).date().isoformat(),
        license=chosen.license,
        autoseg_version=version(DISTRIBUTION),
        torch_version=torch.__version__,
        numpy_version=np.__version__,
        plan_hash=chosen.plan_hash,
        pretrained=tuple(_list_pretrained(chosen)),
        requires=_list_required(chosen) if form == "autoseg" else (),
        dataset_name=chosen.plan.dataset_name,
        channel_names=chosen.plan.channel_names,
        labels=chosen.plan.labels,
        configurations=chosen.folds(),
        selected=chosen.selection.configurations,
        checkpoint=chosen.checkpoint,
        mean_foreground_dice=chosen.selection.mean_foreground_dice,
        label_dice=chosen.label_dice,
        files=describe_files(folder),
    )
    write_record(manifest, folder / MANIFEST_NAME)
    return manifest


def _list_required(chosen: ModelToExport) -> tuple[str, ...]:
    """Distributions of the exported networks that are those of other packages, each once."""
    networks = [chosen.plan.configurations[name].network for name in chosen.folds()]
    return tuple(dict.fromkeys(name for network in networks for name in network.network_package.split()))


def _list_pretrained(chosen: ModelToExport) -> Iterator[PretrainedEncoder]:
    """Published weights that the exported configurations started from, each once."""
    started = (chosen.plan.configurations[name].training.initial_weights for name in chosen.folds())
    for name in dict.fromkeys(started):
        if name is not None:
            weights = ENCODER_WEIGHTS[name]
            yield PretrainedEncoder(
                name=name,
                trained_on=weights.trained_on,
                license=weights.license,
                sha256=weights.sha256,
                package=weights.package,
            )


def _choose_recipe(workspace: Workspace, plan: Plan, options: ExportOptions) -> Selection:
    named = tuple(name for name in options.configurations if name != find_correcting(plan))
    requested = named or (None,)
    recipes = [choose_recipe(workspace, plan, name, options.folds, options.checkpoint) for name in requested]
    names = dict.fromkeys(name for recipe in recipes for name in recipe.configurations)
    return recipes[0].model_copy(update={"configurations": tuple(names)})


def _make_selection(recipe: Selection, members: Sequence[LoadedConfiguration], stated: Selection | None) -> Selection:
    """The recipe as selection.json; the model's own if it is equal, so that its scores and reasons stay."""
    if stated is not None and all(getattr(recipe, name) == getattr(stated, name) for name in RECIPE_FIELDS):
        return stated
    first = members[0].folds
    folds = first if all(member.folds == first for member in members) else ()  # empty: all trained folds
    candidates = () if stated is None else stated.candidates
    wanted = (recipe.configurations, recipe.member_weights, folds)
    known = [item for item in candidates if (item.configurations, item.member_weights, item.folds) == wanted]
    # scores of candidates are without thresholds, expected Dice, refinement and post-processing
    is_plain = recipe.refinement is None and not (recipe.postprocessing or recipe.region_thresholds)
    is_scored = bool(known) and is_plain and recipe.decision == "argmax"
    return Selection(
        configurations=recipe.configurations,
        member_weights=recipe.member_weights,
        folds=folds,
        region_thresholds=dict(recipe.region_thresholds),
        decision=recipe.decision,
        adaptation=recipe.adaptation,
        refinement=recipe.refinement,
        postprocessing=recipe.postprocessing,
        confidence=recipe.confidence,
        mean_foreground_dice=known[0].mean_foreground_dice if is_scored else None,
        interval=known[0].interval if is_scored else None,
        candidates=tuple(known),
        reasons=("Chosen at export.",),
    )


def _read_label_dice(workspace: Workspace, earlier: Manifest | None) -> dict[str, float | None]:
    if workspace.evaluation.is_file():
        evaluation = read_record(Evaluation, workspace.evaluation)
        return {name: summary.dice for name, summary in evaluation.labels.items()}
    return {} if earlier is None else earlier.label_dice


def _copy_weights(chosen: ModelToExport, copy: Workspace, progress: Progress) -> None:
    networks = [(name, fold) for name, folds in chosen.folds().items() for fold in folds]
    for done, (name, fold) in enumerate(networks, start=1):
        source = chosen.workspace.fold(name, fold) / f"checkpoint_{chosen.options.checkpoint}"
        record = anonymous_checkpoint(read_record(Checkpoint, source.with_suffix(".json")))
        save_weights(read_weights(source.with_suffix(".safetensors")), record, copy.fold(name, fold) / FINAL)
        progress(done, len(networks))


def _copy_refiners(chosen: ModelToExport, copy: Workspace) -> None:
    refinement = chosen.selection.refinement
    if refinement is None:
        return
    load_refiners(chosen.workspace, refinement, torch.device("cpu"))  # raises for damaged files
    for index in range(len(refinement.refiners)):
        for ending in (".safetensors", ".json"):
            with replacing(refiner_path(copy, index).with_suffix(ending)) as temporary:
                shutil.copyfile(refiner_path(chosen.workspace, index).with_suffix(ending), temporary)
