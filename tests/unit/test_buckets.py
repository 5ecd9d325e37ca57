"""Tests of deploy.buckets against a fake client of Cloud Storage."""

from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.storage import Bucket

from deploy import buckets
from deploy.errors import UserError


class Storage:
    """A fake client: the names of the project's own buckets and of other projects' buckets."""

    def __init__(self, *, own: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> None:
        self.own, self.others, self.created = own, others, list[tuple[Bucket, str, str]]()

    def bucket(self, name: str) -> Bucket:
        return Bucket(self, name)

    def list_buckets(self, prefix: str, **_: Any) -> list[Bucket]:
        return [self.bucket(name) for name in self.own if name.startswith(prefix)]

    def get_bucket(self, name: str, **_: Any) -> Bucket:
        if name in self.own + self.others:
            return self.bucket(name)
        raise exceptions.NotFound("no such bucket")

    def create_bucket(self, bucket: Bucket, **options: Any) -> Bucket:
        if bucket.name in self.own + self.others:
            raise exceptions.Conflict("the name is taken")
        self.created.append((bucket, options["project"], options["location"]))
        return bucket


def get_or_create(storage: Any, name: str, project: str = "my-project", **options: Any) -> str:
    bucket = buckets.get_or_create_bucket(storage, name, "europe-west4", project=project, **options)
    return str(bucket.name)


@pytest.mark.parametrize("own_project_only", [False, True])
def test_missing_bucket_is_created_in_the_region_without_public_access(
    own_project_only: bool,
) -> None:
    storage, lines = Storage(own=("new-and-longer",)), list[str]()
    assert (
        get_or_create(storage, "new", own_project_only=own_project_only, report=lines.append)
        == "new"
    )
    ((bucket, *where),) = storage.created
    assert where == ["my-project", "europe-west4"]
    assert bucket.iam_configuration.uniform_bucket_level_access_enabled
    assert bucket.iam_configuration.public_access_prevention == "enforced"
    assert lines == ["created gs://new in europe-west4, without public access"]
    assert get_or_create(Storage(own=("new",)), "new", own_project_only=own_project_only) == "new"


def test_bucket_of_another_project_is_used_unless_only_own_ones_are_allowed() -> None:
    storage = Storage(others=("taken",))
    assert get_or_create(storage, "taken") == "taken"
    with pytest.raises(UserError, match="gs://taken belongs to another project") as raised:
        get_or_create(
            storage, "taken", own_project_only=True, hint="--pipeline-root gs://yours/folder"
        )
    assert raised.value.hint == "--pipeline-root gs://yours/folder"


def test_missing_bucket_without_a_project_fails_with_a_hint() -> None:
    with pytest.raises(UserError, match="gs://new does not exist, and no project") as raised:
        get_or_create(Storage(), "new", project="")
    assert "PROJECT=" in raised.value.hint


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (exceptions.Forbidden("no"), "permission denied: no", "roles/storage.admin"),
        (
            DefaultCredentialsError("none\nfound"),
            "not authenticated to Google Cloud: none",
            "application-default",
        ),
        (exceptions.ServiceUnavailable("busy"), "gs://any: 503 busy", "run the same command again"),
        (requests.ConnectionError("broken"), "gs://any: broken", "run the same command again"),
    ],
)
def test_google_errors_name_the_bucket_and_give_a_hint(
    error: Exception, message: str, hint: str
) -> None:
    class Failing(Storage):
        def get_bucket(self, *_: Any, **__: Any) -> Bucket:
            raise error

    with pytest.raises(UserError) as raised:
        get_or_create(Failing(), "any")
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert hint in raised.value.hint
