"""Opens the appliance's pages in Debian's Chromium, and keeps what goes wrong in them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import ConsoleMessage, Error, Page, Request, Response, sync_playwright

from tests.stack import wait_until

_OPTIONS = (
    "--headless=new --no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync "
    # The viewer draws by WebGL, here without a graphics card.
    "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
)


_CHANGED = "net::ERR_NETWORK_CHANGED"
"""The browser runs on the machine whose networks the tests change, and breaks off its requests then."""


_LEVELS = """canvas => {
    const copy = document.createElement("canvas");
    copy.width = canvas.width;
    copy.height = canvas.height;
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    const data = context.getImageData(0, 0, copy.width, copy.height).data;
    const levels = new Set();
    for (let at = 0; at < data.length; at += 4) levels.add(data[at]);
    return levels.size;
}"""
"""Counts the levels of grey on a canvas; a black one has one."""


@dataclass(slots=True)
class Heard:
    """What a browser heard of a page: errors and warnings, the hosts that it asked, what was refused."""

    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False
    """Whether a request was broken off because a network of this machine changed."""

    def listen(self, page: Page) -> None:
        """Hear everything that happens on the page from now on."""
        # Playwright marks the functions that it calls: a method of a slotted object cannot be marked.
        page.on("console", lambda message: self._hear(message))
        page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        page.on("request", lambda request: self._see(request))
        page.on("requestfailed", lambda request: self._fail(request))
        page.on("response", lambda response: self._answer(response))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and _CHANGED not in message.text:
            self.errors.append(f"{message.type}: {message.text} {message.location}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self.hosts.add("/".join(request.url.split("/")[:3]))

    def _fail(self, request: Request) -> None:
        self.interrupted = self.interrupted or request.failure == _CHANGED

    def _answer(self, response: Response) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.request.method} {response.url}")


def visit(page: Page, heard: Heard, address: str, arrived: Callable[[], None]) -> None:
    """Open an address and wait by `arrived`; begin again where a network of this machine changed."""
    for _ in range(10):
        heard.interrupted = False
        heard.errors.clear()
        try:
            page.goto(address)
            arrived()
        except Error as error:
            # The page that says so is on its way when the next visit begins.
            told = _CHANGED in str(error) or "chrome-error:" in str(error)
            if not told and not heard.interrupted:
                raise
            continue
        if not heard.interrupted:
            return
    raise AssertionError(f"the networks of this machine changed each time that {address} was opened")


def wait_for_pixels(page: Page) -> None:
    """Wait until the viewer shows a picture that is neither black nor of one grey."""
    canvas = page.locator("canvas.cornerstone-canvas").first
    canvas.wait_for()
    wait_until(
        lambda: int(canvas.evaluate(_LEVELS)), lambda levels: levels > 20, deadline=90, what="levels of grey"
    )


@contextmanager
def signed_in(
    login: tuple[str, str], *, width: int = 1280, height: int = 1100
) -> Iterator[tuple[Page, Heard]]:
    """Yield a page of a new browser that knows the password, and what is heard of it."""
    heard = Heard()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_OPTIONS.split())
        try:
            context = browser.new_context(
                # The certificate is the appliance's own; the tests of REST pin it.
                ignore_https_errors=True,
                http_credentials={"username": login[0], "password": login[1]},
                viewport={"width": width, "height": height},
            )
            page = context.new_page()
            heard.listen(page)
            yield page, heard
        finally:
            browser.close()
