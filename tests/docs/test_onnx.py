"""The guide to exported ONNX networks names fields that exist, and every constant that a program needs."""

from collections.abc import Iterator

from pydantic import BaseModel

from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.network import NormalizationSpec, ResamplingSpec
from autoseg.records.onnx_network import OnnxNetwork, SwappedOutputs, WindowConstants
from autoseg.records.plan import Configuration
from autoseg.records.selection import FillHoles, KeepLargestComponent, RemoveSmallComponents
from tests.docs.documents import ROOT, code_spans, read

GUIDE = ROOT / "docs" / "onnx.md"
STEPS = (KeepLargestComponent, RemoveSmallComponents, FillHoles)
NESTED = (
    Head, LabelEncoding, NormalizationSpec, ResamplingSpec, WindowConstants, SwappedOutputs, Configuration, *STEPS
)  # fmt: skip
OF_OTHER_USE = {"dataset_name", "license", "fold", "file", "guide", "schema_version", "opset", "parity", "labels"}
"""Fields of the JSON file that say where a network comes from, not how to predict with it."""


def values(model: type[BaseModel]) -> Iterator[str]:
    """Words that a field of a record may have as its value."""
    for field in model.model_fields.values():
        yield from (str(value) for value in getattr(field.annotation, "__args__", ()))


def test_every_field_that_is_named_exists():
    known = {name for model in (OnnxNetwork, *NESTED) for name in model.model_fields}
    known |= {value for model in (OnnxNetwork, *NESTED) for value in values(model)}
    words = {word.split("[")[0] for span in code_spans(read(GUIDE)) for word in span.split(".")}
    unknown = {word for word in words if word.isidentifier()} - known
    assert not unknown - {"autoseg"}


def test_every_constant_of_prediction_is_named():
    text = read(GUIDE)
    needed = {"orientation", "selected", *WindowConstants.model_fields, *ResamplingSpec.model_fields} | (
        set(OnnxNetwork.model_fields) - OF_OTHER_USE - {"configuration", "input", "output", "settings"}
    )
    assert not {name for name in needed if name not in text}
