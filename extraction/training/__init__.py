"""Trained methods: directions fitted by gradient descent through the frozen model."""
