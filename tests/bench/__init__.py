"""The benchmarks: the appliance's rates beside those of a peer, measured in the same run on the same data."""
