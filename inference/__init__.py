"""Trait vectors on new prompts: projections token by token, their dynamics, and live chat."""

import utils  # noqa: F401  # first: it sets the threads that torch starts with
