"""The recipe of the container image: read as text, because no engine runs where tests do."""

import argparse
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from autoseg.cli import predict, serve

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "container" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(text):
    """Pairs of keyword and arguments; lines that end with a backslash go on."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def find_faults(text):
    """Faults by the rules of hadolint that concern this recipe, and some for what runs without root or network."""
    found = instructions(text)
    last_stage = found[max(index for index, (word, _) in enumerate(found) if word == "FROM") :]
    users = [value for word, value in last_stage if word == "USER"]
    faults = ["runs as root"] if not users or re.match(r"(root|0)\b", users[-1]) else []
    if "HEALTHCHECK" not in [word for word, _ in last_stage]:
        faults.append("no HEALTHCHECK")
    for word, value in found:
        image = value.split()[0]
        if word == "FROM" and not re.search(r":\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", image):
            faults.append(f"base is not pinned: {image}")
        if word == "RUN":
            faults += find_faults_of_command(value)
        if word == "ADD":
            faults.append("ADD fetches and unpacks; use COPY")
        if word == "COPY" and re.match(r"\.\s", value):
            faults.append("copies everything")
        if word in ("CMD", "ENTRYPOINT") and not isinstance(json.loads(value), list):
            faults.append("runs in a shell")
        if word in ("ENV", "ARG", "COPY") and re.search(r"(?i)(token|password|secret)[\w]*=?\S*=", value):
            faults.append("a secret is part of the image")
    return faults


def find_faults_of_command(command):
    if "apt-get install" in command:
        if "--no-install-recommends" not in command:
            yield "apt-get installs what is only recommended"
        if "rm -rf /var/lib/apt/lists" not in command:
            yield "lists of apt stay in the image"
    for install in re.findall(r"pip install[^&;]*", command):
        if "--no-cache-dir" not in install:
            yield "pip's cache stays in the image"
        if re.search(r"(?<=\s)\"?[a-z][\w-]+\"?(?=\s|$)", install.removeprefix("pip install")):
            yield "a package without a version"
    if re.search(r"\b(sudo|curl|wget)\b", command):
        yield "sudo, curl or wget"


def test_the_recipe_has_no_faults():
    assert find_faults(RECIPE) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.12.8-slim-bookworm AS build", "python:latest AS build", "base is not pinned: python:latest"),
        ("python:3.12.8-slim-bookworm AS build", "python AS build", "base is not pinned: python"),
        ("USER 10001:10001", "USER root", "runs as root"),
        ("USER 10001:10001", "", "runs as root"),
        ("HEALTHCHECK", "LABEL", "no HEALTHCHECK"),
        ("--no-cache-dir --index-url", "--index-url", "pip's cache stays in the image"),
        ('"torch==${TORCH_VERSION}"', "torch", "a package without a version"),
        ("COPY autoseg ./autoseg", "COPY . .", "copies everything"),
        ("COPY autoseg ./autoseg", "ADD autoseg ./autoseg", "ADD fetches and unpacks; use COPY"),
        ("RUN python -m venv", "RUN apt-get install --no-install-recommends gcc=4 && python -m venv", "lists of apt"),
        ("WORKDIR /tmp", "ENV API_TOKEN=abc", "a secret is part of the image"),
    ],
)
def test_a_planted_fault_is_found(old, new, fault):
    assert old in RECIPE
    assert any(found.startswith(fault) for found in find_faults(RECIPE.replace(old, new, 1)))


def test_files_versions_and_extras_are_those_of_the_project():
    found = instructions(RECIPE)
    for word, value in found:
        if word == "COPY" and not value.startswith("--from"):
            assert all((ROOT / name).exists() for name in value.split()[:-1]), value
    bases = {value.split()[0] for word, value in found if word == "FROM"}
    assert len(bases) == 1  # an environment is copied from one to the other
    (python,) = re.findall(r"python:([\d.]+)", bases.pop())
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    (torch,) = re.findall(r"ARG TORCH_VERSION=(\S+)", RECIPE)
    allowed = next(Requirement(text) for text in PROJECT["dependencies"] if Requirement(text).name == "torch")
    assert allowed.specifier.contains(torch)
    (extras,) = re.findall(r'"/source\[([\w,]+)\]"', RECIPE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def parse(module, words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_the_commands_are_understood():
    (words,) = (json.loads(value) for word, value in instructions(RECIPE) if word == "CMD")
    assert words.pop(0) == "serve"
    parsed = parse(serve, words)
    assert (parsed.host, str(parsed.token_file)) == ("0.0.0.0", "/run/secrets/autoseg_token")
    assert f"EXPOSE {parsed.port}" in RECIPE
    assert f"127.0.0.1:{parsed.port}/health" in RECIPE


@pytest.fixture(scope="module")
def services():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra `test`)")
    content = yaml.safe_load((ROOT / "container" / "compose.yaml").read_text())
    return content["services"], content


def test_services_have_no_rights(services):
    for service in services[0].values():
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "pid", "ipc"} & service.keys()
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]
        writable = [volume["target"] for volume in service["volumes"] if not volume.get("read_only")]
        assert writable in ([], ["/output"])
        (model,) = [volume for volume in service["volumes"] if volume["target"] == "/model"]
        assert model["read_only"] is True
        assert service["image"] == f"autoseg:{PROJECT['version']}"


def test_services_reach_no_network(services):
    found, content = services
    assert found["predict"]["network_mode"] == "none"
    assert all(port.startswith("127.0.0.1:") for port in found["serve"]["ports"])
    (network,) = found["serve"]["networks"]
    assert content["networks"][network]["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    words = found["predict"]["command"]
    assert words[0] == "predict"
    parsed = parse(predict, words[1:])
    mounted = {volume["target"] for volume in found["predict"]["volumes"]}
    assert {str(path) for path in (parsed.model, parsed.images, parsed.output)} == mounted


def test_only_what_is_copied_is_sent_to_the_engine():
    ignored = (ROOT / "container" / "Dockerfile.dockerignore").read_text().split()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [value.split() for word, value in instructions(RECIPE) if word == "COPY" and "--from" not in value]
    assert "*" in ignored
    assert kept == {name for names in copied for name in names[:-1]}
