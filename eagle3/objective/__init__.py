"""Training-time test: rows, attention, teacher, losses."""
