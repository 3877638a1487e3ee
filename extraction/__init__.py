"""The staged pipeline: numbered stages, and the pure modules beside them."""
