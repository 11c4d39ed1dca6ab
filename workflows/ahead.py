"""Reading ahead: what is asked for next is made in other threads while this one works on what it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2
"""Results that are made or wait besides the one in use."""

T = TypeVar("T")
Made = TypeVar("Made")


def ahead(make: Callable[[T], Made], items: Iterable[T]) -> Generator[Made]:
    """Make something of each item, in order, the next ones in threads of their own.

    Parameters
    ----------
    make
        Called once for each item, `AHEAD` at a time; should let go of the interpreter lock for most of its time.
    items
        In the order of the results.

    Yields
    ------
    object
        What `make` returns. An error it raises is raised where its result would have come.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="skyloom-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
