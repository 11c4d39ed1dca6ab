"""One BLAS thread for what must come out the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")


@cache
def _libraries() -> ThreadpoolController:
    """Libraries that have threads of their own. To find them takes milliseconds: once a process."""
    import scipy.linalg  # noqa: F401  # has a BLAS of its own, loaded with it

    return ThreadpoolController()


def one_blas_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with BLAS on one thread.

    How many threads share a sum decides its last bits; with one, a laptop, a worker and an interrupted run agree
    to the bit. On cores that other tasks keep busy it is also many times faster.
    """

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@contextmanager
def one_blas_thread_for_all() -> Iterator[None]:
    """Keep BLAS on one thread in the whole process, where its threads belong to all of it.

    Of several threads that each ask for the limit, the first to leave would give the others their threads back.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


def blas_kernels() -> str:
    """Which BLAS sums here and for which kind of processor, such as "openblas 0.3.30 Haswell".

    Kernels for other processors add in another order, so the last bits of what they solve differ.
    """
    found = {
        " ".join(str(i[k]) for k in ("internal_api", "version", "architecture") if i.get(k))
        for i in _libraries().info()
        if i["user_api"] == "blas"
    }
    return ", ".join(sorted(found))
