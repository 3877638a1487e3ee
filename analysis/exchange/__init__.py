"""Vectors in the formats of other tools: writing them, reading them without trusting them, and saying how
they are used.
"""
