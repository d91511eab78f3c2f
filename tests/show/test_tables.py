"""Sizes of files in words."""

import pytest

from wsss_lib.show.tables import file_size


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (333, "333 bytes"), (2063, "2.0 KiB"), (6_085_219, "5.8 MiB")]
)
def test_a_size_has_the_unit_that_suits_it(tmp_path, size, words):
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert file_size(path) == words
