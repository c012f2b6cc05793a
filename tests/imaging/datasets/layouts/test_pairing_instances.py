"""Maps with numbers of objects lie beside the label maps, and are no cases."""

from autoseg.imaging.datasets.layouts.pairing import pair_files


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_maps_of_objects_belong_to_the_label_map_beside_them(tmp_path):
    write_files(tmp_path, "images/a.png", "images/b.png")
    write_files(tmp_path, "labels/a.png", "labels/a_instances.tif", "labels/b_seg.png", "labels/b_seg_instances.png")
    cases, faults = pair_files(tmp_path, "images", "labels")
    assert not faults
    assert [(case.case, case.label, case.instances) for case in cases] == [
        ("a", "labels/a.png", "labels/a_instances.tif"),
        ("b", "labels/b_seg.png", "labels/b_seg_instances.png"),
    ]


def test_an_image_of_such_a_name_is_a_case(tmp_path):
    write_files(tmp_path, "images/a.png", "images/a_instances.png", "labels/a.png", "labels/a_instances.png")
    cases, faults = pair_files(tmp_path, "images", "labels")
    assert not faults
    assert [(case.case, case.instances) for case in cases] == [("a", ""), ("a_instances", "")]


def test_a_map_of_objects_alone_is_a_label_map_without_image(tmp_path):
    write_files(tmp_path, "images/a.png", "labels/a.png", "labels/c_instances.png")
    _, faults = pair_files(tmp_path, "images", "labels")
    assert [fault.file for fault in faults] == ["labels/c_instances.png"]
