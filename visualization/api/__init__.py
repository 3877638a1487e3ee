"""The read API: one module per view, each a router made for a store."""
