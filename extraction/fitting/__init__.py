"""Closed-form methods: from activations to directions."""
