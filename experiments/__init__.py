"""One file per claim of a paper; `python -m experiments NAME` runs it over its seeds."""
