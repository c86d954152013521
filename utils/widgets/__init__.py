"""Widgets: geometry to pull about by hand."""
