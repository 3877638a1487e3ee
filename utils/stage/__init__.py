"""Commands and stages: flags, settings, and the one rule for when a stage runs."""
