"""The staged pipeline: numbered stages, and the pure modules beside them."""

import utils  # noqa: F401  # first: it sets the threads that torch starts with
