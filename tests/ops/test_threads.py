"""BLAS has one thread where it was asked for, and as long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from threadpoolctl import OpenBLASController, threadpool_info, threadpool_limits

from skyloom.ops.threads import blas_kernels, one_blas_thread, one_blas_thread_for_all


def blas_threads() -> set[int]:
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}


@pytest.fixture
def many_threads() -> Iterator[None]:
    """A BLAS of two threads, that any thread may limit."""
    scipy.linalg.inv(np.linalg.inv(np.eye(3)))
    with threadpool_limits(limits=2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has one thread only")
        OpenBLASController.clear_controlling_thread()
        yield


def in_thread(function: Callable[[], object]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=30)


@pytest.mark.usefixtures("many_threads")
def test_a_function_has_one_thread_and_gives_the_others_back() -> None:
    @one_blas_thread
    def solve(fail: bool) -> set[int]:
        if fail:
            raise ValueError(str(blas_threads()))
        return blas_threads()

    assert in_thread(lambda: solve(False)) == {1}
    assert blas_threads() == {2}
    with pytest.raises(ValueError, match=r"\{1\}"):
        in_thread(lambda: solve(True))
    assert blas_threads() == {2}


@pytest.mark.usefixtures("many_threads")
def test_who_leaves_first_takes_nothing_from_the_others() -> None:
    def two() -> set[int]:
        first_in, second_in, first_out = (threading.Event() for _ in range(3))

        @one_blas_thread
        def first() -> None:
            first_in.set()
            assert second_in.wait(20)

        def leave() -> None:
            first()
            first_out.set()

        @one_blas_thread
        def second() -> set[int]:
            second_in.set()
            assert first_out.wait(20)
            return blas_threads()

        with ThreadPoolExecutor(2) as pool:
            left = pool.submit(leave)
            assert first_in.wait(20)
            seen = pool.submit(second).result(timeout=30)
            left.result(timeout=30)
        return seen

    with one_blas_thread_for_all():
        assert two() == {1}
    assert blas_threads() == {2}


def test_the_kernels_have_a_name() -> None:
    assert blas_kernels() == blas_kernels() != ""
    for library in (i for i in threadpool_info() if i["user_api"] == "blas"):
        assert str(library["internal_api"]) in blas_kernels()
