"""Trait vectors on new prompts: a file here is a command, and the modules behind the commands live in
`watch/`.
"""
