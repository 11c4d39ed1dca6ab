"""Every module of skyloom that registers an op; loaded through the entry point a user's ops use too."""

from skyloom.ops import ingest, integrate, measure, normalize, register

__all__ = ["ingest", "integrate", "measure", "normalize", "register"]
