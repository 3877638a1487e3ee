"""Where files lie, and how they are written so that nobody ever sees half of one."""
