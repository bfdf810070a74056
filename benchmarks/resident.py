"""How much memory a process has, as the system counts it."""


def resident(process: int | str = "self", field: str = "VmRSS") -> int:
    """Bytes of a process in memory, of Linux; "VmHWM": the most there were, "RssFile": those of mapped files."""
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:")) * 1024
