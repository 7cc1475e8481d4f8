"""Calls Orthanc as the agent does: past the edge, and past the rules for people."""

from tests.stack import Stack

_PRELUDE = (
    "import httpx\n"
    "secret = open('/var/lib/understudy-keys/service/agent').read().strip()\n"
    "orthanc = httpx.Client(base_url='http://orthanc:8042', auth=('agent', secret))\n"
)


def delete(stack: Stack, path: str) -> None:
    """Delete one resource."""
    _run(stack, f"orthanc.delete({path!r}).raise_for_status()")


def delete_all(stack: Stack, orthanc_ids: list[str]) -> None:
    """Delete several resources with one call."""
    body = {"Resources": orthanc_ids}
    _run(stack, f"orthanc.post('/tools/bulk-delete', json={body!r}).raise_for_status()")


def _run(stack: Stack, script: str) -> None:
    stack.execute("agent", "python", "-c", _PRELUDE + script)
