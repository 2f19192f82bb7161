"""Measure how often the encoding of a text is recognised, by encoding and length.

The texts are the translated manual pages of Debian (`manpages-de`, `-fr`, `-es`, `-pl`, `-ja`,
`-ru`, `-zh`), installed or unpacked below `--root`, and message catalogues of Korean, Greek, Hebrew
and Thai below `/usr/share/locale`. A sample is right if it decodes to its own characters.

    python bench/text_encodings.py --root / --samples 25
"""

import argparse
import contextlib
import gettext
import gzip
import random
import re
from collections.abc import Iterator
from pathlib import Path

from opengte.search.parse.base import UnreadableFileError
from opengte.search.parse.encodings import find_encoding

ENCODINGS = {
    "Windows-1252, German": ("de", "cp1252"),
    "Windows-1252, French": ("fr", "cp1252"),
    "Windows-1252, Spanish": ("es", "cp1252"),
    "GBK": ("zh_CN", "gbk"),
    "Big5": ("zh_TW", "big5"),
    "Shift-JIS": ("ja", "cp932"),
    "EUC-JP": ("ja", "euc_jp"),
    "EUC-KR": ("ko", "cp949"),
    "KOI8-R": ("ru", "koi8-r"),
    "UTF-16LE, no mark, German": ("de", "utf-16-le"),
    "UTF-16LE, no mark, Russian": ("ru", "utf-16-le"),
    "UTF-16LE, no mark, Chinese": ("zh_CN", "utf-16-le"),
    "UTF-16BE, no mark, Japanese": ("ja", "utf-16-be"),
    "UTF-8, German": ("de", "utf-8"),
    "UTF-8, Chinese": ("zh_CN", "utf-8"),
    "Windows-1251": ("ru", "cp1251"),
    "Windows-1250, Polish": ("pl", "cp1250"),
    "ISO-8859-2, Polish": ("pl", "iso8859-2"),
    "Windows-1253, Greek": ("el", "cp1253"),
    "Windows-1255, Hebrew": ("he", "cp1255"),
    "TIS-620, Thai": ("th", "tis-620"),
}
LENGTHS = (15, 40, 120, 500, 2000)


def texts_of(language: str, root: Path) -> Iterator[str]:
    """Yield the texts of a language, without the commands of their markup."""
    manuals = f"usr/share/man/{language}/man[1578]/*.gz"
    for path in sorted([*root.glob(manuals), *root.glob(f"*/{manuals}")])[:400]:
        lines = gzip.open(path).read().decode("utf-8", "replace").splitlines()
        plain = (re.sub(r"\\f\[?[A-Z]+\]?", "", line).replace("\\-", "-") for line in lines)
        yield "\n".join(one for one in plain if one[:1] not in (".", "'") and "\\" not in one)
    for path in sorted(Path("/usr/share/locale", language, "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file, contextlib.suppress(UnicodeDecodeError):
            messages = vars(gettext.GNUTranslations(file))["_catalog"].values()
            yield "\n".join(one for one in messages if isinstance(one, str) and not one.isascii())


def samples_of(texts: list[str], codec: str, length: int, count: int) -> Iterator[str]:
    """Yield pieces of texts, with only what the encoding has, that are not all ASCII."""
    chance = random.Random(length)
    for _ in range(count * 1000):
        text = chance.choice(texts)
        start = chance.randrange(max(1, len(text) - length))
        piece = text[start : start + length].encode(codec, "ignore").decode(codec).strip()
        if len(piece) > length * 2 / 3 and not piece.isascii() and "\ufffd" not in piece:
            yield piece
            count -= 1
        if not count:
            return


def is_recognised(piece: str, codec: str) -> bool:
    """Return whether a text is read as it was written."""
    content = piece.encode(codec)
    with contextlib.suppress(UnreadableFileError):
        return find_encoding(content).decode(content) == content.decode(codec)
    return False


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="where packages are unpacked")
    parser.add_argument("--samples", type=int, default=25, help="of each encoding and length")
    options = parser.parse_args()
    print("characters".ljust(30), *(f"{length:>7}" for length in LENGTHS))
    for name, (language, codec) in ENCODINGS.items():
        texts = [text for text in texts_of(language, options.root) if len(text) > LENGTHS[-1]]
        row = []
        for length in LENGTHS if texts else ():
            found = [
                is_recognised(piece, codec)
                for piece in samples_of(texts, codec, length, options.samples)
            ]
            row.append(f"{sum(found):>4}/{len(found):<2}")
        print(name.ljust(30), *(row or ["no texts"]))


if __name__ == "__main__":
    main()
