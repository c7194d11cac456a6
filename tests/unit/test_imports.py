"""The laws of the house, held by reading the source: who may import whom, and what nobody does.

The checker takes module names and source texts, so that planted violations can show that each of
the laws bites.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "docr"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors", "settings", "events", "escape", "compiled"}),
    frozenset({"pdf", "modes", "engine", "output", "models"}),
    frozenset({"writer", "reader", "rendering"}),
    frozenset({"survey", "pipeline"}),  # the flow's two halves: what to do, and doing it
    frozenset({"job"}),
    frozenset({"distributed"}),
    frozenset({"api", "bench", "evaluation", "report"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""Lowest first. A part imports from below, from itself, and on the lowest layer from its siblings.

`docr/__init__.py` is outside: `from docr import __version__` is open to all, and its lazy public
names reach everything, from within functions.
"""

FOR_TYPES_ONLY = {("docr.events", "docr.output.record")}
"""Imports upwards that exist for type checkers alone: a page's event can carry its record."""

HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("docr.engine", "docr.bench"),
    "pymupdf": ("docr.pdf",),
    "pypdfium2": ("docr.pdf",),
    "pypdfium2_raw": ("docr.pdf",),
    "typer": ("docr.cli",),
    "click": ("docr.cli",),
    "rich": ("docr.cli",),
    "tqdm": ("docr.cli",),
    "accelerate": ("docr.distributed", "docr.engine"),
    "ray": ("docr.distributed.ray",),
    "pydantic": ("docr.output",),
    "tokenizers": ("docr.modes.prompt", "docr.engine.detokenize"),
    "huggingface_hub": ("docr.models",),
    "safetensors": ("docr.engine",),
    "transformers": ("docr.bench.peers",),
    "triton": ("docr.engine.kernels",),
    "fitz": (),  # PyMuPDF's old name
}
"""Outside packages with a fixed home; those that are not named may be imported anywhere."""

NO_TORCH = frozenset(
    f"docr.engine.{name}" for name in ("scheduler", "sequence", "config", "loops")
)  # policy and data
LIGHT = (
    "docr.engine.factory",
    "docr.engine.engine",
    "docr.cli.main",
    "docr.__main__",
    "docr.modes.prepare",
    "docr",
)
"""Modules that reach none of the heavy packages before one of their functions runs."""
HEAVY = frozenset({"torch", "transformers", "accelerate", "pymupdf", "huggingface_hub"})

ENVIRONMENT = ("docr.cli", "docr.api", "docr.pdf.launch")
"""Where the environment is touched: read at the edge, handed on whole to child processes."""

BROAD_CATCHES = {"docr.pipeline": 1, "docr.cli.main": 1, "docr.pdf.child": 2, "docr.pdf.ahead": 1}
"""Where how many broad catches stand: a page of the job, the edge, a file or page of the cage, and
a thread, which hands on whatever ends it."""


@dataclass(frozen=True)
class Import:
    """One imported module, with its line; `lazy` where loading the importer does not load it."""

    name: str
    line: int
    lazy: bool


def within(module: str, home: str) -> bool:
    return module == home or module.startswith(home + ".")


def imports_of(tree: ast.Module, known: frozenset[str]) -> Iterator[Import]:
    """All imports of a module; those inside functions and for type checkers alone are lazy.

    `from package import name` counts as `package.name` where that is a module of ours.
    """
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, lazy = pending.pop()
        match node:
            case (
                ast.FunctionDef() | ast.AsyncFunctionDef() | ast.If(test=ast.Name("TYPE_CHECKING"))
            ):
                lazy = True
        pending += [(child, lazy) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            wholes = [f"{source}.{alias.name}" for alias in node.names]
            for name in sorted({whole if whole in known else source for whole in wholes}):
                yield Import(name, node.lineno, lazy)


def layer_of(module: str) -> int | None:
    part = module.split(".")[1] if "." in module else ""
    return next((level for level, parts in enumerate(LAYERS) if part in parts), None)


def layer_problem(module: str, item: Import) -> str | None:
    """What is wrong with one part of docr importing another, or None."""
    imported = item.name
    if imported == "docr" or module == "docr":
        return None
    if item.lazy and (module, imported) in FOR_TYPES_ONLY:
        return None
    mine, theirs = layer_of(module), layer_of(imported)
    if mine is None or theirs is None:
        return "no layer is known for it (LAYERS)"
    if module.split(".")[1] == imported.split(".")[1] or mine > theirs or mine == theirs == 0:
        return None
    return "imports run one way" if theirs > mine else "these never import each other"


def import_problems(module: str, imports: list[Import]) -> Iterator[str]:
    for item in imports:
        where = f"{module}:{item.line}: imports {item.name}"
        top = item.name.split(".")[0]
        if item.name.startswith("."):
            yield f"{where}: write the whole name"
        elif top == "docr":
            if problem := layer_problem(module, item):
                yield f"{where}: {problem}"
        elif top in HOMES and not any(within(module, home) for home in HOMES[top]):
            yield f"{where}: {top} belongs to {', '.join(HOMES[top]) or 'nobody'}"
        elif top == "torch" and module in NO_TORCH:
            yield f"{where}: policy has no tensors"


def heavy_problems(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    """Follow the imports at top level of the light modules to anything heavy."""
    for start in sorted(set(LIGHT) & set(imports)):
        chains, seen = [(start,)], {start}
        while chains:
            chain = chains.pop()
            for item in imports[chain[-1]]:
                if item.lazy or item.name in seen:
                    continue
                seen.add(item.name)
                longer = (*chain, item.name)
                if item.name.split(".")[0] in HEAVY:
                    yield f"{start}: loads {item.name}: {' -> '.join(longer)}"
                elif item.name in imports:
                    chains.append(longer)


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it takes any exception and keeps it; cleaning up and raising again is no catch."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
        for kind in caught
    )
    last = handler.body[-1]
    return broad and not (isinstance(last, ast.Raise) and last.exc is None)


def reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
        return isinstance(node.value, ast.Name) and node.value.id == "os"
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in ("environ", "environb", "getenv") for alias in node.names)
    return False


def code_problems(module: str, tree: ast.Module) -> Iterator[str]:
    nodes = list(ast.walk(tree))
    broad = [node for node in nodes if isinstance(node, ast.ExceptHandler) and is_broad(node)]
    if len(broad) > BROAD_CATCHES.get(module, 0):
        yield from (f"{module}:{handler.lineno}: catches everything" for handler in broad)
    for node in nodes:
        where = f"{module}:{getattr(node, 'lineno', 0)}"
        if reads_environment(node) and not any(within(module, home) for home in ENVIRONMENT):
            yield f"{where}: reads the environment"
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                yield f"{where}: calls {name}()"
            case ast.Call(func=ast.Name(id="print")) if not within(module, "docr.cli"):
                yield f"{where}: prints; results are files, the rest is logging"
            case ast.keyword(arg="trust_remote_code") | ast.Constant(value="trust_remote_code"):
                yield f"{where}: trust_remote_code runs other people's code"


def problems(sources: Mapping[str, str]) -> list[str]:
    """All violations in modules given as {dotted name: source}."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    known = frozenset(trees)
    imports = {module: list(imports_of(tree, known)) for module, tree in trees.items()}
    found = list(heavy_problems(imports))
    for module, tree in trees.items():
        found += import_problems(module, imports[module])
        found += code_problems(module, tree)
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_house_keeps_its_laws() -> None:
    sources = {
        module_name(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")
    }
    assert len(sources) > 20, "the walk found too little to mean anything"
    missing = [m for m in (*LIGHT, *NO_TORCH, *HOMES["tokenizers"]) if m not in sources]
    assert not missing, f"the tables name modules that do not exist: {missing}"
    found = problems(sources)
    assert not found, "\n".join(["", *sorted(found)])


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("docr.types", "from docr.job import run", "imports run one way"),
        ("docr.events", "from docr.output.record import PageRecord", "imports run one way"),
        ("docr.modes.mode", "import docr.pdf.render", "never import each other"),
        ("docr.engine.runner", "from docr import modes", "never import each other"),
        ("docr.output.store", "def f():\n    from docr import cli", "imports run one way"),
        ("docr.job", "from docr.distributed import accelerate", "imports run one way"),
        ("docr.attic", "from docr.types import PageRef", "no layer is known"),
        ("docr.pdf.render", "from . import cage", "write the whole name"),
        ("docr.modes.prepare", "import torch.nn", "torch belongs to docr.engine"),
        ("docr.engine.scheduler", "import torch", "policy has no tensors"),
        ("docr.engine.loops", "def f():\n    import torch", "policy has no tensors"),
        ("docr.engine.engine", "import torch", "loads torch"),
        ("docr.job", "import pymupdf", "pymupdf belongs to docr.pdf"),
        ("docr.pdf.render", "import fitz", "fitz belongs to nobody"),
        ("docr.job", "from tqdm.auto import tqdm", "tqdm belongs to docr.cli"),
        ("docr.modes.parse", "import tokenizers", "tokenizers belongs to docr.modes.prompt"),
        ("docr.settings", "from pydantic import BaseModel", "pydantic belongs to docr.output"),
        ("docr.job", "import os\nos.environ.get('X')", "reads the environment"),
        ("docr.job", "from os import getenv", "reads the environment"),
        ("docr.modes.parse", "eval('1')", "calls eval()"),
        ("docr.job", "exec(code)", "calls exec()"),
        ("docr.engine.runner", "print('x')", "prints"),
        ("docr.models.fetch", "load(trust_remote_code=True)", "trust_remote_code"),
        ("docr.models.fetch", "load(**{'trust_remote_code': 1})", "trust_remote_code"),
        ("docr.output.store", "try: f()\nexcept Exception: pass", "catches everything"),
        ("docr.output.store", "try: f()\nexcept: x = 1", "catches everything"),
        ("docr.output.store", "try: f()\nexcept (OSError, BaseException): pass", "everything"),
        ("docr.pipeline", "try: f()\nexcept Exception: pass\n" * 2, "catches everything"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, expected: str) -> None:
    others = dict.fromkeys(("docr.modes", "docr.cli", "docr.pdf"), "")
    found = problems({**others, module: source})
    assert any(line.startswith(module) and expected in line for line in found), found


def test_a_heavy_package_is_found_through_other_modules() -> None:
    sources = {
        "docr.engine.engine": "from docr.engine.runner import Runner",
        "docr.engine.runner": "import torch",
    }
    assert problems(sources) == [
        "docr.engine.engine: loads torch: docr.engine.engine -> docr.engine.runner -> torch"
    ]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("docr.engine.runner", "import torch\nfrom docr.types import PageRef"),
        ("docr.engine.engine", "def create():\n    import torch"),
        ("docr.engine.engine", "if TYPE_CHECKING:\n    import torch"),
        ("docr.types", "from docr.errors import FailureCode"),
        ("docr.events", "if TYPE_CHECKING:\n    from docr.output.record import PageRecord"),
        ("docr.cli.main", "import os\nfrom docr import __version__\nos.environ.get('X')"),
        ("docr.output.store", "try: f()\nexcept BaseException:\n    undo()\n    raise"),
        ("docr.output.store", "try: f()\nexcept OSError: pass"),
        ("docr.engine.model.decoder", "model.eval()"),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, source: str) -> None:
    assert problems({module: source}) == []
