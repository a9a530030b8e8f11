"""What seccompd costs, against a floor in C: `python -m bench`."""
