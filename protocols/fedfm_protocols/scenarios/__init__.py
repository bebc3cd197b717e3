"""The scenarios that ship: one per row of the attack table, one per step of dropout, and more."""
