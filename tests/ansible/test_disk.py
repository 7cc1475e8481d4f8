"""A data disk is not mounted over data; the tasks are run against folders of this machine, in check mode."""

from pathlib import Path

import yaml

from tests.ansible.target import PLAYS, played


def test_disk_is_refused_where_it_would_hide_a_file_and_there_alone(tmp_path: Path) -> None:
    # `absent` is made by the play; `empty` is what lies under a disk that is missing.
    (tmp_path / "empty" / "data").mkdir(parents=True)
    (tmp_path / "full" / "data").mkdir(parents=True)
    (tmp_path / "full" / "data" / "image").touch()
    disk = {"device": str(tmp_path / "disk"), "path": f"{tmp_path}/{{{{ inventory_hostname }}}}"}
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "vars": {"host_disk": disk},
        "tasks": [{"ansible.builtin.include_tasks": str(PLAYS / "roles" / "host" / "tasks" / "disk.yml")}],
    }
    path = tmp_path / "play.yml"
    path.write_text(yaml.safe_dump([play]), encoding="utf-8")
    done = played(str(path), Path("absent,empty,full"), "--check")
    said = " ".join(done.said.split())
    assert done.code == 2
    assert f"{tmp_path}/full holds data that {tmp_path}/disk would hide" in said
    assert {host for host, changed in done.changed.items() if changed} == {"absent", "empty"}, said
