"""Manifests for Kubernetes: indexed Jobs that train every fold, or that predict the parts of a folder of images.

Containers need no root, no network and no writable image: what they write is in the mounted volumes and in a scratch
folder. Fields are those of `batch/v1` Job and `networking.k8s.io/v1` NetworkPolicy; Kubernetes 1.33 or later.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoseg.costs.runs import Training
from autoseg.errors import UsageError

Manifest = dict[str, Any]

MAX_NAME = 40
"""Longest name of a run: Kubernetes appends the step, the index and five characters, 63 in all."""

SCRATCH = "/scratch"
SCRATCH_SIZE = "20Gi"
SHARED_MEMORY_SIZE = "2Gi"
"""Size of /dev/shm, through which GPUs of one machine exchange gradients; it counts as memory of the pod."""

RETRIES = 4
"""How often an index is tried again after an end that nobody asked for."""

STOPPED_CODES = [129, 130, 138, 143]
"""Exit codes after SIGHUP, SIGINT, SIGUSR1 and SIGTERM: a checkpoint was written, and the next pod resumes."""

FINAL_CODES = [1, 2]
"""Exit codes of failed cases and of unusable input, which another try does not change."""

_TRAIN = (
    'workspace=$1; shift `expr 1 + 2 \\* "$JOB_COMPLETION_INDEX"`; '
    'exec python -m autoseg train "$workspace" -c "$1" -f "$2"'
)
_SELECT = 'python -m autoseg select "$1" --workers "$OMP_NUM_THREADS" && exec python -m autoseg report "$1"'
_PREDICT = 'exec python -m autoseg predict -m "$1" -i "$2" -o "$3" --skip-existing'
_PART = ' --part `expr "$JOB_COMPLETION_INDEX" + 1`/"$4"'
"""Programs of /bin/sh. They have no `$(`, which Kubernetes would read as the name of a variable."""


@dataclass(frozen=True)
class Volume:
    """A persistent volume claim and the folder under which containers see it."""

    claim: str
    folder: Path
    is_read_only: bool = False


IMAGE = "autoseg:latest"
"""Image where none is named."""


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """What every pod has."""

    name: str
    """Name of the run: small letters, digits and `-`."""
    volumes: tuple[Volume, ...]
    image: str = IMAGE
    """Container image with autoseg in its Python."""
    cpus: int = 4
    memory: str = "16G"
    gpus: int = 1
    devices: int = 1
    """Devices that each training is planned for, which share the cores of its pod."""
    user: int = 1000
    """Number of the user and of the group that own what is written."""


def make_name(folder: Path) -> str:
    """A name that Kubernetes accepts, from the name of a folder.

    Examples:
        >>> make_name(Path("Task04_Hippocampus.autoseg"))
        'task04-hippocampus-autoseg'
    """
    return re.sub(r"[^a-z0-9]+", "-", folder.name.lower())[:MAX_NAME].strip("-") or "run"


def default_volumes(**folders: tuple[Path, bool]) -> tuple[Volume, ...]:
    """A claim `autoseg-NAME` for each folder that is needed, by name, with whether it is only read.

    Examples:
        >>> default_volumes(images=(Path("/in"), True))
        (Volume(claim='autoseg-images', folder=PosixPath('/in'), is_read_only=True),)
    """
    found: dict[Path, Volume] = {}
    for name, (folder, is_read_only) in folders.items():
        if folder not in found or found[folder].is_read_only:
            found[folder] = Volume(f"autoseg-{name}", folder, is_read_only)
    return tuple(found.values())


def training_manifests(
    workspace: Path, dataset: Path, groups: Sequence[Sequence[Training]], options: KubernetesOptions
) -> list[Manifest]:
    """A Job for each group of trainings, with one index for each, and one that selects and reports.

    Args:
        workspace: Absolute path in the containers.
        dataset: Folder of the dataset there; it is only read.
        groups: Trainings; Jobs of all groups but the first are suspended until the user resumes them.
        options: What every pod has.

    Raises:
        UsageError: If no volume holds one of them, or only a read-only one holds the workspace.
    """
    _check_is_mounted(workspace, options.volumes, is_written=True)
    _check_is_mounted(dataset, options.volumes, is_written=False)
    workers = '"$OMP_NUM_THREADS"' if options.devices == 1 else f"{max(options.cpus // options.devices, 1)}"
    program = _TRAIN + (f" --workers {workers}" if options.gpus else "")
    jobs = []
    for number, group in enumerate(groups, start=1):
        words = [str(workspace), *(word for training in group for word in (training.configuration, training.fold))]
        jobs.append(_job(f"train-{number}", len(group), program, words, options, is_suspended=number > 1))
    jobs.append(_job("select", 1, _SELECT, [str(workspace)], options, is_suspended=True))
    return [_deny_network(options), *jobs]


def prediction_manifests(
    model: Path, images: Path, output: Path, parts: int, options: KubernetesOptions
) -> list[Manifest]:
    """A Job with one index for each part of the images, and a suspended one that joins the lists of all parts.

    Args:
        model: A workspace or an exported model; absolute path in the containers, as all others.
        images: Folder of images.
        output: Folder for the label maps.
        parts: Number of parts.
        options: What every pod has.

    Raises:
        UsageError: If no volume holds one of the paths, or only a read-only one holds the output.
    """
    for path, is_written in ((model, False), (images, False), (output, True)):
        _check_is_mounted(path, options.volumes, is_written=is_written)
    words = [str(model), str(images), str(output)]
    return [
        _deny_network(options),
        _job("predict", parts, _PREDICT + _PART, [*words, str(parts)], options, is_suspended=False),
        _job("join", 1, _PREDICT, words, options, is_suspended=True),
    ]


def format_manifests(manifests: Sequence[Manifest]) -> str:
    """The manifests as one YAML file, with what to type at its beginning."""
    jobs = [manifest for manifest in manifests if manifest["kind"] == "Job"]
    lines = [
        "# Submit it:    kubectl apply -f FILE",
        "# Look at it:   kubectl get jobs,pods -l app.kubernetes.io/name=autoseg",
    ]
    for before, after in pairwise(jobs):
        name, following = before["metadata"]["name"], after["metadata"]["name"]
        lines.append(
            f"# Then:         kubectl wait --for=condition=complete --timeout=-1s job/{name} &&\n"
            f'#               kubectl patch job/{following} --type=merge -p \'{{"spec":{{"suspend":false}}}}\''
        )
    documents = ["\n".join(["---", *_yaml_lines(manifest)]) for manifest in manifests]
    return "\n".join([*lines, *documents]) + "\n"


def _check_is_mounted(path: Path, volumes: Sequence[Volume], *, is_written: bool) -> None:
    holding = [volume for volume in volumes if path.is_relative_to(volume.folder)]
    if not holding:
        known = ", ".join(str(volume.folder) for volume in volumes)
        raise UsageError(f"{path}: lies in none of the mounted folders ({known}); add --volume CLAIM:FOLDER")
    if is_written and all(volume.is_read_only for volume in holding):
        raise UsageError(f"{path}: is written, but its volume {holding[0].claim} is mounted read-only; leave :ro out")


def _job(
    step: str, completions: int, program: str, words: Sequence[str], options: KubernetesOptions, *, is_suspended: bool
) -> Manifest:
    metadata = {"name": f"autoseg-{options.name}-{step}", "labels": _labels(options)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": completions,
            "parallelism": completions,
            "suspend": is_suspended,
            "backoffLimitPerIndex": RETRIES,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": STOPPED_CODES}},
                    {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": FINAL_CODES}},
                ]
            },
            "template": {"metadata": {"labels": _labels(options)}, "spec": _pod(program, words, options)},
        },
    }


def _pod(program: str, words: Sequence[str], options: KubernetesOptions) -> Manifest:
    resources = {"cpu": str(options.cpus), "memory": options.memory}
    if options.gpus:
        resources["nvidia.com/gpu"] = str(options.gpus)
    folders = {"TMPDIR": "", "HOME": "", "MPLCONFIGDIR": "/matplotlib", "TORCHINDUCTOR_CACHE_DIR": "/inductor"}
    variables = {"OMP_NUM_THREADS": str(options.cpus), **{name: SCRATCH + end for name, end in folders.items()}}
    own = [
        ("scratch", SCRATCH, {"sizeLimit": SCRATCH_SIZE}),
        ("shared-memory", "/dev/shm", {"medium": "Memory", "sizeLimit": SHARED_MEMORY_SIZE}),  # noqa: S108 (a mount)
    ]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": options.user,
            "runAsGroup": options.user,
            "fsGroup": options.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "autoseg",
                "image": options.image,
                "command": ["/bin/sh", "-c", program, "autoseg"],
                "args": [_literal(word) for word in words],
                "env": [{"name": name, "value": value} for name, value in variables.items()],
                "resources": {"requests": resources, "limits": resources},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    *(_mount(f"volume-{n}", volume) for n, volume in enumerate(options.volumes)),
                    *({"name": name, "mountPath": path} for name, path, _ in own),
                ],
            }
        ],
        "volumes": [
            *(_claim(f"volume-{number}", volume) for number, volume in enumerate(options.volumes)),
            *({"name": name, "emptyDir": settings} for name, _, settings in own),
        ],
    }


def _mount(name: str, volume: Volume) -> Manifest:
    return {"name": name, "mountPath": str(volume.folder), "readOnly": volume.is_read_only}


def _claim(name: str, volume: Volume) -> Manifest:
    claim = {"claimName": volume.claim, "readOnly": volume.is_read_only}
    return {"name": name, "persistentVolumeClaim": claim}


def _literal(word: str) -> str:
    """A word that Kubernetes hands on as it is: `$(NAME)` in it is not a variable."""
    return word.replace("$(", "$$(")


def _deny_network(options: KubernetesOptions) -> Manifest:
    """Nothing that autoseg does needs a connection."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"autoseg-{options.name}", "labels": _labels(options)},
        "spec": {"podSelector": {"matchLabels": _labels(options)}, "policyTypes": ["Ingress", "Egress"]},
    }


def _labels(options: KubernetesOptions) -> dict[str, str]:
    return {"app.kubernetes.io/name": "autoseg", "app.kubernetes.io/instance": options.name}


def _yaml_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """A mapping in YAML's block style; texts are in double quotes, as in JSON, which YAML reads alike."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield f"{key}:"
            yield from (f"  {line}" for line in _yaml_lines(item))
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            yield f"{key}:"
            for entry in item:
                first, *others = _yaml_lines(entry)
                yield f"  - {first}"
                yield from (f"    {line}" for line in others)
        else:
            yield f"{key}: {json.dumps(item, ensure_ascii=False)}"
