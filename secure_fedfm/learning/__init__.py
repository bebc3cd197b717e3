"""Data, models, local training and the server-side optimiser.

Free of torch, for services and commands that only read a charter: data, dataset, corpus, splits,
specs, plan, recipes, weights, payload, adapter_state, server_optimiser. With torch: the rest.
"""
