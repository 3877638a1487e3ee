"""What results mean: separation, steering evaluation, statistics."""

import utils  # noqa: F401  # first: it sets the threads that torch starts with
