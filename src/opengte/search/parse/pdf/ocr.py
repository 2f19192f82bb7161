"""Pages that are pictures of text: read by Tesseract, where it is installed."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any

DPI = 300
MOST_PIXELS = 25_000_000  # of a page that is drawn: A3 at 300 dots per inch has 17 million
SCRIPTS = ("osd", "equ", "snum")  # data of Tesseract that are no languages
MOST_AUTOMATIC = 3  # languages at once; each takes its time
TWO_LETTERS = {  # of documents that name their language, to Tesseract's
    "ar": "ara", "cs": "ces", "da": "dan", "de": "deu", "el": "ell", "en": "eng", "es": "spa",
    "fa": "fas", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "it": "ita",
    "ja": "jpn", "ko": "kor", "nb": "nor", "nl": "nld", "no": "nor", "pl": "pol", "pt": "por",
    "ro": "ron", "ru": "rus", "sv": "swe", "th": "tha", "tr": "tur", "uk": "ukr", "vi": "vie",
    "zh": "chi_sim",
}  # fmt: skip


class OcrError(Exception):
    """A page could not be read; the message is the reason."""


@cache
def installed_languages() -> tuple[str, ...]:
    """Return the languages that Tesseract has data for, () where it is not installed."""
    if shutil.which("tesseract") is None:
        return ()
    try:
        listed = subprocess.run(
            ["tesseract", "--list-langs"], capture_output=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    names = listed.stdout.decode("utf-8", "replace").split("\n")[1:]
    return tuple(name.strip() for name in names if name.strip() and "/" not in name)


def chosen_languages(setting: str, document: str) -> tuple[str, ...]:
    """Return the languages to read a document with; OcrError where there are none.

    setting is "off", "auto" or names such as "eng+deu"; document is the language that the document
    names, "" for none. "auto" takes that language, or all that are installed where they are few.
    """
    if setting == "off":
        raise OcrError("OCR is off")
    installed = installed_languages()
    languages = tuple(name for name in installed if name not in SCRIPTS)
    if not languages:
        raise OcrError("Tesseract, which reads scans, is not installed")
    if setting != "auto":
        missing = missing_languages(setting)
        if missing:
            raise OcrError(f"Tesseract has no data for `{missing[0]}`")
        return tuple(setting.split("+"))
    own = TWO_LETTERS.get(document[:2].lower())
    if own in languages:
        return (own,)
    if len(languages) <= MOST_AUTOMATIC:
        return languages
    return ("eng",) if "eng" in languages else languages[:1]


def missing_languages(setting: str) -> list[str]:
    """Return the languages of a setting that Tesseract has no data for."""
    if setting in ("auto", "off"):
        return []
    installed = installed_languages()
    return [name for name in setting.split("+") if name not in installed]


def page_to_text(page: Any, languages: Sequence[str], seconds: float) -> str:
    """Return the text of a page as it is drawn; OcrError if Tesseract fails or takes too long."""
    layout = "1" if "osd" in installed_languages() else "3"  # 1: a page may lie on its side
    command = ["tesseract", "stdin", "stdout", "-l", "+".join(languages), "--psm", layout]
    width, height = page.get_size()
    scale = min(DPI / 72, (MOST_PIXELS / max(width * height, 1.0)) ** 0.5)
    command += ["--dpi", str(max(round(scale * 72), 70))]
    try:
        done = subprocess.run(
            command,
            input=_drawn(page, scale),
            capture_output=True,
            timeout=max(seconds, 1.0),
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            preexec_fn=_limited(seconds),
        )
    except subprocess.TimeoutExpired:
        raise OcrError(f"OCR took longer than {seconds:.0f} s") from None
    except OSError as error:
        raise OcrError(f"Tesseract cannot be run ({error.strerror or error})") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1][:120]
        raise OcrError(f"Tesseract failed ({last or f'status {done.returncode}'})")
    return done.stdout.decode("utf-8", "replace").replace("\f", "")


def _drawn(page: Any, scale: float) -> bytes:
    """Return a page as a grey picture in the PGM format."""
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        shape = bitmap.to_numpy()
        pixels = shape if shape.ndim == 2 else shape[:, :, 0]
        head = f"P5 {bitmap.width} {bitmap.height} 255\n".encode()
        return head + bytes(pixels[:, : bitmap.width].tobytes())
    finally:
        bitmap.close()


def _limited(seconds: float) -> Any:
    """Return what bounds the processor time of a child, even if its parent is killed."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    most = max(int(seconds) + 1, 2)
    return lambda: resource.setrlimit(resource.RLIMIT_CPU, (most, most))
