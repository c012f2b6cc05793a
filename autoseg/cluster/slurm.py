"""A script for SLURM that trains every fold, selects and reports: job arrays that wait for each other.

The script is one file: without a place in an array it submits the arrays, and with one it does that task.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.costs.runs import Training


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What each task of the array asks SLURM for; None: the site's default."""

    gres: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    mem: str | None = None
    cpus_per_task: int | None = None
    devices: int = 1
    """Devices that each training is planned for."""
    notice_seconds: int = 120
    """Seconds before the end of the time limit at which a training is asked for a checkpoint."""


def format_script(workspace: Path, groups: Sequence[Sequence[Training]], options: SlurmOptions) -> str:
    """Bash script for `sbatch` or `bash`.

    Args:
        workspace: Absolute path, reachable on every node.
        groups: Trainings; each group waits until all of the one before have succeeded.
        options: What each task asks for.
    """
    trainings = [training for group in groups for training in group]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH {directive}" for directive in _directives(len(groups[0]), options)),
            "",
            _USAGE,
            f"python={shlex.quote(sys.executable)}",
            f"workspace={shlex.quote(str(workspace))}",
            f"configurations=({' '.join(shlex.quote(training.configuration) for training in trainings)})",
            f"folds=({' '.join(shlex.quote(training.fold) for training in trainings)})",
            f"arrays=({' '.join(_arrays(groups))})",
            *([f"devices={options.devices}"] if options.devices > 1 else []),
            _BODY,
        ]
    )


def _directives(num_first: int, options: SlurmOptions) -> list[str]:
    wanted = {
        "gres": options.gres,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "mem": options.mem,
        "cpus-per-task": options.cpus_per_task,
    }
    return [
        "--job-name=autoseg",
        f"--array=0-{num_first - 1}",
        *(f"--{name}={value}" for name, value in wanted.items() if value is not None),
        "--nodes=1",
        "--ntasks=1",
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{options.notice_seconds}",
    ]


def _arrays(groups: Sequence[Sequence[Training]]) -> list[str]:
    """Ranges of indices, one for each group, and a last one for selection and report."""
    ranges, start = [], 0
    for group in groups:
        ranges.append(f"{start}-{start + len(group) - 1}")
        start += len(group)
    return [*ranges, str(start)]


_USAGE = """\
# Submit it with `bash FILE` or `sbatch FILE`. Each index is one configuration and fold; the last one selects and
# reports. The first array starts at once, each later one when all of the one before has succeeded. Before the time
# limit a training writes a checkpoint and is queued again. Submitted again, finished folds are left as they are."""

_BODY = r"""set -uo pipefail

submit() { # options of sbatch; prints the id of the job
    local id
    id=$(sbatch --parsable "$@") || exit 1
    printf '%s\n' "${id%%;*}"
}

submit_later_arrays() { # id of the job with the first array
    local before=$1 array
    for array in "${arrays[@]:1}"; do
        before=$(submit --array="$array" --dependency="afterok:$before" --kill-on-invalid-dep=yes "$0" task) || exit 1
        echo "array $array: job $before"
    done
}

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    first=$(submit --array="${arrays[0]}" "$0" task) || exit 1
    echo "array ${arrays[0]}: job $first"
    submit_later_arrays "$first"
    exit
fi
if [ "${1:-}" != task ] && [ "$SLURM_ARRAY_TASK_ID" -eq 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]; then
    submit_later_arrays "$SLURM_ARRAY_JOB_ID" # this script was given to sbatch, so the first array runs already
fi

cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/autoseg.XXXXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
export OMP_NUM_THREADS=$cores TMPDIR=$scratch MPLCONFIGDIR=$scratch/matplotlib JOBLIB_TEMP_FOLDER=$scratch
export TORCHINDUCTOR_CACHE_DIR=$scratch/inductor TRITON_CACHE_DIR=$scratch/triton

run() { # arguments of autoseg; gives its exit code, 138 when it wrote a checkpoint because of USR1
    "$python" -m autoseg "$@" &
    local child=$! code=0
    trap 'kill -USR1 "$child"' USR1
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # the signal ended the waiting, not the program
        code=0
        wait "$child" || code=$?
    done
    trap - USR1
    return "$code"
}

work() { # index of the task
    if [ "$1" -ge "${#configurations[@]}" ]; then
        run select "$workspace" --workers "$cores" && run report "$workspace"
        return
    fi
    local options=(--configuration "${configurations[$1]}" --fold "${folds[$1]}")
    if [ -n "${SLURM_JOB_GPUS:-${SLURM_GPUS_ON_NODE:-}}" ]; then
        options+=(--workers "$((cores > ${devices:-1} ? cores / ${devices:-1} : 1))")
    fi
    run train "$workspace" "${options[@]}"
}

work "$SLURM_ARRAY_TASK_ID"
code=$?
if [ "$code" -eq 138 ]; then
    echo "stopped before the time limit; queued again, to resume"
    rm -rf "$scratch"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
