"""What a PDF says of itself: dates as ISO 8601, and titles only where they are titles."""

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

MOST_TITLE = 200
DATE = re.compile(
    r"(?:D:)?\s*(\d{4})(?:-?(\d\d))?(?:-?(\d\d))?(?:[T ]?(\d\d))?(?::?(\d\d))?(?::?(\d\d))?"
    r"(?:\.\d+)?\s*(?:(Z)|([+-])(\d\d)(?:'?:?(\d\d))?)?.*"
)
FORMATS = ("%a %b %d %H:%M:%S %Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y", "%d.%m.%Y", "%d %B %Y")

# names that programs give: those of the program, of a file, or none at all
PROGRAM = re.compile(
    r"^(?:microsoft (?:office )?(?:word|excel|powerpoint|publisher|visio)|powerpoint"
    r"|openoffice|libreoffice|corel\w*)\s*[-–:]\s*",
    re.IGNORECASE,
)
FILE = re.compile(
    r"^(?:.*[/\\])?[^/\\]*\.(?:docx?|dotx?|pptx?|xlsx?|odt|odp|ods|rtf|tex|dvi|e?ps|pdf|indd|qxd|qxp"
    r"|fm|book|pub|pm\d|p65|wpd|vsdx?|cdr|ai|psd|txt|html?|md|tmp|tiff?|jpe?g|png|svg|xml|dwg|fo)$",
    re.IGNORECASE,
)
NONE = re.compile(
    r"^\W*(?:untitled|unbenannt|sans[ -]titre|senza titolo|sin t[ií]tulo|sem t[ií]tulo|naamloos"
    r"|без имени|无标题|無題|anonymous|unknown|unspecified|unnamed|none|null|nil|n/?a|(?:no )?title"
    r"|titel|document|dokument|presentation|pr[äé]sentation|slide|layout|sheet|book|print|scan\w*"
    r"|no job name|job|image|page|seite|template|about:blank|powerpoint presentation|default"
    r"|microsoft (?:word|excel|powerpoint)|pdf|powerpoint-präsentation|présentation powerpoint)"
    r"(?:[\W_]*(?:copy|kopie|page|\d+))*\W*$",
    re.IGNORECASE,
)
ADDRESS = re.compile(r"^(?:https?|file|ftp|data|blob):\S*$|^localhost\S*$|^\S+@\S+$", re.IGNORECASE)
NUMBERED = re.compile(r"^[\W\d_]*$|^[0-9a-f]{8}(?:-?[0-9a-f]{4,}){1,}$", re.IGNORECASE)


def judged_title(title: str) -> str:
    """Return a title that says what a document is about, "" for what programs put in its place.

    >>> judged_title("Microsoft Word - Annual report"), judged_title("untitled-1")
    ('Annual report', '')
    """
    title = " ".join(title.replace("\0", " ").split())
    stripped = PROGRAM.sub("", title)
    junk = (NONE, FILE, ADDRESS, NUMBERED)
    if any(pattern.match(stripped) for pattern in junk) or "\ufffd" in stripped:
        return ""
    return stripped[:MOST_TITLE] if sum(map(str.isalpha, stripped)) > 1 else ""


def iso_date(written: str) -> str | None:
    """Return a date as ISO 8601 in the time zone it was written in; None for what is no date.

    >>> iso_date("D:20260314092653+01'00'"), iso_date("yesterday")
    ('2026-03-14T09:26:53+01:00', None)
    """
    written = written.strip().strip("\0")
    match = DATE.fullmatch(written)
    try:
        if match:
            return _from_parts(match)
        for form in FORMATS:
            try:
                return datetime.strptime(written, form).isoformat()
            except ValueError:
                continue
        return parsedate_to_datetime(written).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _from_parts(match: re.Match[str]) -> str:
    year, month, day, hour, minute, second = match.groups()[:6]
    date = f"{year}-{month or '01'}-{day or '01'}"
    if hour is None:
        return datetime.fromisoformat(date).date().isoformat()
    zone = "+00:00" if match[7] else f"{match[8]}{match[9]}:{match[10] or '00'}" if match[8] else ""
    whole = f"{date}T{hour}:{minute or '00'}:{second or '00'}{zone}"
    return datetime.fromisoformat(whole).isoformat()


def told_fields(told: Mapping[str, str]) -> dict[str, str]:
    """Return author, subject and dates; a date that cannot be read is kept under another name."""
    fields: dict[str, str] = {}
    for theirs, ours in {"Author": "author", "Subject": "subject"}.items():
        value = told.get(theirs, "").strip()
        if value and not NONE.match(value):
            fields[ours] = value
    for theirs, ours in {"CreationDate": "created", "ModDate": "modified"}.items():
        if written := told.get(theirs, "").strip():
            date = iso_date(written)
            fields[ours if date else f"{ours}_as_written"] = date or written
    return fields
