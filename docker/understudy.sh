#!/bin/sh
# The `understudy` command inside the image.
exec /opt/understudy/venv/bin/python -m understudy.cli "$@"
