"""Decode the text files of users."""

import codecs


def decode_text(data: bytes) -> str:
    """Decode a text file of any editor: UTF-8 with or without a byte-order mark, or UTF-16."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
