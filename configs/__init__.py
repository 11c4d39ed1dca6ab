"""Preset workflows as YAML, and the loader that reads them."""
