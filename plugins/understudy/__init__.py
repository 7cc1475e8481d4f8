"""A standby of a clinic's PACS: backed up, accessible at once, and with a proven way back."""

__version__ = "0.1.0"
