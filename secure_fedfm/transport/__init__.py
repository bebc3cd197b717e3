"""ZeroMQ transport under CURVE, with a fail-closed authenticator."""
