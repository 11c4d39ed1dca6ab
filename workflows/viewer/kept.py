"""What was made lately, bounded by its bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Cache of values by key; those used longest ago leave when their sizes exceed a budget.

    Parameters
    ----------
    budget
        Bytes.
    size
        Bytes of a value. One larger than the budget is handed out but not kept.
    """

    def __init__(self, budget: int, size: Callable[[T], int]) -> None:
        self.budget, self._size = budget, size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    @property
    def total(self) -> int:
        """Bytes kept."""
        return self._total

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Value of a key; made once, however many threads ask for it at a time."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            gate = self._making.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
                self._keep(key, value)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    def _keep(self, key: Hashable, value: T) -> None:
        size = self._size(value)
        if size > self.budget:
            return
        with self._lock:
            self._values[key] = value
            self._total += size
            while self._total > self.budget:
                _, old = self._values.popitem(last=False)
                self._total -= self._size(old)

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._values.clear()
            self._total = 0
