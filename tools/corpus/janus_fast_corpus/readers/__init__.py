"""Readers: one file a format. Each yields (English, translation) segments of a source, as they stand in the package.

A reader is ``read(source, packages, language)``: it asks ``packages`` for the files of ``source`` and leaves the
understanding of them to functions of text alone, which are what the tests call.
"""

from . import debian_descriptions, gettext_catalogs, gnome_help, html_manuals, libreoffice_help, man_pages

READERS = {
    "ddtp": debian_descriptions.read,
    "ghelp": gnome_help.read,
    "html": html_manuals.read,
    "lohelp": libreoffice_help.read,
    "man": man_pages.read,
    "mo": gettext_catalogs.read_compiled,
    "po": gettext_catalogs.read_source,
}
