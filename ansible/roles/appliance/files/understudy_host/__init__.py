"""What the appliance's host does by itself: start and stop in order, check, update, back up, measure.

Rule 1: the standard library alone, Python 3.11 or later: nothing is installed for it.
Rule 2: nothing here decides about data; the agent in the image does, and is asked.
"""
