"""The table of sources: which Debian packages hold translated text, in which format, under which licence."""

from dataclasses import dataclass

LOCALES = {"de": "de-DE", "fr": "fr-FR", "es": "es-ES"}
PAIRS = tuple(f"en-{language}" for language in LOCALES)


@dataclass(frozen=True)
class Source:
    """One documentation project and how to read it.

    Attributes:
        name: names the source in ``*.meta.tsv`` and ``corpus.json``.
        format: the reader, a key of ``readers.READERS``.
        license: licence of the text, written beside each of its sentence pairs.
        packages: binary packages; ``{language}`` stands for the target language code, ``{locale}`` for its long form.
        source_packages: source packages, where the translations are only there.
        pages: patterns of the English and of the translated file names; group 1 is what both have in common.
        permissive: may be redistributed with its notices, as separate labelled files (MPL-2.0 is file-level copyleft).
        held_out: no pair is trained on; the source becomes an out-of-domain test set.
    """

    name: str
    format: str
    license: str
    packages: tuple[str, ...] = ()
    source_packages: tuple[str, ...] = ()
    pages: tuple[str, str] | None = None
    permissive: bool = False
    held_out: bool = False


MAN_PAGE_LICENSES = "mixed free (GPL-2+/GPL-3+, BSD, Linux-man-pages-copyleft)"
MAN_PAGE_PACKAGES = (
    *("manpages", "manpages-dev", "coreutils", "systemd", "util-linux", "mount", "bsdutils", "procps", "tar", "grep"),
    *("findutils", "nfs-common", "wget", "manpages-{language}", "manpages-{language}-dev"),
)
PUBLICAN_PAGES = (r"/html/en-US/(.*\.html)$", r"/html/{locale}/(.*\.html)$")


def _html(
    name: str, license: str, packages: tuple[str, ...], pages: tuple[str, str], permissive: bool = False
) -> Source:
    return Source(name, "html", license, packages, pages=pages, permissive=permissive)


def _catalog(name: str, license: str, *packages: str, permissive: bool = False) -> Source:
    return Source(name, "mo", license, packages, permissive=permissive)


def _source_package(name: str, license: str) -> Source:
    return Source(name, "po", license, source_packages=(name,))


# The order is part of the result: among equal pairs the first source names the pair.
SOURCES = (
    Source(
        "libreoffice-help",
        "lohelp",
        "MPL-2.0",
        ("libreoffice-help-en-us", "libreoffice-help-{language}"),
        permissive=True,
    ),
    _catalog("libreoffice-ui", "MPL-2.0", "libreoffice-l10n-{language}", permissive=True),
    _catalog("postgresql", "PostgreSQL", "postgresql-15", "postgresql-client-15", "libpq5", permissive=True),
    _catalog("subversion", "Apache-2.0", "subversion", permissive=True),
    Source("shadow-man", "po", "BSD-3-Clause, some files GPL-2+", source_packages=("shadow",)),
    _html(
        "apache-httpd-manual",
        "Apache-2.0",
        ("apache2-doc",),
        (r"/manual/en/(.*\.html)$", r"/manual/{language}/(.*\.html)$"),
        permissive=True,
    ),
    Source("gnome-user-docs", "ghelp", "CC-BY-SA-3.0", ("gnome-user-docs",), held_out=True),
    Source("debian-descriptions", "ddtp", "as the described package (mixed free)"),
    _source_package("installation-guide", "GPL-2"),
    _source_package("debian-edu-doc", "GPL-2+"),
    _source_package("dpkg", "GPL-2+"),
    _source_package("apt", "GPL-2+"),
    _source_package("aptitude", "GPL-2+"),
    Source("man-pages", "man", MAN_PAGE_LICENSES, MAN_PAGE_PACKAGES),
    _html("debian-handbook", "CC-BY-SA-3.0 or GPL-2+", ("debian-handbook",), PUBLICAN_PAGES),
    _html(
        "debian-reference",
        "GPL-2+",
        ("debian-reference-en", "debian-reference-{language}"),
        (r"/debian-reference/(.*)\.en\.html$", r"/debian-reference/(.*)\.{language}\.html$"),
    ),
    _html(
        "debian-faq",
        "GPL-2+",
        ("debian-faq", "debian-faq-{language}"),
        (r"/FAQ/(?:en/)?(.*)\.en\.html$", r"/FAQ/{language}/(.*)\.{language}\.html$"),
    ),
    _html("securing-debian", "GPL-2", ("harden-doc",), PUBLICAN_PAGES),
    _html(
        "maint-guide",
        "GPL-2+",
        ("maint-guide", "maint-guide-{language}"),
        (r"/html/(.*)\.en\.html$", r"/html/(.*)\.{language}\.html$"),
    ),
    _html(
        "developers-reference",
        "GPL-2",
        ("developers-reference", "developers-reference-{language}"),
        (r"/developers-reference/([^/]*\.html)$", r"/developers-reference/{language}/([^/]*\.html)$"),
    ),
    _catalog("git", "GPL-2", "git"),
    _catalog("gcc", "GPL-3+", "gcc-12-locales"),
    _catalog("coreutils", "GPL-3+", "coreutils"),
    _catalog("util-linux", "GPL-2+", "util-linux-locales"),
    _catalog("binutils", "GPL-3+", "binutils-common"),
    _catalog("gnupg", "GPL-3+", "gnupg-l10n"),
    _catalog("vim", "Vim", "vim-runtime"),
    _catalog("digikam", "GPL-2+", "digikam-data"),
    _catalog("krita", "GPL-2+", "krita-l10n"),
    _catalog("kdenlive", "GPL-2+", "kdenlive-data"),
    _catalog("kmymoney", "GPL-2+", "kmymoney-common"),
    _catalog("gnucash", "GPL-2+", "gnucash-common"),
    _catalog("evolution", "LGPL-2.1+", "evolution-common"),
    _catalog("gimp", "GPL-3+", "gimp-data"),
    _catalog("inkscape", "GPL-2+", "inkscape"),
    _catalog("darktable", "GPL-3+", "darktable"),
    _catalog("audacity", "GPL-2+", "audacity-data"),
    _catalog("gramps", "GPL-2+", "gramps"),
    _catalog("freeciv", "GPL-2+", "freeciv-data"),
    _catalog("wesnoth", "GPL-2+", "wesnoth-1.16-data"),
)


# Packages with manual pages in English, of which a page's text and its line about itself make a pair. Whole packages
# are held out, so many small ones are among them.
MANUALS = (
    *("manpages", "manpages-dev", "libssl-doc", "libcurl4-doc", "git-man", "perl-doc", "tcl8.6-doc", "tk8.6-doc"),
    *("coreutils", "systemd", "util-linux", "mount", "bsdutils", "procps", "psmisc", "tar", "grep", "sed", "findutils"),
    *(
        "diffutils",
        "patch",
        "gzip",
        "bzip2",
        "xz-utils",
        "zip",
        "unzip",
        "cpio",
        "rsync",
        "wget",
        "curl",
        "less",
        "file",
    ),
    *("man-db", "cron", "at", "nfs-common", "passwd", "login", "adduser", "debianutils", "dpkg", "dpkg-dev", "apt"),
    *(
        "apt-utils",
        "aptitude",
        "devscripts",
        "debhelper",
        "quilt",
        "subversion",
        "mercurial-common",
        "cvs",
        "make",
        "gdb",
    ),
    *("binutils-common", "cpp-12", "gcc-12", "strace", "ltrace", "iproute2", "iputils-ping", "net-tools", "nmap"),
    *("tcpdump", "openssl", "gnupg-utils", "e2fsprogs", "dosfstools", "btrfs-progs", "xfsprogs", "lvm2", "mdadm"),
    *("parted", "smartmontools", "hdparm", "graphviz", "netpbm", "poppler-utils", "groff", "ncurses-bin", "x11-apps"),
    *("x11-utils", "x11-xserver-utils", "xterm", "alsa-utils", "sox", "flac", "vorbis-tools", "bind9-dnsutils", "bc"),
)
DOCUMENTS = (
    Source("debian-descriptions", "ddtp", "as the described package (mixed free)"),
    Source("man-pages", "man", "as the package that it is from (mixed free)", MANUALS),
)
