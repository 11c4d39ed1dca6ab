"""Imports every module that registers an op."""
