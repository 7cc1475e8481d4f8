"""The host's own program: starts and stops the appliance in order, checks, updates, backs up and measures.

Rule 1: it uses only the standard library of Python 3.11 or later, so nothing has to be installed for it.
Rule 2: it does not decide about data: it asks the agent in the image, which does.
"""
