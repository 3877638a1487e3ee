"""What results mean: a file here is a command, and the modules behind the commands live in the folders."""
