"""The staged pipeline: a file here is a command, and the modules behind the commands live in the folders."""
