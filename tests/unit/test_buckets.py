"""Buckets are created where they are missing, closed to the public, and never mistaken for another's."""

from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.storage import Bucket

from deploy import buckets
from deploy.errors import UserError


class Storage:
    """Some buckets of Cloud Storage: those of a project, and those of everybody else."""

    def __init__(self, *, mine: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> None:
        self.mine, self.others, self.created = mine, others, list[tuple[Bucket, str, str]]()

    def bucket(self, name: str) -> Bucket:
        return Bucket(self, name)

    def list_buckets(self, prefix: str, **_: Any) -> list[Bucket]:
        return [self.bucket(name) for name in self.mine if name.startswith(prefix)]

    def get_bucket(self, name: str, **_: Any) -> Bucket:
        if name in self.mine + self.others:
            return self.bucket(name)
        raise exceptions.NotFound("no such bucket")

    def create_bucket(self, bucket: Bucket, **asked: Any) -> Bucket:
        if bucket.name in self.mine + self.others:
            raise exceptions.Conflict("the name is taken")
        self.created.append((bucket, asked["project"], asked["location"]))
        return bucket


def found(storage: Any, name: str, project: str = "my-project", **options: Any) -> str:
    made = buckets.get_or_create(storage, name, "europe-west4", project=project, **options)
    return str(made.name)


@pytest.mark.parametrize("own", [False, True])
def test_a_missing_bucket_is_created_in_the_region_and_closed_to_the_public(own: bool) -> None:
    storage, lines = Storage(mine=("new-and-longer",)), list[str]()
    assert found(storage, "new", own=own, say=lines.append) == "new"
    ((bucket, *where),) = storage.created
    assert where == ["my-project", "europe-west4"]
    assert bucket.iam_configuration.uniform_bucket_level_access_enabled
    assert bucket.iam_configuration.public_access_prevention == "enforced"
    assert lines == ["made gs://new in europe-west4, closed to the public"]
    assert found(Storage(mine=("new",)), "new", own=own) == "new"


def test_another_project_s_bucket_is_used_where_it_was_named_and_refused_where_guessed() -> None:
    storage = Storage(others=("taken",))
    assert found(storage, "taken") == "taken"
    with pytest.raises(UserError, match="gs://taken belongs to somebody else") as stop:
        found(storage, "taken", own=True, other="--pipeline-root gs://yours/folder")
    assert stop.value.hint == "--pipeline-root gs://yours/folder"


def test_without_a_project_it_says_what_to_name() -> None:
    with pytest.raises(UserError, match="no bucket gs://new, and no project") as stop:
        found(Storage(), "new", project="")
    assert "PROJECT=" in stop.value.hint


@pytest.mark.parametrize(
    ("error", "what", "do"),
    [
        (exceptions.Forbidden("no"), "permission denied: no", "roles/storage.admin"),
        (DefaultCredentialsError("none\nfound"), "no credentials: none", "application-default"),
        (exceptions.ServiceUnavailable("busy"), "gs://any: 503 busy", "run the same command again"),
        (requests.ConnectionError("broken"), "gs://any: broken", "run the same command again"),
    ],
)
def test_googles_errors_name_the_bucket_and_what_to_do(
    error: Exception, what: str, do: str
) -> None:
    class Failing(Storage):
        def get_bucket(self, *_: Any, **__: Any) -> Bucket:
            raise error

    with pytest.raises(UserError) as stop:
        found(Failing(), "any")
    assert what in stop.value.message
    assert "\n" not in stop.value.message
    assert do in stop.value.hint
