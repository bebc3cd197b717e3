"""The numbered steps of the verification, one module each; ``fedfm_audit.verify`` runs them."""
