"""Measuring speed: docr's whole chain, or another engine, on the same pages, lengths and weights.

Every measurement is a child process (worker.py), so that its peak of memory is its own and engines
can take turns. Nothing outside `docr.cli` imports this package.
"""
