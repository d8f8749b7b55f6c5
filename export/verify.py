"""Whether `.sgt` files are whole, with their model or without one: `sigtok verify`."""

from __future__ import annotations

from argparse import Namespace

from sigtok.codecs.bitstream import check, read
from sigtok.codecs.codec import Codec
from sigtok.codecs.entropy.coder import Prior
from sigtok.codecs.files import own_coder
from sigtok.codecs.header import OWN_TABLES, PRIOR, Header
from sigtok.codecs.spec import CodecSpec

from .exits import BUG, DATA, GOOD, USAGE, explain, one_line
from .inputs import Item, gather, on_disk
from .released import open_model, open_prior, read_file, record_of, writer_of

SGT = (".sgt",)
WORSE = (GOOD, DATA, USAGE, BUG)  # each than the one before


def verify(args: Namespace) -> int:
    """One line per file on standard output: what was found to be right, or the first thing that is wrong."""
    verifier, codes = Verifier(args.model, open_prior(args.prior)), [GOOD]
    for item in gather(args.inputs, SGT).items:
        code, line = _line(verifier, item)
        print(one_line(line), flush=True)
        codes.append(code)
    return max(codes, key=WORSE.index)


def _line(verifier: Verifier, item: Item) -> tuple[int, str]:
    try:
        with on_disk(item.path) as path:
            seen, words = verifier.verify(path)
            return (GOOD, f"OK: {item.path}: {words}") if seen else (USAGE, f"NOT SEEN: {item.path}: {words}")
    except Exception as error:
        code, line = explain(error, item.path)
        return code if code in WORSE else DATA, f"BAD: {line}"


class Verifier:
    """Checks files, and loads a model only if its tables are needed, and once.

    Args:
        name: The model of all files; None for the bundled one that wrote a file, if one did.
        prior: That of all files that were written with one.
    """

    def __init__(self, name: str | None, prior: Prior | None = None) -> None:
        self.name, self.prior = name, prior
        self.loaded: dict[str, Codec] = {}
        if name is not None:
            record_of(name)

    def verify(self, path: str) -> tuple[bool, str]:
        """Whether every bit of a file was checked, and what is right about it, in words.

        Raises:
            ValueError: If a bit of it is damaged or missing, or another model wrote it.
        """
        data, header = read_file(path)
        name = self.name or writer_of(header)
        if name is None or (header.coding == PRIOR and self.prior is None):
            return self._alone(data, header, known=name is not None)
        record = record_of(name)
        coder = own_coder(self._open(name)) if header.coding == OWN_TABLES else self.prior
        spec, identity = CodecSpec.from_dict(record["spec"]), bytes.fromhex(record["stream_id"])
        codes = sum(int((book >= 0).sum()) for book in read(data, spec, identity, coder=coder).codes)
        return True, f"{len(data)} bytes, {codes} codes of {name}"

    def _alone(self, data: bytes, header: Header, known: bool) -> tuple[bool, str]:
        """What shows without a model or a prior: of a packet its header, of a container every bit."""
        if check(data):
            return True, f"{len(data)} bytes, all codes; of model {header.stream_id.hex()}, which was not compared"
        packet = header.profile == "packet"
        seen = "only its header was read" if packet else "its codes were not decoded"
        needs = [] if known else [f"model {header.stream_id.hex()}, name it with -m"]
        if header.prior is not None:
            needs.append(f"prior {header.prior:08x}, name it with --prior")
        return not packet, f"{len(data)} bytes, {seen}; of {', and of '.join(needs)} to check the rest"

    def _open(self, name: str) -> Codec:
        if name not in self.loaded:
            self.loaded[name] = open_model(name)
        return self.loaded[name]
