"""Plays the demo once for all tests that look at it, and watches the console in a browser meanwhile."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response

from tests.browser import Heard, signed_in, visit
from tests.lab import Lab
from tests.stack import BUILD, REPOSITORY, TEST_PROJECT, Access, StackError, wait_until

DEADLINE = 1200


@dataclass(slots=True)
class Demo:
    """One run of the demo as `make demo` runs it, in a project of its own."""

    lab: Lab
    output: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, name: str, *options: str) -> "Demo":
        project = f"{TEST_PROJECT}-{name}"
        output = BUILD / project
        (output / "access.json").unlink(missing_ok=True)
        lab = Lab(project)
        command = [
            sys.executable,
            "-m",
            "tests.demo",
            "--project",
            project,
            "--output",
            str(output),
            *options,
        ]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
            env={**environment(), **lab.environment},
        )
        demo = cls(lab, output, process)
        threading.Thread(target=demo._listen, daemon=True).start()
        return demo

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return "".join(self.said)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)

    def access(self) -> Access:
        """Wait until the appliance has started, and return its access."""
        file = self.output / "access.json"

        def written() -> str:
            if self.process.poll() is not None and not file.exists():
                pytest.fail(f"the demo ended before the appliance had started:\n{self.text}")
            return file.read_text(encoding="utf-8") if file.exists() else ""

        content = json.loads(
            wait_until(
                written, lambda text: text.endswith("}"), deadline=400, what="the appliance of the demo"
            )
        )
        return Access(content["user"], content["password"], content["fingerprint"], content["vault_identity"])

    def end(self) -> int:
        """Wait for its end and return the exit code."""
        code = self.process.wait(DEADLINE)
        if (self.output / "access.json").exists():
            self.lab.remember(self.access())
        return code

    def remove(self) -> None:
        """End it if it still runs, and remove its project."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.lab.down()


@dataclass(slots=True)
class Watched:
    """What a browser saw of the console while the demo ran."""

    heard: Heard
    modes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    status: dict[str, object] = field(default_factory=dict)
    """What `understudy status --json` said at the same moment as `facts`."""
    screenshot: Path = BUILD / "console.png"


@pytest.fixture(scope="session")
def played() -> Iterator[tuple[Demo, Watched]]:
    """The demo, played to its end with the console open, and its lab still running."""
    demo = Demo.begin("story")
    try:
        watched = _watch(demo)
        demo.end()
        yield demo, watched
    except StackError:
        print(demo.text)
        raise
    finally:
        demo.remove()


def _watch(demo: Demo) -> Watched:
    with signed_in(demo.access().login) as (page, heard):
        watched = Watched(heard)
        visit(page, heard, f"{demo.lab.https}/understudy/console/", lambda: page.locator("#mode").wait_for())
        wait_until(
            lambda: _look(page, watched),
            lambda _: demo.process.poll() is not None,
            deadline=DEADLINE,
            what="the demo",
        )
        if demo.process.returncode == 0:
            # The page asks every two seconds, and shows one answer before it asks for the next.
            for _ in range(2):
                with page.expect_response(_is_status, timeout=60_000):
                    pass
            page.wait_for_function(
                "document.querySelector('#mode').textContent === 'standby'", timeout=60_000
            )
            watched.facts = _facts(page)
            watched.status = json.loads(demo.lab.execute("agent", "understudy", "status", "--json"))
    return watched


def _is_status(answer: Response) -> bool:
    return answer.url.endswith("/understudy/status") and answer.ok


def _look(page: Page, watched: Watched) -> str:
    """Note the mode that the page shows; the moment of the failback is kept as a picture."""
    mode = page.locator("#mode").inner_text().lower()
    if mode != "…" and (not watched.modes or watched.modes[-1] != mode):
        watched.modes.append(mode)
        if mode == "returning":
            # Once the operation's bar is there as well.
            page.wait_for_selector("#operations article", timeout=60_000)
            watched.screenshot.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=watched.screenshot, full_page=True)
    return mode


def _facts(page: Page) -> dict[str, str]:
    shown = {"mode": page.locator("#mode").inner_text().lower(), "epoch": page.locator("#epoch").inner_text()}
    for pair in page.locator("#facts > div").all():
        shown[pair.locator("dt").inner_text().lower()] = pair.locator("dd.value").inner_text()
    for holder in page.locator("#holders article").all():
        name = holder.locator("h3").evaluate("node => node.firstChild.textContent")
        shown[f"holder {name}"] = holder.locator(".amount").inner_text()
    return shown


def environment() -> dict[str, str]:
    """Return this process' environment without pytest's own marks."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
