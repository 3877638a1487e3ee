"""Models: how they are loaded, asked, read, steered and measured; what differs between families stands in
`anatomy.py`.
"""
