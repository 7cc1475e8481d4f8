"""Plays the demo: python -m tests.demo."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.demo.narrator import Narrator
from tests.demo.page import page
from tests.demo.story import HOLDER_COLUMNS, Sizes, Story, StoryError
from tests.lab import Lab
from tests.stack import BUILD, REPOSITORY, StackError

PROJECT = "understudy-demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the story, write its report, and return 0 where nothing is missing anywhere."""
    options = _options(arguments)
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    narrator = Narrator(console)
    lab = Lab(options.project, environment=_ports())
    access = options.output / "access.json"
    options.output.mkdir(parents=True, exist_ok=True)
    access.unlink(missing_ok=True)
    story = Story(
        lab,
        narrator,
        options.sizes,
        break_settle=options.break_ == "settle",
        started=lambda: _keep_access(lab, access),
    )
    failure = ""
    try:
        story.play()
    except (StoryError, StackError) as error:
        failure = str(error)
    total = narrator.elapsed
    figures = story.figures.named(total)
    if story.figures.rows:
        narrator.table("Who has what", HOLDER_COLUMNS, story.figures.rows)
    if not failure:
        narrator.table("Measured", ("figure", "value"), figures)
    outcome = f"FAILED: {failure}" if failure else "Nothing is missing anywhere."
    written = _write_report(options.output, story, narrator, outcome, failed=bool(failure), figures=figures)
    narrator.line(f"{outcome} ({total:.0f} s)", "bold red" if failure else "bold green")
    _show_around(lab, story, narrator, access, written)
    lab.close()
    return 1 if failure else 0


class _Options(argparse.Namespace):
    project: str
    output: Path
    break_: str
    sizes: Sizes


def _options(arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo", description="Play a whole outage on real DICOM in the lab."
    )
    add = parser.add_argument
    add("--project", default=PROJECT, help=f"compose project ({PROJECT}); its volumes are emptied first")
    add("--output", type=Path, default=BUILD / "demo", help="folder of report and access (build/demo)")
    add("--break", dest="break_", choices=["settle"], default="", help="break a proof on purpose, to fail")
    add("--small", action="store_true", help="short series, and none of pydicom's files")
    options = parser.parse_args(arguments, namespace=_Options())
    options.sizes = (
        Sizes(history=8, ct=20, emergency=10, alone=4, samples=False) if options.small else Sizes()
    )
    return options


def _ports() -> dict[str, str]:
    """Return the ports that the environment names, else the documented ones."""
    return {
        "UNDERSTUDY_DICOM_PORT": os.environ.get("UNDERSTUDY_DICOM_PORT", "4242"),
        "UNDERSTUDY_DICOM_TLS_PORT": os.environ.get("UNDERSTUDY_DICOM_TLS_PORT", "127.0.0.1:2762"),
        "UNDERSTUDY_HTTPS_PORT": os.environ.get("UNDERSTUDY_HTTPS_PORT", "8443"),
    }


def _write_report(
    folder: Path,
    story: Story,
    narrator: Narrator,
    outcome: str,
    *,
    failed: bool,
    figures: Sequence[tuple[str, str]],
) -> Path:
    written = folder / "report.html"
    content = page(
        when=datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
        outcome=outcome,
        failed=failed,
        figures=[] if failed else figures,
        columns=HOLDER_COLUMNS,
        holders=story.figures.rows,
        told=narrator.told,
    )
    written.write_text(content, encoding="utf-8")
    return written


def _keep_access(lab: Lab, file: Path) -> None:
    """Write what the first start showed, once, to a file that only its owner reads."""
    access = lab.first_start()
    known = {"address": lab.https, "user": access.user, "password": access.password}
    known |= {"vault_identity": access.identity, "fingerprint": access.fingerprint}
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as writer:
        json.dump(known, writer, indent=2)


def _show_around(lab: Lab, story: Story, narrator: Narrator, access: Path, report: Path) -> None:
    """Say what to look at and how to stop."""
    narrator.line(f"report            {report}")
    if not access.exists():
        narrator.line("the appliance did not come as far as its first start")
        return
    address, (host, port) = lab.https, lab.dicom
    narrator.line("The lab is left running; look at")
    narrator.line(f"console           {address}/understudy/console/")
    narrator.line(f"viewer (OHIF)     {address}/ohif/")
    if story.report_address:
        narrator.line(f"failback report   {story.report_address}")
    narrator.line(f"DICOM             AE title STANDBY at {host}:{port}")
    narrator.line(f"secrets           user, password and the vault's identity are in {access}")
    files = " ".join(f"-f {Path(file).relative_to(REPOSITORY)}" for file in lab.files)
    compose = f"docker compose -p {lab.project} {files}"
    narrator.line(f"commands          alias understudy='{compose} exec agent understudy'; understudy status")
    narrator.line(f"stop              {compose} down")


if __name__ == "__main__":
    sys.exit(main())
