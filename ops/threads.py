"""One BLAS thread for what must come out the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

P = ParamSpec("P")
T = TypeVar("T")


def one_blas_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with BLAS on one thread.

    How many threads share a sum decides its last bits; with one, a laptop, a worker and an interrupted run agree
    to the bit. On cores that other tasks keep busy it is also many times faster.
    """

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
