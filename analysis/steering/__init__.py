"""Steering evaluation: arms, dose search, verdict."""
