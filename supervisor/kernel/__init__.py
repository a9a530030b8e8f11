"""The only door to the system: the shim, the filter, privileges, and what /proc says."""
