"""What lies on disk, typed: the only readers and writers of an experiment's files. Most of it needs no
torch.
"""
