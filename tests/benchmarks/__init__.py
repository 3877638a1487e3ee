"""Benchmarks against the peers: each subject is a script of its own with a `measure() -> dict`; report.py
runs them all.
"""
