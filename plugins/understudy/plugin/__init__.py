"""What runs inside Orthanc's process: standard library only, every function of Orthanc's an argument.

Rule 1: nothing here may keep Orthanc from storing or reading, so nothing is imported that may be absent.
Rule 2: every callback is called by several threads at once (`Python.AllowThreads` is true).
"""
