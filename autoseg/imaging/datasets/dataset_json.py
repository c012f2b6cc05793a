"""The file dataset.json, in the form of nnU-Net v2, of nnU-Net v1 and of the Medical Segmentation Decathlon."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from autoseg.errors import DatasetError, RecordError
from autoseg.imaging.datasets.labels.annotated_labels import read_annotated
from autoseg.records.dataset import BACKGROUND, LabelValues
from autoseg.records.files import read_json


def _key_channels(value: object) -> object:
    """Channel names by key, from a list of names, one name or {"name": number}; anything else as it is."""
    if isinstance(value, str):
        return {"0": value}
    if isinstance(value, list):
        return {str(number): name for number, name in enumerate(value)}
    if isinstance(value, dict) and all(type(number) is int for number in value.values()):
        return {str(number): name for name, number in value.items()}
    return value


ChannelNames = Annotated[dict[str, str], BeforeValidator(_key_channels)]
"""Channel names by key, in the order of the file."""


def _read_names(value: object) -> object:
    """Names of labels from a text with commas, or a list of names and values; None as it is.

    Raises:
        ValueError: If it is something else.
    """
    if value is None:
        return None
    parts = value if isinstance(value, str | list) else [value]
    if not all(isinstance(part, str) or type(part) is int for part in parts):
        raise ValueError(f'expected a list of names such as ["liver"], found {json.dumps(value)}')
    return read_annotated(value if isinstance(value, str) else [str(part) for part in parts])


def _check_by_case(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError(
            f'expected lists of names by case, such as {{"case_17": ["liver"]}}, found {json.dumps(value)}'
        )
    return value


AnnotatedNames = Annotated[tuple[str, ...] | None, BeforeValidator(_read_names)]
"""Labels that were looked for in a case: a list of names or values, or a text with commas; None: all."""

AnnotatedCases = Annotated[dict[str, AnnotatedNames], BeforeValidator(_check_by_case)]
"""Labels that were looked for, by case id; all were in cases that are not listed."""


class TrainingEntry(BaseModel):
    """One case in the list `training`: its files, or the name of its image alone."""

    image: str | list[str] = ""
    label: str = ""
    annotated: AnnotatedNames = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"image": value} if isinstance(value, str) else value

    @property
    def images(self) -> list[str]:
        """Image files, one for each channel or one for all."""
        return [self.image] if isinstance(self.image, str) else self.image


class ExplicitCase(BaseModel):
    """One case in nnU-Net v2's dictionary `dataset`."""

    images: list[str] = []
    label: str = ""
    annotated: AnnotatedNames = None


class DatasetJson(BaseModel):
    """The keys of dataset.json that are used."""

    labels: dict[str, int | str | list[int]]
    modality: ChannelNames | None = None
    channel_names: ChannelNames | None = None
    training: list[TrainingEntry] | None = None
    num_training: int | str | None = Field(default=None, alias="numTraining")
    regions_class_order: list[int] | None = None
    dataset: dict[str, ExplicitCase] | None = None
    annotated: AnnotatedCases = {}

    @property
    def is_nnunet_v2(self) -> bool:
        """Whether the channels are named as in nnU-Net v2, and not as in its first version and the Decathlon."""
        return self.channel_names is not None


def read_dataset_json(path: Path) -> DatasetJson:
    """Read dataset.json; keys that autoseg does not use may hold anything.

    Raises:
        DatasetError: If it is no JSON, or keys are missing or wrong.
    """
    try:
        return parse_dataset_json(read_json(path), path)
    except RecordError as error:
        raise DatasetError(str(error)) from error


def parse_dataset_json(content: object, path: Path) -> DatasetJson:
    """Check content that was read from a file like dataset.json.

    Raises:
        DatasetError: If keys are missing or wrong.
    """
    try:
        return DatasetJson.model_validate(content)
    except ValidationError as error:
        wrong = "\n".join(
            f"  {'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise DatasetError(f"{path}: these fields are missing or wrong:\n{wrong}") from error


def declared_channels(declared: DatasetJson) -> tuple[str, ...] | None:
    """Channel names in the order of the channels' files; None when none are declared."""
    names = declared.channel_names or declared.modality
    return order_channels(names) if names else None


def order_channels(names: Mapping[str, str]) -> tuple[str, ...]:
    """Channel names in the order of the channels' files.

    Numbers as keys are the channels' numbers. Other keys have no meaning, and the order in the file counts, as in
    nnU-Net.

    Args:
        names: Channel names by key, in the order of the file.
    """
    if all(key.strip().isdecimal() for key in names):
        return tuple(names[key] for key in sorted(names, key=int))
    return tuple(names.values())


def declared_labels(declared: DatasetJson, path: Path) -> dict[str, LabelValues]:
    """Values by name, from {"name": value} or from the Decathlon's {"value": "name"}.

    The background is called `background`, whatever name the value 0 has in the file.

    Raises:
        DatasetError: If a value is no whole number, or two labels have one name.
    """
    labels: dict[str, LabelValues] = {}
    try:
        for key, entry in declared.labels.items():
            if isinstance(entry, list):
                labels[key] = tuple(entry) if len(entry) != 1 else entry[0]
            elif isinstance(entry, str) and key.isdecimal():
                labels[entry] = int(key)
            else:
                labels[key] = int(entry)
    except ValueError as error:
        raise DatasetError(f'{path}: labels: {error}; expected "name": value') from error
    if len(labels) != len(declared.labels):
        raise DatasetError(f"{path}: labels: two labels have the same name")
    background = [name for name in labels if name.lower() == BACKGROUND]
    named_otherwise = [name for name, values in labels.items() if values == 0]
    if not background and len(named_otherwise) == 1:
        background = named_otherwise
    return {BACKGROUND if name in background else name: values for name, values in labels.items()}
