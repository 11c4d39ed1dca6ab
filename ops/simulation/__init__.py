"""Frames with known truth."""
