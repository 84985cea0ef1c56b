"""What export does: the graph of a task, its file, and what is measured of it."""
