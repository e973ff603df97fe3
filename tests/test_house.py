"""The house keeps its plan: imports go one way, files and argument lists stay small."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[1] / "klip_monai"
MODULES = {
    ".".join(("klip_monai", *path.relative_to(HOUSE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(HOUSE.rglob("*.py"))
}
MOST_LINES, MOST_ARGUMENTS, MOST_FILES = 400, 9, 12
SAMPLERS = {"predictor_corrector", "patch_langevin"}  # functions of (model, x, sigmas, settings of their papers)
NETWORKS = {"UNetDenoiser.__init__", "SongUNet.__init__"}  # what checkpoints of others are described by


def trees() -> Iterator[tuple[str, ast.Module]]:
    for name, path in MODULES.items():
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of the house that are imported when a module is, and not for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("klip_monai"):
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in MODULES else str(child.module)
        yield from imported(child)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Circles of a graph, each once for every place that it is entered at."""
    found = []

    def walk(path: list[str]) -> None:
        for following in graph.get(path[-1], ()):
            if following in path:
                found.append([*path[path.index(following) :], following])
            elif following not in seen:
                seen.add(following)
                walk([*path, following])

    seen: set[str] = set()
    for start in list(graph):
        if start not in seen:
            seen.add(start)
            walk([start])
    return found


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_imports_go_one_way() -> None:
    modules: dict[str, set[str]] = defaultdict(set)
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees():
        for other in imported(tree):
            if other in MODULES and other != name:
                modules[name].add(other)
                if room(other) != room(name):
                    rooms[room(name)].add(room(other))
    assert circles(modules) == []
    assert circles(rooms) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_only_the_command_line_knows_the_command_line() -> None:
    users = {name for name, tree in trees() if any(other.startswith("klip_monai.cli") for other in imported(tree))}
    assert all(name.startswith("klip_monai.cli") for name in users)


def test_one_file_imports_astra() -> None:
    users = [
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "astra" for alias in node.names)
    ]
    assert set(users) == {"klip_monai.physics.astra_projector"}


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield f"{prefix}{child.name}", child
        inner = f"{child.name}." if isinstance(child, ast.ClassDef) else prefix
        yield from functions(child, inner)


def test_functions_take_few_arguments() -> None:
    many = {}
    for module, tree in trees():
        for name, function in functions(tree):
            given = function.args
            count = len(
                [arg for arg in given.posonlyargs + given.args + given.kwonlyargs if arg.arg not in ("self", "cls")]
            )
            if count > MOST_ARGUMENTS and not module.startswith("klip_monai.cli"):
                many[name] = count
    assert set(many) <= SAMPLERS | NETWORKS, many


def test_files_fit_a_head() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}


def test_folders_with_many_files_have_a_plan() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in MODULES.values():
        counts[path.parent] += 1
    unplanned = [
        str(f.relative_to(HOUSE.parent))
        for f, n in counts.items()
        if n > MOST_FILES and not (f / "README.md").is_file()
    ]
    assert unplanned == []
