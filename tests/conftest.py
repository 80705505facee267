import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from toy import make_checkpoint

from cot_probe.scoring import Scorer
from cot_probe.tagger import Tagger, load_tagger

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_MS = 60_000
"""What a page may take on a busy machine."""
_CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell's background jobs ignore SIGINT, and so would the processes that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Scorers wait: however busy the machine, only a test that gives a lag of its own sees scores given up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Scorer.__init__.__kwdefaults__, "max_lag_s", 3600.0)
        yield


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def checkpoint(toy_checkpoint: Path) -> str:
    """The toy one, as hosts name it in their settings."""
    return str(toy_checkpoint)


@pytest.fixture(scope="session")
def toy_tagger(toy_checkpoint: Path) -> Tagger:
    return load_tagger(toy_checkpoint)


@pytest.fixture(scope="session")
def tagger() -> Tagger:
    """The shipped checkpoint."""
    return load_tagger()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium; without one the tests of pages are skipped."""
    if _CHROMIUM is None:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright  # plug-ins are tested where it is not installed

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_CHROMIUM, timeout=PATIENCE_MS)
        yield opened
        opened.close()
