"""Windows of plain numbers are read as numpy cuts them, however the system answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.plain_pixels import content_id, file_state, read_bytes, read_window, sample_offsets


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_window(tmp_path: Path, data: st.DataObject) -> None:
    kind = np.dtype(data.draw(st.sampled_from(["u1", "<u2", ">u2", "<f4", ">f8"])))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    array = np.random.default_rng(0).integers(0, 200, (height, width)).astype(kind)
    path = tmp_path / "x"
    path.write_bytes(b"head" + array.tobytes())
    rows = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2)))
    columns = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2)))
    window = read_window(
        str(path), kind, offset=4, pitch=width, rows=(rows[0], rows[1]), columns=(columns[0], columns[1])
    )
    assert window.dtype == kind
    assert np.array_equal(window, array[rows[0] : rows[1], columns[0] : columns[1]])


@pytest.mark.parametrize("columns", [(0, 700), (3, 699)])
def test_reads_that_come_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: tuple[int, int]
) -> None:
    array = np.arange(1300 * 700, dtype="<u4").reshape(1300, 700)
    path = tmp_path / "x"
    path.write_bytes(array.tobytes())
    whole = os.preadv

    def in_parts(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        assert len(buffers) <= 1024
        return whole(descriptor, [memoryview(buffers[0])[:999]], offset)

    for monkey in (False, True):
        if monkey:
            monkeypatch.setattr("skyloom.ops.formats.plain_pixels.os.preadv", in_parts)
        window = read_window(str(path), array.dtype, offset=0, pitch=700, rows=(1, 1299), columns=columns)
        assert np.array_equal(window, array[1:1299, slice(*columns)])


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    for columns in ((0, 10), (2, 8)):
        with pytest.raises(UnusableFile, match="truncated while it was read"):
            read_window(str(path), np.dtype("u1"), offset=0, pitch=10, rows=(5, 20), columns=columns)
    with pytest.raises(UnusableFile, match="truncated"):
        read_bytes(str(path), 50, 10**12)
    assert read_bytes(str(path), 50, 50) == bytes(50)


def test_state_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)
    size, _, head = file_state(str(path))
    assert (size, head) == (100, b"x" * 64)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(UnusableFile, match="cannot be read"):
            file_state(str(wrong))


@given(count=st.integers(0, 10**9))
def test_samples_lie_within_the_data(count: int) -> None:
    offsets = sample_offsets(count)
    assert len(offsets) <= 16
    assert all(0 <= o < count for o in offsets)
    if count > 16 * 16384:
        assert offsets[0] == 0
        assert offsets[-1] + 16384 == count


def test_content_sees_header_size_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = bytearray(300)
    path.write_bytes(data)
    ids = {content_id(str(path), 300, b"h", 0, 300), content_id(str(path), 300, b"i", 0, 300)}
    ids.add(content_id(str(path), 301, b"h", 0, 300))
    data[200] = 1
    path.write_bytes(data)
    ids.add(content_id(str(path), 300, b"h", 0, 300))
    assert len(ids) == 4
    assert all(len(i) == 16 for i in ids)
