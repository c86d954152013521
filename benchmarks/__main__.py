"""`python -m benchmarks NAME [OPTIONS]`: ops, models, metrics or proposals beside their references, for speed
and memory; parity, how far models differ from them; mutants, planted bugs."""

import importlib
import sys

NAMES = ("ops", "models", "parity", "metrics", "proposals", "mutants")


def main() -> int:
    """Runs one benchmark with the options that follow its name; returns 2 for an unknown name."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [options]", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:]) or 0  # only mutants can fail


if __name__ == "__main__":
    sys.exit(main())
