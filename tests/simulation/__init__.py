"""Simulation: engine, store, clock and the world outside in one process, on a clock that jumps, drawn from one seed.

`python -m tests.simulation --seed N` repeats a schedule; without `--seed` it draws new ones for so many seconds.
"""
