"""A person's whole way in a real browser, with a picture of each page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from .helpers import ROOT, START, STOP, Deployment, wait_until

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.environments("dev_dummyauth", "dev_realauth"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium: `apt-get install chromium`"),
]

# Without them Chromium asks its maker for things, which takes time where there is no way to there.
ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
CELL = "import getpass, os\nprint(6 * 7, getpass.getuser(), 'in job', os.environ['SLURM_JOB_ID'])"
# The project of the accounts that is worked in; of two the second, so that a choice is made.
PROJECT = "project2"


@pytest.fixture
def page(env_name: str) -> Iterator[Page]:
    """A page in a browser of its own; how it was at last is in a picture too, whatever happened."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(ARGUMENTS), chromium_sandbox=os.geteuid() != 0
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(1000 * START)
        expect.set_options(timeout=1000 * START)
        yield page
        page.screenshot(path=ROOT / "artifacts" / env_name / "last.png")
        browser.close()


class Album:
    """Pictures of what people see, numbered in order, in artifacts/ENVIRONMENT."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder, self.count = page, folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> None:
        """Take a picture of the page as it is."""
        self.count += 1
        self.page.screenshot(path=self.folder / f"{self.count}-{name}.png")


def log_in(page: Page, deployment: Deployment, album: Album) -> None:
    """Log in as alice at the page that is shown."""
    if deployment.status["gateway_url"]:
        expect(page.get_by_text("Choose a user")).to_be_visible()
        album.take("provider")
        page.get_by_label("Password").fill(deployment.password)
        page.get_by_text("alice", exact=True).click()
    else:
        album.take("log-in")
        page.get_by_label("Password").fill(deployment.password)
        page.get_by_role("button", name="Sign in").click()


def compute(page: Page) -> str:
    """Make a notebook in JupyterLab, run the cell, and return what it prints."""
    page.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    cell = page.locator(".jp-Notebook .jp-Cell .cm-content").first
    # A cell that is run before the kernel is there is not run at all.
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    cell.click()
    expect(cell).to_be_focused()
    cell.fill(CELL)
    expect(cell).to_contain_text("SLURM_JOB_ID")
    cell.press("Shift+Enter")
    return page.locator(".jp-OutputArea-output").first.inner_text().strip()


def stop_server(page: Page, url: str) -> None:
    """Stop the user's server at the hub's home page."""
    # Before the page's scripts have come, the button does nothing.
    page.goto(f"{url}/hub/home", wait_until="networkidle")
    page.get_by_role("button", name="Stop My Server").click()


def test_the_whole_way(page: Page, deployment: Deployment) -> None:
    """Log in, choose a project, get JupyterLab in its job, compute, stop, log out, and be a stranger again."""
    album = Album(page, ROOT / "artifacts" / deployment.env)
    url = deployment.status["gateway_url"] or deployment.status["url"]
    page.goto(url)
    log_in(page, deployment, album)
    page.goto(f"{url}/hub/spawn")
    page.get_by_label("Project").select_option(f"{PROJECT}.brics")
    page.get_by_label("Run time").fill(
        "00:09:00"
    )  # less than the minutes before its end when JupyterLab warns
    album.take("form")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#progress-message, .jp-Launcher").first).to_be_visible()
    album.take("pending")
    page.wait_for_url("**/lab**")
    (job,) = deployment.jobs()
    assert compute(page) == f"42 alice.{PROJECT} in job {job}"
    album.take("notebook")
    expect(page.get_by_text("at its time limit. Save your work.")).to_be_visible()
    album.take("warning")
    stop_server(page, url)
    expect(page.get_by_role("button", name="Start My Server")).to_be_visible()
    wait_until(lambda: not deployment.jobs(), STOP, "the job has not ended")
    album.take("stopped")
    page.get_by_role("button", name="Logout").click()
    expect(
        page.get_by_role("heading", name="You are signed out").or_(page.get_by_label("Password"))
    ).to_be_visible()
    album.take("logged-out")
    # Neither hub nor gateway nor provider knows this browser any more.
    page.goto(f"{url}/hub/home")
    log_in(page, deployment, album)
    expect(page.get_by_role("button", name="Start My Server")).to_be_visible()


# What a page does that would act as its visitor: take pages of the hub, the token against forged requests in them
# included, and make an API token. Each end is an HTTP status, 0 where it is hidden, or the browser's refusal.
ATTACK = """async hub => {
    const tokens = `${hub}/jupyter/hub/api/users/alice/tokens`, body = JSON.stringify({note: 'stolen'});
    const attempts = [
        () => fetch('/jupyter/hub/home'),
        () => fetch(`${hub}/jupyter/hub/token`, {credentials: 'include'}),
        () => fetch(tokens, {method: 'POST', credentials: 'include', body}),
        () => fetch(tokens, {method: 'POST', credentials: 'include', body, mode: 'no-cors'}),
    ];
    const ends = [];
    for (const attempt of attempts) ends.push(await attempt().then(answer => answer.status, error => error.name));
    return ends;
}"""
STOLEN = (
    "import sqlite3; print(sqlite3.connect('/var/lib/jupyterhub/jupyterhub.sqlite')"
    ".execute('select count(*) from api_tokens where note = ?', ['stolen']).fetchone()[0])"
)


@pytest.mark.environments("dev_dummyauth")
def test_a_page_of_a_users_domain_is_a_stranger_to_the_hub(
    page: Page, deployment: Deployment, origin: str
) -> None:
    """With `hub.subdomain_host`: it reads none of the hub's pages and makes no token, though cookies go along."""
    page.goto(f"{origin}/jupyter/hub/spawn")
    page.get_by_label("Password").fill(deployment.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Project").select_option(f"{PROJECT}.brics")
    assert page.evaluate(ATTACK, origin)[:2] == [200, 200]  # the hub's own page
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/lab**")
    assert page.url.startswith(origin.replace("//", "//alice."))
    assert page.evaluate(ATTACK, origin) == [404, "TypeError", "TypeError", 0]
    assert deployment.run_in("jupyterhub", "python3", "-c", STOLEN) == "0"
    stop_server(page, f"{origin}/jupyter")
    wait_until(lambda: not deployment.jobs(), STOP, "the job has not ended")
