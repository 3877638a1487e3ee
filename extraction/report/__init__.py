"""What a run found, for people: the table, the examples, summary files."""
