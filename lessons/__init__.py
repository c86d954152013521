"""The science: boxes, detectors, data and training in plain torch."""
