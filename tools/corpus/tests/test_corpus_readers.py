"""The corpus builder's readers, on small made inputs, and its cleaning rules."""

import struct

import pytest

from janus_fast_corpus import clean
from janus_fast_corpus.readers import (
    debian_descriptions,
    gettext_catalogs,
    gnome_help,
    html_manuals,
    libreoffice_help,
    man_pages,
)

# ---------------------------------------------------------------- readers


def compiled_catalog(messages, order="<"):
    """A .mo file: header, table of originals, table of translations, texts."""
    count = len(messages)
    start = 28
    texts, tables = b"", ([], [])
    for entry in messages:
        for table, text in zip(tables, entry, strict=True):
            table.append(struct.pack(order + "2I", len(text), start + 16 * count + len(texts)))
            texts += text + b"\0"
    header = struct.pack(order + "7I", 0x950412DE, 0, count, start, start + 8 * count, 0, 0)
    return header + b"".join(tables[0]) + b"".join(tables[1]) + texts


@pytest.mark.parametrize("order", ["<", ">"])
def test_compiled_catalog(order):
    content = compiled_catalog(
        [
            (b"", b"Content-Type: text/plain; charset=ISO-8859-1\n"),
            (b"Open the file.", "Öffnen Sie die Datei.".encode("latin1")),
            (b"menu\x04Close", "Schließen".encode("latin1")),
            (b"one file\0many files", b"eine Datei\0viele Dateien"),
        ],
        order,
    )
    assert list(gettext_catalogs.parse_mo(content)) == [
        ("Open the file.", "Öffnen Sie die Datei."),
        ("Close", "Schließen"),
        ("one file", "eine Datei"),
        ("many files", "viele Dateien"),
    ]


def test_compiled_catalog_leaves_out_what_its_charset_cannot_decode():
    content = compiled_catalog([(b"", b"charset=utf-8"), (b"bad", b"\xff\xfe"), (b"good", b"gut")])
    assert list(gettext_catalogs.parse_mo(content)) == [("good", "gut")]


def test_source_catalog():
    text = r"""msgid ""
msgstr "Content-Type: text/plain"

#, fuzzy
msgid "Guessed."
msgstr "Geraten."

msgctxt "title"
msgid "Split over "
"two \"lines\"."
msgstr "Über zwei\n"
"\"Zeilen\"."

msgid "one"
msgid_plural "many"
msgstr[0] "eins"
msgstr[1] "viele"

msgid "not translated"
msgstr ""
"""
    assert list(gettext_catalogs.parse_po(text)) == [
        ('Split over two "lines".', 'Über zwei\n"Zeilen".'),
        ("one", "eins"),
    ]


def test_markup_of_documentation_messages():
    text = r"Use B<\-\-file I<name>> with E<lt>F</etc>E<gt>."
    assert gettext_catalogs.without_markup(text) == "Use --file name with </etc>."


def test_libreoffice_help():
    page = """
<p id="par_id1" class="paragraph" dir="auto">Choose <span class="menuitem">Insert - Chart</span> &amp; wait.</p>
<h2 id="hd_id2" dir="auto">Charts</h2>
<p id="par_id3">Press <span class="switchinline"><span hidden="true" id="swlnsysMAC">Command</span>
<span hidden="true" id="default1">Ctrl</span></span>+A.</p>
<p id="par_id4">line<br>break</p>
<p id="par_id5"><code class="literal">SUM(A1)</code></p>
<p id="other">no id of a paragraph</p>"""
    paragraphs = libreoffice_help.parse_page(page)
    assert list(paragraphs) == ["par_id1", "hd_id2", "par_id3"]
    assert paragraphs["par_id1"] == "Choose Insert - Chart & wait."
    assert paragraphs["par_id3"].split() == ["Press", "Ctrl+A."]


def test_gnome_help():
    english = b"<page><info><desc>x</desc></info><title>Files</title><p>Open <em>it</em>.</p></page>"
    translated = "<page><title>Dateien</title><p><em>Öffnen</em>.</p></page>".encode()
    assert list(gnome_help.align_pages(english, translated)) == [("Files", "Dateien"), ("Open it.", "Öffnen.")]
    longer = translated.replace(b"</page>", b"<p>mehr</p></page>")
    assert list(gnome_help.align_pages(english, longer)) == []
    assert list(gnome_help.align_pages(english, b"<page><title>")) == []


def test_html_manual_leaves_out_sections_that_differ():
    english = b"<h1>A</h1><p>One <b>two</b>.</p><pre>code</pre><h2>B</h2><p>x</p><p>y</p><h2>C</h2><ul><li>z</ul>"
    translated = (
        '<meta charset="utf-8"><h1>Ä</h1><p>Eins zwei.</p><h2>B</h2><p>x</p><h2>C</h2><ul><li>zett</ul>'.encode()
    )
    assert list(html_manuals.align_pages(english, translated)) == [
        ("A", "Ä"),
        ("One two.", "Eins zwei."),
        ("C", "C"),
        ("z", "zett"),
    ]
    assert list(html_manuals.align_pages(english, b"<h1>A</h1>")) == []


def test_man_page():
    english = r""".\" comment
.SH NAME
ls \- list
.SH DESCRIPTION
List
.B files
in a \(lqdirectory\(rq.
.nf
verbatim
.fi
.SH EXTRA
.PP
only here
.TP
.BR \-a ", " \-\-all
Do not hide."""
    translated = english.replace("List\n", "Listet\n").replace("in a", "in einem").replace("Do not hide", "Zeigen")
    assert list(man_pages.align_pages(english, translated)) == [
        ("ls - list", "ls - list"),
        ('List files in a "directory".', 'Listet files in einem "directory".'),
        ("only here", "only here"),
        ("-a, --all", "-a, --all"),
        ("Do not hide.", "Zeigen."),
    ]
    other = translated.replace(".SH DESCRIPTION", ".SH DESCRIPTION\n.PP")
    assert [text for text, _ in man_pages.align_pages(english, other)][:2] == ["ls - list", "only here"]


def test_debian_descriptions():
    english = """Package: a
Description-md5: 11
Description-en: small tool
 First line
 goes on.
 .
  verbatim
 Last one.

Package: b
Description-md5: 22
Description-en: other
 Only paragraph."""
    translated = """Package: a
Description-md5: 11
Description-de: kleines Werkzeug
 Erste Zeile.
 .
  verbatim
 Letzte.

Package: b
Description-md5: 22
Description-de: anderes
 Ein Absatz.
 .
 Noch einer."""
    assert list(debian_descriptions.align_descriptions(english, translated, "de")) == [
        ("small tool", "kleines Werkzeug"),
        ("First line goes on.", "Erste Zeile."),
        ("Last one.", "Letzte."),
    ]


# ---------------------------------------------------------------- cleaning


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("a\u00a0b\u00ad\u200bc", "a bc"),
        ("„Ja“ … »nein« ‚so‘", '"Ja" ... "nein" \'so\''),
        ("x<br/>y <b>bold</b>", "x y bold"),
        ("Save &amp; close", "Save & close"),
        ("&amp;Save", "Save"),
        ("_Open file", "Open file"),
        ("O~pen", "Open"),
        ("snake_case_name", "snake_case_name"),
        (r"one\ntwo", "one two"),
    ],
)
def test_clean_text(text, cleaned):
    assert clean.clean_text(text, "mo") == cleaned


def test_accelerators_are_an_affair_of_catalogs():
    assert clean.clean_text("_Open &File", "html") == "_Open &File"


@pytest.mark.parametrize(
    "text", ["%s files", "%(name)s", "%1$d", "{count} files", "$HOME", "${x}", "@file@", "%1", "%%"]
)
def test_placeholders(text):
    assert clean.has_placeholder(text)
    assert not clean.has_placeholder("50 files cost 3 dollars, write to me.")


def test_sentences():
    assert clean.sentences('Open it. "Wait!" Then close, e.g. Files. Version 3. Done.') == [
        "Open it.",
        '"Wait!"',
        "Then close, e.g. Files.",
        "Version 3. Done.",
    ]
    assert list(clean.sentence_pairs("One. Two.", "Eins. Zwei.")) == [("One.", "Eins."), ("Two.", "Zwei.")]
    assert list(clean.sentence_pairs("One. Two.", "Eins und zwei.")) == [("One. Two.", "Eins und zwei.")]


@pytest.mark.parametrize(
    "text, translation, reason",
    [
        ("The file is opened by this program.", "Die Datei wird von diesem Programm geöffnet.", ""),
        ("", "Leer", "same-or-empty"),
        ("Same text here", "same TEXT here", "same-or-empty"),
        ("Two words", "Zwei Wörter", "length"),
        ("One two three four five six", "Eins zwei", "ratio"),
        ("Set a = b in the file.", "Setzen Sie a = b in der Datei.", "non-text"),
        ("- an item of a list", "- ein Punkt einer Liste", "non-text"),
        ("Look at www.example here now", "Siehe www.example hier jetzt", "url"),
        ("THE FILE WAS opened", "Die Datei wurde geöffnet", "caps"),
        ("The Greek word is logos.", "Das griechische Wort ist λόγος.", "script"),
        ("Close the open window now.", "Please close this window with the key.", "target-language"),
        ("Schließen Sie die Datei und das Fenster.", "Alles zumachen, danach gehen.", "source-language"),
        ("Emacs Vim Nano editor.", "Emacs Vim Nano Editor.", "same-or-empty"),
        ("Install Emacs Vim Nano.", "Emacs Vim Nano installieren.", "overlap"),
        ("Wait for 10 seconds please.", "Bitte warten Sie 20 Sekunden.", "digits"),
        ("Please wait for another 1,000 seconds.", "Bitte warten Sie noch weitere 1.000 Sekunden.", ""),
    ],
)
def test_refusal(text, translation, reason):
    assert clean.refusal(text, translation, "de", 60) == reason


def test_sentence_like():
    assert clean.is_sentence_like("Open the file.", "Öffnen Sie die Datei.")
    assert not clean.is_sentence_like("Open the file", "Öffnen Sie die Datei.")
    assert not clean.is_sentence_like("open the file.", "Öffnen Sie die Datei.")
    assert not clean.is_sentence_like("Open files now.", "Jetzt Dateien öffnen.")
