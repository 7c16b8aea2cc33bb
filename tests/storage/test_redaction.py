"""The shown form of URLs and texts: without any secret, and with all the rest."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.storage.redaction import Secrets, public_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/b.zarr", "s3://bucket/a/b.zarr"),
        ("https://host:9000/x@main/y", "https://host:9000/x@main/y"),
        ("hf://datasets/user/repo@main/x", "hf://datasets/user/repo@main/x"),
        ("https://me:pw@host/x", "https://***@host/x"),
        ("https://me:p@w@host:80/x", "https://***@host:80/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("s3://KEY:se/cr+et@bucket/x", "s3://***@bucket/x"),
        ("https://host/x.zip?X-Amz-Signature=ab&token=c", "https://host/x.zip"),
        ("https://host/x?abc", "https://host/x"),
        ("zip::https://me:pw@host/x.zip?sig=a", "zip::https://***@host/x.zip"),
        ("s3://user:secret@bucket/a.tar", "s3://***@bucket/a.tar"),
        ("s3://bucket/a@b.tar", "s3://bucket/a@b.tar"),
        ("photos@home/", "photos@home/"),
        ("/data/what?/x", "/data/what?/x"),
        ("simplecache::zip://a::https://host/x.zip?sig=a", "simplecache::zip://a::https://host/x.zip"),
    ],
)
def test_a_url_is_shown_without_user_and_query(url: str, expected: str) -> None:
    assert public_url(url) == expected


def test_values_of_options_are_hidden_but_not_where_the_service_is() -> None:
    options = {
        "key": "AKID",
        "endpoint_url": "http://me:pw@127.0.0.1:9",
        "client_kwargs": {"region_name": "eu-1", "headers": {"Authorization": "Bearer abcdef"}},
        "auth": ("user-name", b"bytes-word"),
        "anon": False,
        "timeout": 5,
    }
    secrets = Secrets("https://h/x?sig=a%2Bb&se=123456", options)
    text = (
        "AKID http://me:pw@127.0.0.1:9 eu-1 Bearer abcdef user-name bytes-word False 5 a+b a%2Bb 123456 end"
    )
    assert secrets.hide(text) == "*** http://***@127.0.0.1:9 eu-1 *** *** *** False 5 *** *** *** end"


def test_a_longer_secret_is_hidden_before_one_that_it_starts_with() -> None:
    assert Secrets("s3://b", {"key": "abc", "secret": "abcdef"}).hide("abcdef abc") == "*** ***"


def test_a_query_in_a_text_keeps_its_names() -> None:
    text = 'no answer from "http://h/x?list-type=2&X-Amz-Credential=AKID/1&b=2", again'
    expected = 'no answer from "http://h/x?list-type=***&X-Amz-Credential=***&b=***", again'
    assert Secrets("s3://b", {}).hide(text) == expected


WORDS = st.text(string.ascii_letters + string.digits + "+/=-_.", min_size=6, max_size=30)


@given(key=WORDS, secret=WORDS, before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_secret_survives(key: str, secret: str, before: str, after: str) -> None:
    secrets = Secrets(f"https://host/x?sig={key}", {"client": {"password": [secret]}})
    hidden = secrets.hide(f"{before}{key}|{secret}{after}")
    assert key not in hidden
    assert secret not in hidden
    assert key not in repr(secrets)
    assert secret not in public_url(f"https://u:_{secret}@host/x?sig={key}")  # digits and a slash were a port
