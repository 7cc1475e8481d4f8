"""Data disks: the tasks are run against folders and files of this machine, in check mode."""

import os
import struct
import subprocess
from pathlib import Path

import yaml

from tests.ansible.target import PLAYS, played

DISK_BYTES = 20 * 2**20


def test_disk_is_refused_where_it_or_what_it_hides_holds_data(tmp_path: Path) -> None:
    # `absent` is made by the play; `empty` is what lies under a disk that is missing.
    (tmp_path / "empty" / "data").mkdir(parents=True)
    (tmp_path / "full" / "data").mkdir(parents=True)
    (tmp_path / "full" / "data" / "image").touch()
    for name in ("absent", "empty", "full", "another", "damaged", "partitioned"):
        with (tmp_path / f"{name}.disk").open("wb") as disk:
            disk.truncate(DISK_BYTES)
    damaged = tmp_path / "damaged.disk"
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", str(damaged)], check=True)
    with damaged.open("r+b") as disk:
        # The superblock, as a sector that a power cut has torn.
        disk.seek(1024)
        disk.write(bytes(1024))
    with (tmp_path / "partitioned.disk").open("r+b") as disk:
        # An MBR with one partition of Linux: blkid finds a table and no type.
        disk.seek(446)
        disk.write(struct.pack("<8B2I", 0, 0, 2, 0, 0x83, 0, 0, 0, 2048, 4096) + bytes(48) + b"\x55\xaa")
    # To lsblk no file is a disk, and not everywhere is there a disk to be had.
    (tmp_path / "bin").mkdir()
    lsblk = tmp_path / "bin" / "lsblk"
    lsblk.write_text('#!/bin/sh\nfor device; do :; done\n[ -e "$device" ] && echo 7:0\n', encoding="ascii")
    lsblk.chmod(0o755)
    places = "{'another': '/proc'}"
    device, path = (
        f"{tmp_path}/{{{{ inventory_hostname }}}}.disk",
        f"{{{{ {places}[inventory_hostname] | default('{tmp_path}/' ~ inventory_hostname) }}}}",
    )
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "environment": {"PATH": f"{lsblk.parent}:{os.environ['PATH']}"},
        "vars": {"host_disk": {"device": device, "path": path}},
        "tasks": [{"ansible.builtin.include_tasks": str(PLAYS / "roles" / "host" / "tasks" / "disk.yml")}],
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(yaml.safe_dump([play]), encoding="utf-8")
    done = played(str(playbook), Path("absent,empty,full,another,damaged,partitioned,mistyped"), "--check")
    said = " ".join(done.said.split())
    assert done.code == 2
    assert f"{tmp_path}/full holds data that {tmp_path}/full.disk would hide" in said
    assert f"Another disk than {tmp_path}/another.disk is mounted at /proc" in said
    for disk_path in (damaged, tmp_path / "partitioned.disk"):
        assert f"{disk_path} is not empty, and no file system is found on it" in said
    assert f"There is no disk {tmp_path}/mistyped.disk" in said
    # What would be mounted there is no unit yet.
    assert not any(f"fatal: [{host}]" in said for host in ("absent", "empty")), said
    assert {host for host, changed in done.changed.items() if changed} == {"absent", "empty"}, said
