"""One verb a file: what the appliance does, over ports."""
