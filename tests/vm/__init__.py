"""The play against a Debian virtual machine that is killed in the middle of intake (`make vm-test`)."""
