"""What results mean: separation, steering evaluation, statistics."""
