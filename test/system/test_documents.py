"""Documents tell the truth: links lead somewhere, names exist, numbers are those of results/."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from catkin_pkg.changelog import get_changelog_from_path

import mtc_perception
from bench import architecture, faults, own_networks, recipe_fields
from bench.common import identity
from bench.evaluation import with_tables
from bench.method import with_evidence
from bench.model_card import PAGE as MODEL_CARD
from bench.model_card import with_figures
from bench.readme import BENCHMARKS, TOUR, benchmarks, readme_table, tour_table
from bench.renderer import with_table
from bench.replay_example import example
from bench.shipped import TEACHERS
from bench.tables import read_results, with_numbers
from bench.training_cost import table
from mtc_perception.commands import engine
from mtc_perception.core.bundle import read_bundle
from mtc_perception.node.parameters import default_bundle
from mtc_perception.replay import cli as replay
from offline_compress import cli as compress
from support.checkout import ROOT

DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted(ROOT.glob("docs/*.md")),
]
RESULTS = ROOT / "results"
FOLDERS = ("bench", "config", "docker", "docs", "launch", "models", "results", "test", "tools")
COMMANDS = {"mtc-engine": engine.app, "mtc-replay": replay.app, "mtc-compress": compress.app}
documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_numbers_are_those_of_the_results() -> None:
    assert with_numbers(text("README.md"), readme_table(RESULTS), "bench.readme") == text(
        "README.md"
    )
    assert text(str(BENCHMARKS)) == benchmarks(RESULTS)
    assert with_numbers(text(str(TOUR)), tour_table(RESULTS), "bench.readme") == text(str(TOUR))
    assert with_evidence(text("docs/method.md"), RESULTS) == text("docs/method.md")
    assert with_tables(text("docs/evaluation.md"), RESULTS) == text("docs/evaluation.md")
    card = text(str(MODEL_CARD))
    assert with_figures(card, RESULTS) == card
    assert with_table(text("docs/data.md"), RESULTS) == text("docs/data.md")
    (counted,) = read_results(RESULTS, ["training_cost"]).values()
    training = with_numbers(text("docs/training.md"), table(counted), "bench.training_cost")
    assert training == text("docs/training.md")
    replay = with_numbers(text("docs/replay.md"), example(RESULTS), "bench.replay_example")
    assert replay == text("docs/replay.md")
    page = text(str(own_networks.PAGE))
    assert own_networks.with_table(page, RESULTS) == page


def test_speeds_are_those_of_what_is_shipped() -> None:
    shipped = identity(read_bundle(default_bundle()))
    for name, result in read_results(RESULTS, ["end_to_end", "engines", "jpeg", "replay"]).items():
        assert shipped.items() <= result.items(), f"python -m bench.run {name}"


def test_figures_are_those_of_what_is_shipped() -> None:
    [shipped] = read_results(RESULTS, ["shipped"]).values()
    bundles = {path.stem for path in ROOT.glob("models/*.mtc")}
    assert bundles == set(TEACHERS)
    for name in bundles:
        variants = read_bundle(ROOT / "models" / f"{name}.mtc").manifest.variants
        for precision, variant in (("fp32", "fp32"), ("int8", "int8-openvino")):
            measured = shipped["networks"][f"{name} {precision}"]["sha256"]
            assert measured == variants[variant].sha256, "python -m bench.shipped"


def test_public_networks_stand_beside_the_reference_of_the_committed_study() -> None:
    study, beside = read_results(RESULTS, ["study_camvid", "peers_study"]).values()
    assert beside["folds"] == study["folds"], "python -m bench.peers_study"
    reference = study["reference"]
    assert beside["reference"] == reference
    for one, other in zip(study["lines"], beside["lines"], strict=True):
        for key in ("set", "part", "images", "objects"):
            assert one[key] == other[key]
        values = [
            {name: figure["value"] for name, figure in line["rows"][reference].items()}
            for line in (one, other)
        ]
        assert values[0] == pytest.approx(values[1])


def test_no_document_names_a_machine_s_folders() -> None:
    for path in DOCUMENTS:
        assert "/tmp/" not in path.read_text(), path


def test_the_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= 130


@documents
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", link):
            continue  # another site: not looked up here
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@documents
def test_what_it_names_exists(path: Path) -> None:
    # But for the files that an example makes.
    page = re.sub(r"```\w+ title=.*?```", "", path.read_text(), flags=re.DOTALL)
    assert "../shared" not in page
    for target in re.findall(r"(?:^|`)make ([a-z-]+)\b", page, re.M):
        assert re.search(rf"^{target}:", text("Makefile"), re.M), target
    places = (ROOT, ROOT / "mtc_perception", ROOT / "offline_compress")
    for name in re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w/.-]+\.\w+)", page):
        assert any((place / name).exists() for place in places), name
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|cu|j2))`", page):
        assert any((place / name).exists() for place in places), name
    for symbols, name in re.findall(
        r"((?:`\w+`(?:,| and| or)?\s+)+)in\s+`((?:\w+/)*[\w.]+\.py)`", page
    ):
        [file] = [place / name for place in places if (place / name).exists()]
        for symbol in re.findall(r"`(\w+)`", symbols):
            assert re.search(rf"\b{symbol}\b", file.read_text()), f"{symbol} in {name}"
    for module in re.findall(
        r"python3? -m ((?:bench|mtc_perception|offline_compress)[\w.]*)", page
    ):
        place = ROOT.joinpath(*module.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


@documents
def test_commands_are_those_of_the_programs(path: Path) -> None:
    for line in commands(path):
        for program, *words in re.findall(r"(mtc-\w+)((?: [^|&;#`]*)?)", line):
            check_command(program, words[0].split())


def test_parameters_are_the_node_s() -> None:
    parameters = pytest.importorskip("mtc_perception.node.parameters", reason="needs rclpy")
    specs = parameters.node_specs() | parameters.camera_specs("<camera>", alone=True)
    rows = {
        name: cells
        for line in text("docs/node.md").splitlines()
        if line.startswith("| `")
        for name, *cells in [[cell.strip(" `") for cell in line.strip("|").split("|")]]
    }
    for name, spec in specs.items():
        assert name in rows, name
        default, _, live = rows[name]
        assert (live == "yes") == spec.live, name
        if name != "bundle":
            written = str(spec.default).replace("'", "")
            assert default == written or float(default) == float(written), name


def test_every_output_topic_is_listed() -> None:
    camera = text("mtc_perception/node/camera.py")
    topics = re.findall(r'publisher\(\w+, "(\w+)"', camera)
    assert len(topics) >= 6
    for topic in topics:
        assert f"`{topic}`" in text("docs/node.md"), topic


def test_the_architecture_is_that_of_the_code() -> None:
    for place, content in architecture.pages(ROOT).items():
        assert text(place) == content, "python -m bench.architecture"
    for way in architecture.read_ways(ROOT):
        for step in way["steps"]:
            assert re.search(rf"(?:def|class) {step.symbol}\b", text(step.file)), step
    assert all(
        room.words for top in architecture.PACKAGES for room in architecture.rooms(ROOT, top)
    )


def test_the_faults_are_those_of_the_tests() -> None:
    assert text(faults.PAGE) == faults.page(ROOT), "python -m bench.faults"


def test_the_fields_of_recipes_are_those_of_the_schema() -> None:
    assert text(recipe_fields.PAGE) == recipe_fields.page(ROOT), "python -m bench.recipe_fields"


def test_the_changelog_is_one_for_ros_tools() -> None:
    changelog = get_changelog_from_path(str(ROOT), "mtc_perception")
    versions = [version for version, _, _ in changelog.foreach_version()]
    assert versions[0] == mtc_perception.__version__
    assert changelog.get_content_of_version(mtc_perception.__version__)


def prose(path: Path) -> str:
    """A document without its code."""
    return re.sub(r"```.*?```|`[^`\n]+`", "", path.read_text(), flags=re.DOTALL)


@cache
def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub and the site make them."""
    page = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


def commands(path: Path) -> Iterator[str]:
    """The lines of the shell blocks of a document, continued ones joined."""
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def check_command(program: str, words: list[str]) -> None:
    """Fail unless a program has the command and the options that `words` begin with."""
    command = typer.main.get_command(COMMANDS[program])
    for word in words:
        inner = getattr(command, "commands", None)
        if inner is None or word.startswith("-"):
            break
        assert word in inner, f"{program} {word}"
        command = inner[word]
    known = {name for option in command.params for name in option.opts + option.secondary_opts}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in known | {"--help"}, f"{program} {command.name} {word}"
