"""PDF files: text in reading order, form values, titles and dates, and scanned pages by OCR."""

from opengte.search.parse.pdf.document import parse_pdf

__all__ = ["parse_pdf"]
