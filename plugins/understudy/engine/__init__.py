"""Engine: workers, their memory and bandwidth, what they last saw, and the operations of a person."""
