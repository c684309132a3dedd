"""Names of files, whatever a user types."""
import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples

from sd_debias.core.errors import DebiasError
from sd_debias.core.files import safe_name


@examples(300)
@given(st.text(max_size=130) | st.text("./\\:a \0*-\u202e", max_size=8))
@example("con.txt")
@example("..")
@example("\u202ea")
def test_a_name_is_a_file_of_its_own_folder_or_refused_in_one_sentence(name):
    try:
        assert safe_name(name) == name
    except DebiasError as error:
        assert str(error).isprintable() and len(str(error)) < 500
        return
    path = Path("folder") / f"{name} (unfinished).json"
    assert path.parent == Path("folder") and os.path.normpath(path) == str(path)
    assert len(path.name.encode()) <= 255 and not name.startswith(".") and name == name.strip()
