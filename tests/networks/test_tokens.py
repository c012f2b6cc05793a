import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.networks.blocks import choose_layers
from autoseg.networks.unext import PatchEmbedding, ShiftedBlock, ShiftedPerceptron, shift_tokens
from tests.networks.tokens_by_hand import normalized, perceptron_by_hand, rolled


@st.composite
def _tokens(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    shape = (draw(st.integers(1, 2)), *sizes, draw(st.integers(1, 23)))
    return shape, draw(st.integers(0, len(sizes) - 1))


@given(_tokens())
@settings(max_examples=100, deadline=None)
def test_shift_is_that_of_a_padded_rolled_and_cropped_image(case):
    shape, axis = case
    tokens = torch.randn(shape)
    expected = tokens if shape[1 + axis] < 5 else rolled(tokens.movedim(-1, 1), axis).movedim(1, -1)
    assert torch.equal(shift_tokens(tokens, axis), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shift_moves_groups_of_features_by_hand(axis):
    tokens = torch.zeros(1, 5, 6, 7, 13)  # groups of 3, 3, 3, 3, 1
    tokens[0, 2, 2, 2, :] = torch.arange(1.0, 14)
    shifted = shift_tokens(tokens, axis)
    for feature in range(13):
        place = [2, 2, 2]
        place[axis] += feature // 3 - 2
        assert shifted[(0, *place, feature)] == feature + 1
    assert shifted.count_nonzero() == 13


def test_what_leaves_the_image_does_not_come_back():
    tokens = torch.ones(1, 5, 8, 10)
    shifted = shift_tokens(tokens, 0)
    assert shifted.sum(dim=(0, 2, 3)).tolist() == [8 * n for n in (6, 8, 10, 8, 6)]


def test_axis_of_four_voxels_is_not_shifted():
    tokens = torch.randn(2, 4, 7, 10)
    assert shift_tokens(tokens, 0) is tokens
    assert not torch.equal(shift_tokens(tokens, 1), tokens)


@pytest.mark.parametrize(("sizes", "kernel"), [((5, 7), (3, 5)), ((6, 3), (3, 3)), ((4, 8, 5), (1, 3, 3))])
def test_perceptron_shifts_and_mixes_along_one_axis_after_the_other(sizes, kernel):
    perceptron = ShiftedPerceptron(choose_layers(3 if len(sizes) == 3 else 2), 12, kernel)
    features = torch.randn(2, 12, *sizes)
    expected = perceptron_by_hand(dict(perceptron.named_parameters()), features)
    output = perceptron(features.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_block_has_a_shortcut_and_a_norm_before_and_after():
    block = ShiftedBlock(choose_layers(2), 7, (3, 3))
    features = 3 * torch.randn(2, 7, 6, 9) + 1
    inner = perceptron_by_hand(dict(block.perceptron.named_parameters()), normalized(features))
    torch.testing.assert_close(block(features), normalized(features + inner), rtol=1e-4, atol=1e-4)


def test_patch_embedding_divides_the_size_by_the_stride_and_normalises_over_features():
    embedding = PatchEmbedding(choose_layers(3), 2, 6, (1, 3, 5), (1, 2, 3))
    image = torch.randn(2, 2, 3, 8, 9)
    convolution = embedding.convolution
    expected = F.conv3d(image, convolution.weight, convolution.bias, stride=(1, 2, 3), padding=(0, 1, 2))
    assert expected.shape == (2, 6, 3, 4, 3)
    torch.testing.assert_close(embedding(image), normalized(expected), rtol=1e-4, atol=1e-4)


def test_block_keeps_channels_last_memory():
    block = ShiftedBlock(choose_layers(3), 10, (3, 3, 3))
    features = torch.randn(2, 10, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    assert block(features).is_contiguous(memory_format=torch.channels_last_3d)
