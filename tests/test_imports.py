"""The architecture, read from the source: who imports whom, what is free of torch, what is shipped."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sigtok.codecs

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FOLDERS = ("codecs", "configs", "export", "train")
CORE = {"torch", "numpy", "einops", "jaxtyping", "safetensors", "tqdm", "sigtok.codecs"}
LEARN = {
    "lightning",
    "jsonargparse",
    "yaml",  # comes with jsonargparse
    "torchaudio",
    "torchvision",
    "compressai",
    "matplotlib",
    "tensorboard",
    "wandb",
}
SHIP = {"onnx", "onnxscript", "onnxruntime", "pyarrow", "ray", "fsspec"}
ALLOWED = {
    "codecs": CORE | {"constriction"},
    "codecs/media.py": {"numpy", "soundfile", "soxr", "PIL", "pillow_jxl", "torch"},
    "codecs/metrics/itu.py": CORE | {"pesq"},
    "codecs/metrics/neurograms.py": CORE | {"visqol"},
    "codecs/metrics/opinion.py": CORE | {"distillmos", "onnxruntime"},
    "codecs/metrics/perceptual.py": CORE | {"torchvision"},
    "codecs/metrics/ssimulacra.py": CORE | {"ssimulacra2"},
    "codecs/metrics/words.py": CORE | {"whisper"},
    "codecs/shards.py": CORE | {"pyarrow"},
    "configs": set(),
    "export": CORE | SHIP | {"sigtok.export"},
    "export/runtime.py": CORE - {"torch", "einops", "jaxtyping"} | {"onnxruntime", "constriction"},
    "train": CORE | LEARN | {"sigtok.train"},
}
# Inside codecs a module imports from its own level and those before; audio and image never meet.
LEVELS = (
    (
        *("spec", "header", "payload", "packet", "plan", "container_head", "container", "bitstream"),
        *("container_stream", "media", "features", "entropy"),
    ),
    ("tokens", "shards", "corpus", "densities", "layers", "transforms", "metrics"),
    ("anchored", "queries", "quantizers"),
    ("layouts",),
    ("codec", "streaming"),
    ("audio", "image", "weights"),
    ("control", "files", "pretrained", "language"),
)
# No torch, not even inside a function; media and cli may load it inside one.
WITHOUT_TORCH = ("codecs/spec.py", "codecs/bitstream.py", "codecs/entropy/packing.py", "export/runtime.py")
WITHOUT_TORCH_AT_IMPORT = (*WITHOUT_TORCH, "codecs/__init__.py", "codecs/media.py", "export/cli.py")
PUBLIC = {
    "BitstreamError", "Codec", "CodecSpec", "Layout", "Quantized", "Quantizer", "Rate", "Tokens", "Transform",
    "at_bitrate", "at_quality", "at_rate", "at_size", "ladder", "load", "save", "smallest",
}  # fmt: skip

SOURCES = {path.relative_to(ROOT).as_posix(): path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}


def module_name(source):
    """codecs/layouts/base.py -> sigtok.codecs.layouts.base; codecs/__init__.py -> sigtok.codecs."""
    return ".".join(("sigtok", *source.removesuffix(".py").removesuffix("/__init__").split("/")))


MODULES = {module_name(source): source for source in SOURCES}
PACKAGES = {name for name, source in MODULES.items() if source.endswith("__init__.py")}


@functools.cache
def statements(source):
    """Every import statement of a file, also those inside functions."""
    tree = ast.parse(SOURCES[source].read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def package_of(source, level=1):
    """The package that a relative import of some dots starts from."""
    name = module_name(source)
    folder = name if name in PACKAGES else name.rpartition(".")[0]
    return ".".join(folder.split(".")[: len(folder.split(".")) - level + 1])


def targets(source, node):
    """The modules that one import statement names, in full."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        base = ".".join(filter(None, (package_of(source, node.level), base)))
    below = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else base for name in below]


@functools.cache
def imported(source):
    return {name for node in statements(source) for name in targets(source, node)}


def under(name, tops):
    return any(f"{name}.".startswith(f"{top}.") for top in tops)


def level_of(name):
    """The level of a module inside codecs; of two entries that fit, the longer."""
    inner = name.removeprefix("sigtok.codecs.")
    fits = [(len(top), level) for level, tops in enumerate(LEVELS) for top in tops if under(inner, (top,))]
    return max(fits, default=(0, None))[1]


def report(wrong):
    wrong = sorted(wrong)
    assert not wrong, "\n" + "\n".join(wrong)


# -- who imports whom --------------------------------------------------------------------------------------


def may_import(source, name):
    place = source if source in ALLOWED else source.split("/")[0]
    return name.split(".")[0] in sys.stdlib_module_names or under(name, ALLOWED[place])


def test_every_import_is_allowed():
    pairs = ((source, name) for source in SOURCES for name in imported(source))
    report(f"{source} imports {name}, which it may not" for source, name in pairs if not may_import(source, name))


def test_the_lists_forbid_what_the_design_forbids():
    for place, strangers in {
        "codecs": {"lightning", "onnx", "onnxruntime", "sigtok.train", "sigtok.export", "soundfile", "PIL"},
        "train": {"sigtok.export", "onnx", "onnxruntime", "soundfile", "soxr", "PIL"},
        "export": {"sigtok.train", "lightning", "soundfile", "soxr", "PIL"},
        "export/runtime.py": {"sigtok.train", "torch", "onnx"},
    }.items():
        assert not any(under(name, ALLOWED[place]) for name in strangers)


def crosses_folders(source, node):
    base = ".".join(filter(None, (package_of(source), node.module)))
    return node.level > 1 or "." in (node.module or "") or (bool(node.module) and base in PACKAGES)


def stays_in_its_folder(source, node):
    return any(name in MODULES and name.rpartition(".")[0] == package_of(source) for name in targets(source, node))


def test_inside_one_folder_imports_are_relative_and_across_folders_absolute():
    wrong = []
    for source in set(SOURCES) - {"codecs/__init__.py"}:
        for node in statements(source):
            where = f"{source}:{node.lineno}: {ast.unparse(node)}"
            if getattr(node, "level", 0):
                if crosses_folders(source, node):
                    wrong.append(f"{where} -> crosses folders: write from sigtok...")
            elif stays_in_its_folder(source, node):
                wrong.append(f"{where} -> stays in its folder: write from .module")
    report(wrong)


def test_no_module_imports_from_an_init():
    pairs = ((source, name) for source in SOURCES for name in imported(source) & PACKAGES)
    report(f"{source} imports from {name}/__init__.py: name the module that defines it" for source, name in pairs)


def test_codecs_import_only_leftwards():
    wrong = []
    for source in (source for source in SOURCES if source.startswith("codecs/") and "__init__" not in source):
        own, side = level_of(module_name(source)), module_name(source).split(".")[2]
        if own is None:
            wrong.append(f"{source} has no level: place it in LEVELS")
            continue
        for name in imported(source) & (set(MODULES) - PACKAGES):
            level = level_of(name)
            if under(name, {"sigtok.codecs"}) and (level is None or level > own):
                wrong.append(f"{source} (level {own}) imports {name} (level {level})")
            if {side, name.split(".")[2]} == {"audio", "image"}:
                wrong.append(f"{source} imports {name}: audio and image never meet")
    report(wrong)


def test_imports_make_no_cycle():
    graph = {name: imported(source) & set(MODULES) for name, source in MODULES.items() if name not in PACKAGES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


# -- what stays free of torch ------------------------------------------------------------------------------


def runs_without(blocked, code):
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True)


def test_the_torch_free_modules_import_where_torch_does_not():
    names = [module_name(source) for source in WITHOUT_TORCH_AT_IMPORT]
    done = runs_without(["torch"], f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    done = runs_without(["torch"], "import sigtok.codecs.tokens")
    assert "import of torch halted" in done.stderr


@pytest.mark.parametrize("source", WITHOUT_TORCH)
def test_torch_free_modules_never_name_torch(source):
    """Nor does any module of ours that they reach, media's functions aside."""
    assert source in SOURCES, f"{source} is missing"
    reached, waiting = set(), [module_name(source)]
    while waiting:
        name = waiting.pop()
        if name not in reached and name != "sigtok.codecs.media":
            reached.add(name)
            waiting += imported(MODULES[name]) & set(MODULES)
            assert not any(under(other, {"torch"}) for other in imported(MODULES[name])), f"{source} -> {name}"


# -- what codecs offers ------------------------------------------------------------------------------------


def test_codecs_offers_its_public_names():
    assert set(sigtok.codecs.__all__) == PUBLIC <= set(dir(sigtok.codecs))
    for name in PUBLIC:
        offered = getattr(sigtok.codecs, name)
        assert offered.__name__ == name
        assert getattr(importlib.import_module(offered.__module__), name) is offered
    with pytest.raises(AttributeError, match="has no 'Encoder'"):
        sigtok.codecs.Encoder  # noqa: B018


def test_names_of_the_spec_load_no_torch():
    code = "from sigtok.codecs import BitstreamError, CodecSpec, Rate"
    done = runs_without(["torch"], code)
    assert done.returncode == 0, done.stderr


# -- what is shipped, and names ----------------------------------------------------------------------------


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_shipped_and_every_shipped_package_is_one():
    folders = {module_name(Path(source).parent.as_posix()) for source in SOURCES}
    listed = project()["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(folders)
    assert set(listed) <= PACKAGES, f"no __init__.py in {set(listed) - PACKAGES}"


def dependencies():
    """Import names of everything that we depend on."""
    listed = project()["project"]
    extras = listed["optional-dependencies"].values()
    texts = [*listed["dependencies"], *(text for extra in extras for text in extra)]
    names = {re.match(r"[\w.-]+", text)[0].replace("-", "_").lower() for text in texts}
    return names | {name.split(".")[0] for allowed in ALLOWED.values() for name in allowed} - {"sigtok"}


def test_no_module_hides_the_standard_library_or_a_dependency():
    taken = sys.stdlib_module_names | dependencies()
    parts = {(source, part) for source in SOURCES for part in module_name(source).split(".")[2:]}
    tops = {(folder, folder) for folder in FOLDERS if folder != "codecs"}
    report(f"{source}: {part} is taken" for source, part in parts | tops if part in taken)


def test_names_that_are_taken_are_known():
    assert {"torch", "lightning", "onnx", "PIL", "pytest", "pillow"} <= dependencies()
    assert {"codecs", "token", "types", "signal"} <= sys.stdlib_module_names
