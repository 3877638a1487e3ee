"""Vectors of one trait side by side: what each costs, and how alike they are."""
