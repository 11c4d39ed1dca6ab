"""Restoration of linear images."""
