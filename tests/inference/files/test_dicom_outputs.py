from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.files.dicom_outputs import segments_of
from tests.builders import LABELS, REGIONS, make_plan


def test_segments_of_labels():
    segments = segments_of(make_plan(labels=LABELS).encoding)
    assert [(segment.name, segment.values) for segment in segments] == [("anterior", (3,)), ("posterior", (300,))]
    assert len({segment.rgb for segment in segments}) == 2


def test_segments_of_regions_are_the_regions_or_the_parts_that_the_label_map_shows():
    encoding = make_encoding(REGIONS, (1, 2, 3))
    regions = [(segment.name, segment.values) for segment in segments_of(encoding)]
    assert regions == [("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,))]
    parts = [(segment.name, segment.values) for segment in segments_of(encoding, apart=True)]
    assert parts == [("whole", (1,)), ("core", (2,)), ("enhancing", (3,))]
