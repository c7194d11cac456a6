"""Kernels in C for decoding on a CPU, compiled where they are used."""
