"""Data, models, local training and the server-side optimiser."""
