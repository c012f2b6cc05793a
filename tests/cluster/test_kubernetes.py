"""Manifests for Kubernetes: valid for its API, without root, and each index does its own work."""

import os
import subprocess
from pathlib import Path

import pytest

from autoseg.cluster.kubernetes import (
    KubernetesOptions,
    Volume,
    format_manifests,
    make_name,
    prediction_manifests,
    training_manifests,
)
from autoseg.costs.runs import Training
from autoseg.errors import UsageError

WORKSPACE = Path('/disk/it\'s a $(HOSTNAME) of "names"')
DATASET = Path("/mnt/images/heart")
GROUPS = [[Training("2d", "0"), Training("3d_lowres", "1")], [Training("3d_cascade_fullres", "0")]]
VOLUMES = (Volume("disk", Path("/disk")), Volume("images", Path("/mnt/images"), is_read_only=True))
OPTIONS = KubernetesOptions(name="heart", image="registry/autoseg:1", volumes=VOLUMES, cpus=6, gpus=2)

TRAINING = training_manifests(WORKSPACE, DATASET, GROUPS, OPTIONS)
PREDICTION = prediction_manifests(Path("/disk/model.zip"), DATASET, Path("/disk/out"), 3, OPTIONS)


def jobs_of(manifests):
    return {item["metadata"]["name"]: item["spec"] for item in manifests if item["kind"] == "Job"}


def run_index(job, index, tmp_path) -> list[str]:
    """What a container of the index calls, with a program that stands for python."""
    (tmp_path / "python").write_text('#!/bin/sh\nfor word in "$@"; do printf "%s|" "$word"; done; echo\n')
    (tmp_path / "python").chmod(0o755)
    (container,) = job["template"]["spec"]["containers"]
    words = [word.replace("$$(", "$(") for word in container["args"]]  # as Kubernetes does
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert not any("$(" in word for word in container["command"])
    done = subprocess.run(
        [*container["command"], *words],
        env={**variables, "JOB_COMPLETION_INDEX": str(index), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.parametrize("manifests", [TRAINING, PREDICTION], ids=["training", "prediction"])
def test_the_schema_of_the_api_accepts_every_document(manifests):
    validate = pytest.importorskip("kubernetes_validate", reason="the extra `test` is not installed as a whole")
    yaml = pytest.importorskip("yaml")
    read = list(yaml.safe_load_all(format_manifests(manifests)))
    assert read == manifests
    for document in read:
        validate.validate(document, "1.33", strict=True)
    read[1]["spec"]["completions"] = "three"
    with pytest.raises(validate.ValidationError):
        validate.validate(read[1], "1.33", strict=True)


def test_every_index_trains_its_own_configuration_and_fold(tmp_path):
    first, second, last = jobs_of(TRAINING).values()
    assert [job["completions"] for job in (first, second, last)] == [2, 1, 1]
    called = [run_index(job, index, tmp_path) for job, index in ((first, 0), (first, 1), (second, 0))]
    assert called == [
        [f"-m|autoseg|train|{WORKSPACE}|-c|{item.configuration}|-f|{item.fold}|--workers|6|"]
        for group in GROUPS
        for item in group
    ]
    assert run_index(last, 0, tmp_path) == [
        f"-m|autoseg|select|{WORKSPACE}|--workers|6|", f"-m|autoseg|report|{WORKSPACE}|",
    ]  # fmt: skip


def test_every_index_predicts_its_own_part_and_the_last_job_joins_them(tmp_path):
    parts, join = jobs_of(PREDICTION).values()
    whole = f"-m|autoseg|predict|-m|/disk/model.zip|-i|{DATASET}|-o|/disk/out|--skip-existing|"
    assert [run_index(parts, index, tmp_path) for index in range(3)] == [
        [f"{whole}--part|{number}/3|"] for number in (1, 2, 3)
    ]
    assert run_index(join, 0, tmp_path) == [whole]


def test_later_jobs_wait_until_the_user_resumes_them():
    assert {name: job["suspend"] for name, job in jobs_of(TRAINING).items()} == {
        "autoseg-heart-train-1": False, "autoseg-heart-train-2": True, "autoseg-heart-select": True,
    }  # fmt: skip
    comments = [line for line in format_manifests(TRAINING).splitlines() if line.startswith("#")]
    assert sum("kubectl wait --for=condition=complete" in line for line in comments) == 2


def test_pods_need_neither_root_nor_network_nor_a_writable_image():
    policy = TRAINING[0]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy["spec"].keys(), "no rule that allows anything"
    for job in jobs_of(TRAINING + PREDICTION).values():
        pod = job["template"]["spec"]
        assert job["template"]["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        expected = {"cpu": "6", "memory": "16G", "nvidia.com/gpu": "2"}
        assert container["resources"] == {"requests": expected, "limits": expected}
        assert {mount["mountPath"]: mount.get("readOnly") for mount in container["volumeMounts"]} == {
            "/disk": False, "/mnt/images": True, "/scratch": None, "/dev/shm": None,
        }  # fmt: skip
        assert {mount["name"] for mount in container["volumeMounts"]} == {item["name"] for item in pod["volumes"]}


def test_a_checkpoint_is_no_failure_and_unusable_input_is_not_tried_again():
    for job in jobs_of(TRAINING).values():
        codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"][1:]}
        assert codes == {"Ignore": [129, 130, 138, 143], "FailIndex": [1, 2]}


@pytest.mark.parametrize(
    ("workspace", "dataset", "message"),
    [
        ("/other/w", "/disk/d", r"/other/w: lies in none of the mounted folders \(/disk, /mnt/images\)"),
        ("/disk/w", "/diskette/d", "/diskette/d: lies in none of the mounted folders"),
        ("/mnt/images/w", "/disk/d", "/mnt/images/w: is written, but its volume images is mounted read-only"),
    ],
)
def test_folders_that_no_volume_holds_are_refused(workspace, dataset, message):
    with pytest.raises(UsageError, match=message):
        training_manifests(Path(workspace), Path(dataset), GROUPS, OPTIONS)


@pytest.mark.parametrize("folder", ["Task04_Hippocampus.autoseg", "_", "é" * 80, "9" * 39 + "_x"])
def test_names_are_ones_that_kubernetes_accepts(folder):
    name = make_name(Path(folder))
    assert len(name) <= 40
    assert name.isascii()
    assert name == name.strip("-").lower()
