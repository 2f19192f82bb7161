"""Formulas of Office documents and MathML on one line: fractions, powers, indices, roots."""

from typing import Any

from opengte.search.parse.office.package import attribute, local_name

FRACTIONS = ("f", "mfrac")
POWERS = ("sSup", "msup", "mover")
INDICES = ("sSub", "msub", "munder")
BOTH = ("sSubSup", "msubsup", "munderover")
SKIPPED = ("annotation", "annotation-xml", "rPr", "ctrlPr")


def formula_text(element: Any) -> str:
    """Return a formula as a line of text, such as x^2/(a+b).

    >>> from lxml import etree
    >>> formula_text(etree.fromstring("<math><mfrac><mn>1</mn><mi>x</mi></mfrac></math>"))
    '1/x'
    """
    name = local_name(element)
    if name == "" or name in SKIPPED:
        return ""
    parts = [formula_text(child) for child in element if not local_name(child).endswith("Pr")]
    text = "".join(parts) or (element.text or "").strip().replace("\u2061", "")
    if name in FRACTIONS and len(parts) == 2:
        return f"{_grouped(parts[0])}/{_grouped(parts[1])}"
    if name in POWERS and len(parts) == 2:
        return f"{parts[0]}^{_grouped(parts[1])}"
    if name in INDICES and len(parts) == 2:
        return f"{parts[0]}_{_grouped(parts[1])}"
    if name in BOTH and len(parts) == 3:
        return f"{parts[0]}_{_grouped(parts[1])}^{_grouped(parts[2])}"
    if name == "nary":  # its sign is a property; then come limits and body
        sign = next((attribute(one, "val") for one in element.iterfind("{*}naryPr/{*}chr")), "∫")
        return f"{sign}_{_grouped(parts[0])}^{_grouped(parts[1])} {''.join(parts[2:])}"
    if name in ("rad", "msqrt", "mroot"):
        return f"√{_grouped(parts[-1] if parts else text)}"
    if name in ("d", "mfenced"):
        return f"({', '.join(parts)})"
    if name in ("mr", "mtr"):
        return " ".join(parts) + "; "
    return text


def _grouped(text: str) -> str:
    return text if len(text) < 2 or text.isalnum() or text.startswith("(") else f"({text})"
