"""The long-running processes: coordinator and client."""
