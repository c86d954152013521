"""`python -m experiments NAME ...` runs experiments over their seeds and writes data/results/NAME.json.

Results of seeds that are done are kept, so an interrupted run continues where it stopped; --fresh begins anew.
Measurements (`race`) have no seeds; "all" means the experiments.
"""

import argparse
import importlib

from experiments.record import SEEDS, conduct, known_experiments, known_measurements, what_is_missing


def main(argv: list[str] | None = None) -> None:
    """Runs the experiments and measurements named on the command line, or all experiments."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("name", nargs="+", choices=["all", *known_experiments(), *known_measurements()])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--fresh", action="store_true", help="forget results that are there")
    given = parser.parse_args(argv)
    for name in known_experiments() if "all" in given.name else given.name:
        if name in known_measurements():
            importlib.import_module(f"experiments.{name}").conduct(given.fresh)
            continue
        if "all" in given.name and (missing := what_is_missing(name)):  # photographs that are not embedded
            print(f"{name} is left out: {missing}")
            continue
        result = conduct(name, given.seeds, given.fresh)
        print(f"\n{name}: {result['claim']}")
        for condition, row in result["mean"].items():
            shown = [f"{key} {value:.3f} ± {result['sd'][condition][key]:.3f}" for key, value in row.items()]
            print(f"  {condition:28}", "  ".join(shown[:3]))
        for statement, holds in result["verdict"].items():
            print(f"  {'yes' if holds else 'NO '}  {statement}")


if __name__ == "__main__":
    main()
