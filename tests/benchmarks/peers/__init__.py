"""One adapter a peer, each a worker process in an environment of its own; client.py is the benchmark's
side of it.
"""
