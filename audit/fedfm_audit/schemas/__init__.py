"""JSON Schemas of the charter and of the four statements, published with the package."""
