"""Figures and their intervals: separation, paired effects, groups, directions that mean nothing. Pure
functions.
"""
