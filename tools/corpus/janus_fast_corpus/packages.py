"""Debian packages as files: downloaded with apt into a private folder, never installed, no root needed."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .sources import Source

ARCHIVE_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_HELPER = "/usr/lib/apt/apt-helper"
DEFAULT_RELEASE = "bookworm"


class PackageStore:
    """Packages and package lists of this system's Debian release, kept in a folder of our own.

    The mirror comes from the system's own apt configuration; apt's private state (lists, sources) lies in the folder,
    so that the system's is neither read nor changed. A package that the folder already holds is not fetched again.

    Args:
        folder: where lists and packages are kept.
        language: two letters, the target language (for the translated package descriptions).
        progress: called with one line of text for each thing worth telling.
    Raises:
        OSError: no apt-get or dpkg-deb, or no Debian repository in the apt configuration.
    """

    def __init__(self, folder: str | os.PathLike, language: str, progress: Callable[[str], None]):
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise OSError(f"corpus: {tool} must be installed (the text comes from Debian packages), got none")
        self.folder = Path(folder).resolve()
        self.progress = progress
        self.missing: list[str] = []  # packages that the release does not have, in order of request
        for name in ("lists/partial", "archives/partial", "etc", "debs", "srcs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.release = _release_of_this_system()
        self._write_apt_sources()
        options = (
            f"Dir::Etc::sourcelist={self.folder}/etc/src.list",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::lists={self.folder}/lists",
            f"Dir::Cache={self.folder}",
            "APT::Sandbox::User=root",
            "APT::Update::Error-Mode=any",
            f"Acquire::Languages=en,{language}",
            "Acquire::Retries=2",
        )
        self._apt_get = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]

    def _write_apt_sources(self) -> None:
        question = [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
            "Created-By: Packages",
        ]
        answer = subprocess.run(question, capture_output=True, text=True).stdout
        repositories = sorted({tuple(line.split("|")) for line in answer.split() if line.count("|") == 2})
        repositories = [
            (address, release)
            for address, release, component in repositories
            if component == "main" and re.split("[-/]", release)[0] == self.release and "cloud" not in release
        ]
        if not repositories:
            raise OSError(
                f"corpus: the apt configuration must name a Debian 'main' repository of {self.release}, got none"
            )
        signed = f"[signed-by={ARCHIVE_KEYRING}] " if ARCHIVE_KEYRING.exists() else ""
        lines = [
            f"{kind} {signed}{address} {release} main\n"
            for address, release in repositories
            for kind in ("deb", "deb-src")
        ]
        (self.folder / "etc" / "src.list").write_text("".join(lines))

    def _run(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*self._apt_get, *arguments], cwd=folder or self.folder, capture_output=True, text=True, env=_english()
        )

    def update(self) -> None:
        """Fetches the package lists; without a network, go on with the lists of an earlier run where there are any."""
        result = self._run("update")
        if result.returncode == 0:
            return
        if not any((self.folder / "lists").glob("*_Packages*")):
            raise OSError(f"corpus: the package lists must be reachable, got: {_last_line(result.stderr)}")
        self.progress(f"package lists not refreshed, those of {self.folder} are used: {_last_line(result.stderr)}")

    def binary_package(self, name: str) -> Path | None:
        """Path of the downloaded .deb of a package, or None where the release has no such package."""
        folder = self.folder / "debs" / name
        if not list(folder.glob("*.deb")):
            self._fetch(folder, ["download", name], r"\.deb$")
        found = sorted(folder.glob("*.deb"))
        if not found:
            self._note_missing(name)
            return None
        return found[-1]

    def source_tarballs(self, name: str) -> list[Path]:
        """Paths of the upstream tarballs of a source package: the newest version, else the release's; [] for none."""
        folder = self.folder / "srcs" / name

        def tarballs() -> list[Path]:
            paths = sorted(folder.glob("*")) if folder.is_dir() else []
            return [
                path for path in paths if re.search(r"\.tar\.(gz|xz|bz2)$", path.name) and ".debian." not in path.name
            ]

        for version in (name, f"{name}/{self.release}"):
            if not tarballs():
                self._fetch(folder, ["source", "--download-only", version], "")
        if not tarballs():
            self._note_missing(f"{name} (source)")
        return tarballs()

    def descriptions(self, language: str) -> str:
        """The list of package descriptions of the release in a language, or "" where there is none."""
        text = self._list(rf"i18n_Translation-{language}")
        if not text:
            self._note_missing(f"Translation-{language}")
        return text

    def source_names(self) -> dict[str, str]:
        """By binary package the source package that it is built from, where that has another name."""
        stanzas = self._list(r"binary-\w+_Packages").split("\n\n")
        found = (re.search(r"^Package: (\S+)\n(?:.*\n)*?Source: (\S+)", stanza) for stanza in stanzas)
        return dict(match.groups() for match in found if match)

    def _list(self, name: str) -> str:
        """A list of the release, or "" where there is none."""
        for path in sorted((self.folder / "lists").iterdir()):
            if re.search(rf"_dists_[a-z]+_main_{name}(\.\w+)?$", path.name):
                result = subprocess.run([APT_HELPER, "cat-file", str(path)], capture_output=True)
                return result.stdout.decode("utf8", "replace")
        return ""

    def files_of(self, source: Source, language: str) -> dict[str, dict]:
        """``{file name: {"bytes", "sha256"}}`` of every file kept for a source."""
        folders = [self.folder / "debs" / name.format(language=language) for name in source.packages]
        folders += [self.folder / "srcs" / name for name in source.source_packages]
        paths = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
        return {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in paths
        }

    def _fetch(self, folder: Path, arguments: list[str], wanted: str) -> None:
        """Downloads in a folder of its own, then moves what is complete: a killed run leaves no partial package."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self.folder / "archives") as arrival:
            result = self._run(*arguments, folder=Path(arrival))
            if result.returncode and "Failed to fetch" in result.stderr:
                raise OSError(f"corpus: package {folder.name} must be reachable, got: {_last_line(result.stderr)}")
            for path in sorted(Path(arrival).iterdir()):
                if path.is_file() and re.search(wanted, path.name):
                    path.replace(folder / path.name)

    def _note_missing(self, name: str) -> None:
        self.missing.append(name)
        self.progress(f"not in this release: {name}")


def _release_of_this_system() -> str:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return DEFAULT_RELEASE
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", text, re.M)
    return found.group(1) if found else DEFAULT_RELEASE


def _english() -> dict[str, str]:
    """The environment with untranslated messages, since apt's are looked at."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if "Some index files failed" not in line]
    return lines[-1].strip()[:300] if lines else "no message"


def package_members(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the regular files of a .deb whose name satisfies ``wanted``."""
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE)
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            yield from _members(archive, wanted)
    finally:
        process.stdout.close()
        process.wait()


def tarball_members(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the regular files of a tarball whose name satisfies ``wanted``."""
    with tarfile.open(path, mode="r|*") as archive:
        yield from _members(archive, wanted)


def _members(archive: tarfile.TarFile, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if member.isfile() and wanted(member.name):
            yield member.name, archive.extractfile(member).read()
