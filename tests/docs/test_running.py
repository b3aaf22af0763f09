"""What takes less than a minute is run as it stands on the pages, on the small trained model, in one home."""

import pytest

from tests.databases import give_databases
from tests.docs.pages import ROOT
from tests.docs.running import Place, pages, to_run

pytestmark = pytest.mark.slow

RUN = {page.relative_to(ROOT).as_posix(): to_run(page, ["run"]) for page in pages()}


@pytest.fixture(scope="module")
def place(tmp_path_factory, fact_model_path) -> Place:
    folder = tmp_path_factory.mktemp("docs")
    give_databases(folder / "home")
    small = {"ERRATA_MODEL": str(fact_model_path), "ERRATA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return Place(folder, small)


@pytest.mark.parametrize("name", [name for name, blocks in RUN.items() if blocks])
def test_the_blocks_of_a_page_run(place, name):
    for block in RUN[name]:
        done = place.run(block)
        assert not done.lacks, f"{block.place} was not run: there is no {done.lacks}"
        assert done.code == 0, f"{block.place}\n{block.text}\n{done.out[-3000:]}"
        assert "Traceback" not in done.out


def test_most_pages_have_something_to_run():
    assert {"README.md", "docs/library.md", "docs/ledger.md", "docs/extending.md"} <= {n for n, b in RUN.items() if b}


def test_a_block_whose_data_is_not_there_is_left_out(tmp_path, monkeypatch):
    monkeypatch.delenv("ERRATA_DATA", raising=False)
    place = Place(tmp_path)
    needing = [one for page in pages() for one in to_run(page, ["hours"]) if ".parquet" in one.text]
    comparing = [one for one in needing if "tests.benchmarks.quality" in one.text]
    assert len(needing) > len(comparing) > 0
    for block in needing:
        done = place.run(block)
        assert done.lacks and all(name in block.text for name in done.lacks) and done.code == 0 and not done.out
        if block in comparing:
            assert done.lacks == ("counterfact_dev.parquet", "wikitext2_valid.parquet")
