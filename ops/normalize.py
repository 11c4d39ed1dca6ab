"""Moved to `skyloom.ops.normalization.normalize`; this name goes when nobody imports it."""

from skyloom.ops.normalization.normalize import describe_islands, normalize, normalize_cost

__all__ = ["describe_islands", "normalize", "normalize_cost"]
