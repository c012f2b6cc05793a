"""Names of the zoo, and what patches its networks take."""

import pytest

from autoseg.records.zoo import (
    MONAI_NETWORKS,
    SMP_DECODERS,
    SMP_ENCODERS,
    declare_of_zoo,
    describe_names,
    zoo_names,
)


def test_each_name_is_there_once_and_has_a_declaration():
    names = list(zoo_names())
    assert len(set(names)) == len(names)
    assert len(names) == 9 + 10 * 49 - 2 * 18 - 2 * 6  # pairs that do not go together
    for name in names:
        declaration = declare_of_zoo(name)
        assert declaration.dimensions == ((2, 3) if name.startswith("monai:") else (2,))
        assert declaration.requires


def test_families_that_people_ask_for_are_there():
    assert set(MONAI_NETWORKS) == {
        "VNet", "HighResNet", "AttentionUnet", "BasicUNetPlusPlus", "SegResNet", "DynUNet", "UNETR", "SwinUNETR",
        "MedNeXt",
    }  # fmt: skip
    assert set(SMP_DECODERS) == {
        "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3Plus", "UPerNet", "Segformer",
    }  # fmt: skip
    assert {"resnet34", "tu-hrnet_w48", "inceptionv4", "densenet121", "se_resnet50", "mobilenet_v2"} < set(SMP_ENCODERS)


@pytest.mark.parametrize("name", ["monai:Unknown", "smp:Unet", "smp:Unet/unknown", "smp:SegResNet", "resnet34", ""])
def test_an_unknown_name_lists_all(name):
    with pytest.raises(ValueError, match="the zoo has no") as raised:
        declare_of_zoo(name)
    message = str(raised.value)
    for known in (*(f"monai:{network}" for network in MONAI_NETWORKS), *SMP_DECODERS, *SMP_ENCODERS):
        assert known in message


def test_an_encoder_that_does_not_suit_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"PAN does not go with densenet121: .*dilate") as raised:
        declare_of_zoo("smp:PAN/densenet121")
    assert "resnet34" in str(raised.value)
    assert "inceptionv4" not in str(raised.value)
    assert "smp:Linknet/mit_b0" not in list(zoo_names())


def test_the_names_are_listed_by_library():
    lines = describe_names().splitlines()
    assert len([line for line in lines if "monai:" in line]) == 1
    assert "smp:DECODER/ENCODER" in describe_names()
