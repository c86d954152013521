"""Speed and memory side by side with the references; `python -m benchmarks NAME`."""
