from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import make_checkpoint

from cot_probe.scoring import Scorer
from cot_probe.tagger import Tagger, load_tagger

ROOT = Path(__file__).resolve().parent.parent


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
def toy_tagger(toy_checkpoint: Path) -> Tagger:
    return load_tagger(toy_checkpoint)


@pytest.fixture(scope="session")
def tagger() -> Tagger:
    """The shipped checkpoint."""
    return load_tagger()
