"""Backbones, one architecture per file."""
