"""The classroom: figures, widgets, notebook set-up, building and checking notebooks."""
