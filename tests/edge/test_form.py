"""The model of a form with a file, as clients' libraries write it, and forms in which others might see another one."""

import pytest

from gateway.edge.form import model_in_form, rename_in_form
from gateway.errors import BadRequest

KIND = b"multipart/form-data; boundary=b1"
FILE = (
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\x00--b1'
)
NAMED = b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper@v2'


def form(*parts: bytes, boundary: bytes = b"b1") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


@pytest.mark.parametrize("parts", [(NAMED, FILE), (FILE, NAMED)])
def test_the_model_is_found_and_replaced_wherever_it_stands(parts: tuple[bytes, ...]) -> None:
    whole = form(*parts)
    assert model_in_form(whole, KIND) == "whisper@v2"
    assert rename_in_form(whole, KIND, "openai/whisper-large-v3") == whole.replace(
        b"whisper@v2", b"openai/whisper-large-v3"
    )


@pytest.mark.parametrize(
    "part",
    [
        b"content-disposition: form-data; name=model\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nm",  # .NET
        b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="model"\r\n\r\nm',  # aiohttp
        b'Content-Disposition: form-data; name="model"\r\nContent-Length: 1\r\n\r\nm',  # OkHttp
        b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: binary\r\n\r\nm',  # Retrofit
    ],
)
def test_a_plain_field_is_understood_however_libraries_write_it(part: bytes) -> None:
    assert model_in_form(form(part, FILE), KIND) == "m"


@pytest.mark.parametrize(
    "kind",
    [
        b'multipart/form-data; boundary="b1"',
        b"Multipart/Form-Data;charset=utf-8; boundary=b1",
        b"multipart/form-data; boundary=b1; charset=utf-8",
    ],
)
def test_the_boundary_is_found_however_it_is_written(kind: bytes) -> None:
    assert model_in_form(form(NAMED), kind) == "whisper@v2"


def test_a_form_without_a_model_has_none() -> None:
    assert model_in_form(form(FILE), KIND) is None
    assert model_in_form(form(FILE, NAMED.replace(b'"model"', b'"my_model"')), KIND) is None
    assert model_in_form(form(FILE.replace(b"RIFF", NAMED)), KIND) is None
    assert rename_in_form(form(FILE), KIND, "other") == form(FILE)


@pytest.mark.parametrize(
    "body",
    [
        form(NAMED, NAMED),
        form(NAMED, b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\nother"),
        form(NAMED, b'Content-Disposition: form-data; name="a"; name="model"\r\n\r\nother'),
        form(NAMED, b'Content-Disposition: form-data; name="mod\\el"\r\n\r\nother'),
        form(NAMED, b'Content-Disposition: form-data;\r\n name="model"\r\n\r\nother'),
        form(NAMED, b'Content-Disposition: form-data; name="a"\nContent-Disposition: form-data; name="model"\r\n\r\nb'),
        form(NAMED, b"X: y\r\n\r\nz"),
        form(NAMED, b"\r\nz"),
        form(NAMED.replace(b'"model"', b'"model"; filename="m"')),
        form(NAMED.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n")),
        form(NAMED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n")),
        form(NAMED.replace(b"whisper", b"\xff")),
        b"before\r\n" + form(NAMED),
        form(NAMED)[:-4],
        form(NAMED, boundary=b"b2"),
        b"--b1\r\n",
        b"",
    ],
)
def test_a_form_in_which_others_might_see_another_model_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        model_in_form(body, KIND)


@pytest.mark.parametrize("kind", [b"multipart/mixed; boundary=b1", b"multipart/form-data", KIND + b"; boundary=b2"])
def test_a_content_type_with_no_or_two_boundaries_is_refused(kind: bytes) -> None:
    with pytest.raises(BadRequest):
        model_in_form(form(NAMED), kind)
