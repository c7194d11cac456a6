"""One measurement in a process of its own: `python -m docr.bench.worker ENGINE < SPEC`."""

import dataclasses
import importlib
import pickle
import sys

ENGINES = {"docr": "docr.bench.measure", "transformers": "docr.bench.peers"}


def main() -> None:
    """Read a pickled BenchSpec from standard input, write the pickled result to standard output."""
    spec = pickle.load(sys.stdin.buffer)  # from our own parent
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print must not spoil the result
    result = importlib.import_module(ENGINES[sys.argv[1]]).run(spec)
    out.write(pickle.dumps(dataclasses.asdict(result)))


if __name__ == "__main__":
    main()
