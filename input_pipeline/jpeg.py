"""JPEG files cut off below a row, so that what no crop shows is not decoded."""

_START, _END, _FILL = b"\xff\xd8", b"\xff\xd9", 0xFF
_BASELINE = (0xC0, 0xC1)  # frames whose blocks are coded once, from top to bottom
_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC}  # progressive, lossless and arithmetic ones
_SCAN = 0xDA
_BLOCK = 8  # pixels


def first_rows(encoded: bytes, num_rows: int) -> bytes | None:
    """The same file, declared to end at `num_rows` or up to a row of blocks below it.

    The decoder stops there, having given the same pixels; only the last row or two, which the decoder smooths with the
    colours of the rows below, may differ.

    Args:
      encoded: a whole file.
      num_rows: pixels to keep, from the top.

    Returns:
      None where the file cannot be cut: it has several scans (progressive), is arithmetically coded or not whole; or
      where there is nothing to cut.
    """
    if not encoded.startswith(_START) or not encoded.endswith(_END):
        return None
    position, frame = len(_START), None
    while position + 4 < len(encoded):
        if encoded[position] != _FILL:
            return None
        marker, length = encoded[position + 1], int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == _FILL:  # fill bytes may precede a marker
            position += 1
            continue
        if marker in _OTHER_FRAMES:
            return None
        if marker in _BASELINE:
            frame = position
        elif marker == _SCAN:
            return _cut(encoded, frame, num_rows, num_scanned=encoded[position + 4])
        position += 2 + length
    return None


def _cut(encoded: bytes, frame: int | None, num_rows: int, num_scanned: int) -> bytes | None:
    """Writes the height into the frame header: marker, length, bits, height, width, number of components, components.

    Args:
      encoded: the file.
      frame: where the header is.
      num_rows: pixels to keep.
      num_scanned: components of the first scan; the frame's where it is the only one.
    """
    if frame is None or frame + 11 + 3 * num_scanned > len(encoded) or encoded[frame + 9] != num_scanned:
        return None
    at = frame + 5
    height = int.from_bytes(encoded[at : at + 2], "big")
    factors = (encoded[frame + 11 + 3 * component] & 15 for component in range(num_scanned))
    rows_of_blocks = _BLOCK * max(1, *factors)
    kept = -(-num_rows // rows_of_blocks) * rows_of_blocks
    return encoded[:at] + kept.to_bytes(2, "big") + encoded[at + 2 :] if 0 < kept < height else None
