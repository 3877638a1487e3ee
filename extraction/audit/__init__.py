"""The audit of a trait's dataset, and its trial on a few prompts."""
