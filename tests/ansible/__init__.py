"""The Ansible plays, judged against a host in a container: systemd, SSH and a Docker Engine of its own."""
