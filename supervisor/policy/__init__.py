"""Policies: their YAML, their compiled form, and the decisions taken by them."""
