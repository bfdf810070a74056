"""Text files as lines."""

from pathlib import Path


def lines_of(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file; only a line feed ends a line, so that aligned files stay aligned."""
    try:
        lines = Path(path).read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, got {error}") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
