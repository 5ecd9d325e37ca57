"""A model that fails on request, for the fault injection of `make faults`."""
