"""Other projects' secure aggregation, driven through their own code, for comparison."""
