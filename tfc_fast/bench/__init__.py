"""Measurements that belong to the product: what the probe costs, on the machine of the user."""
