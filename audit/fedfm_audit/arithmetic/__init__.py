"""The coordinator's arithmetic, repeated from archived messages; step 9 of the verification."""
