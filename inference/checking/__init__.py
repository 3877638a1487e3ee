"""Whether traitscope reads and steers a model rightly: what it does against the plainest way to do the same."""
