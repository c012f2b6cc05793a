"""A battery of made-up folders: recognised as stated, or refused with the stated sentence."""

import pytest

pytest.register_assert_rewrite("tests.layouts.folders")
