"""Sans-IO protocol state machines of secure-fedfm and the messages between them."""
