"""`sigtok export`: a model as ONNX graphs."""

from __future__ import annotations

import json
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from .exits import DATA, GOOD, USAGE, Failure, located
from .outputs import making
from .released import open_model, resolve, spec_of


def export(args: Namespace) -> int:
    """Write the graphs of a model into a folder, if they give the same codes."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise Failure(USAGE, f"export needs {missing[0]}, which is not installed; run pip install 'sigtok[export]'")
    from .write import write_onnx

    rate = None
    if args.codebooks or args.queries or args.window:
        spec = spec_of(args.model)
        if spec.qualities:
            raise Failure(USAGE, f"graphs of {spec.name} serve all its qualities, got another rate; leave it out")
        rate = resolve(spec, args.codebooks, args.queries, args.window)
    codec, folder = open_model(args.model), Path(args.folder)
    try:
        with making(folder):
            record = write_onnx(codec, folder, rate=rate, trials=args.trials)
    except ValueError as error:
        raise Failure(DATA, located(args.model, str(error))) from error
    print(f"{folder}: {json.dumps(record.get('parity'))}")
    return GOOD
