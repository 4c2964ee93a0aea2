"""Dependencies point one way: beyond -> stages and the command -> encoder, paper -> method, jobs -> config."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room imports itself and the floors below its own.
FLOORS = (
    {"config"},
    {"method", "jobs"},
    {"encoder", "paper"},
    {"data", "training", "evaluation", "report", "cli"},
    {"beyond"},
)
# Heavy libraries have one home each.
HOMES = {
    "trl": {"training", "beyond"},
    "mteb": {"evaluation"},
    "lm_eval": {"evaluation"},
    "snakemake": set(),
    "vllm": {"encoder"},
}
FILES = sorted((ROOT / "grace").rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "grace").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    here = room(path)
    if here == "__init__":
        return
    below = set().union(*FLOORS[: next(n for n, floor in enumerate(FLOORS) if here in floor)])
    allowed = below | {here}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("grace.")}
    assert used <= allowed, f"{path} imports {used - allowed}"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_have_one_home(library):
    users = {room(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert users <= HOMES[library]


def test_vllm_is_imported_by_its_engine_alone():
    users = {path.name for path in FILES if any(name.split(".")[0] == "vllm" for name in imports(path))}
    assert users == {"vllm.py"}


def test_every_room_is_known():
    assert {room(path) for path in FILES} - {"__init__"} == set().union(*FLOORS)


def test_every_rule_has_its_module_and_test():
    import re

    for rules in (ROOT / "rules").glob("*.smk"):
        for rule, module in re.findall(
            r'^rule (\w+):(?:(?!^rule ).)*?stage\(\s*"(\w+\.\w+)"', rules.read_text(), re.DOTALL | re.MULTILINE
        ):
            path = ROOT / "grace" / (module.replace(".", "/") + ".py")
            assert path.exists() and path.stem == rule and path.parent.name == rules.stem
            assert (ROOT / "tests" / path.parent.name / f"test_{path.stem}.py").exists(), f"no test of {module}"


def test_beyond_stands_on_training_alone():
    found = set().union(*(imports(path) for path in FILES if room(path) == "beyond"))
    used = {name.split(".")[1] for name in found if name.startswith("grace.")}
    assert used <= {"beyond", "training", "encoder", "jobs", "method", "config"}
