"""Adapters to the outside world, one external system or format in each file."""
