"""A whole federation on one machine, as separate processes."""
