"""`python -m docr`."""

from docr.cli.main import run

if __name__ == "__main__":  # spawned children import the main module, too
    run()
