#!/usr/bin/env bash
# MONAI 1.6.1, monai.bundle.ConfigParser: a "#" in any text of a bundle's configuration comes out as "::".
#
# "#" parts the levels of a config id (network#channels), and "::" is its newer spelling. The parser rewrites the one into the other not
# in ids and references alone, but in every value: a colour "#ff0000" becomes "::ff0000", a link's fragment
# "https://loinc.org/#12-3" becomes "https://loinc.org/::12-3", and "case #2" becomes "case ::2", without a word. In a nested list it is
# the caller's own list that is changed.
# One would have guessed that a value which neither begins with "@", "%" or "$" nor names an id is left as it is. A value that is set
# later (parser["note"] = "case #2") reads back unchanged, until the configuration is parsed: then it is rewritten as well. A value
# that is an expression ("$'case \x232'") keeps its "#".
#
# Seen with: Python 3.11, monai 1.6.1, torch 2.13.0, numpy 2.3.5. The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "torch==2.13.0" "monai==1.6.1" "numpy==2.3.5"
"$work/venv/bin/python" - <<'PY'
from monai.bundle import ConfigParser

given = {"colour": "#ff0000", "link": "https://loinc.org/#12-3", "texts": ["case #2", "plain"]}
parser = ConfigParser({**given, "kept": "$'case \\x232'"})
parser["later"] = "case #3"
assert parser["later"] == "case #3", "a value that is set is rewritten at once now"
got = {name: parser.get_parsed_content(name) for name in (*given, "later", "kept")}
for name, value in got.items():
    print(f"{name}: {value!r}")
assert got["colour"] == "::ff0000", "a colour keeps its # now"
assert got["link"] == "https://loinc.org/::12-3", "a link keeps its # now"
assert got["texts"] == ["case ::2", "plain"], "texts in a list keep their # now"
assert given["texts"] == ["case ::2", "plain"], "the caller's list is left alone now"
assert got["later"] == "case ::3", "a value that was set keeps its # now"
assert got["kept"] == "case #2", "an expression's # is rewritten now"
PY
