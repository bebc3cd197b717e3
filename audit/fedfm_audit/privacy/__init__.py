"""Privacy accounting: the allowed mechanisms, their epsilon, and the ledger made of them."""
