"""Detectors, one paper per file."""
