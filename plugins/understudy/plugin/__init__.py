"""The code that runs inside Orthanc's process; it gets Orthanc's functions as arguments.

Rule 1: this code must not keep Orthanc from storing or reading, so it imports the standard library only.
Rule 2: several threads call every callback at once (`Python.AllowThreads` is true).
"""
