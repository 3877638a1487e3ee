"""The dashboard: what an experiment found, to be looked at. Reads files; needs no GPU and no torch."""
