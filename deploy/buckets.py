"""Creates buckets of Cloud Storage, without public access."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from google.api_core.exceptions import Conflict, Forbidden, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from requests import RequestException

from deploy.errors import UserError

if TYPE_CHECKING:  # its import takes a second, and the caller has imported it
    from google.cloud.storage import Bucket, Client

TIMEOUT_S = 60


def get_or_create_bucket(  # noqa: PLR0913  keyword-only but for the first four
    client: "Client",
    name: str,
    region: str,
    report: Callable[[str], None] = print,
    *,
    project: str = "",
    own_project_only: bool = False,
    hint: str = "use another bucket",
) -> "Bucket":
    """Return the bucket `name`; create it in `project` and `region` if it does not exist.

    A new bucket has uniform access and no public access. With `own_project_only`, a bucket of another
    project is rejected even if it can be read: another user may have created one with a name that can be
    guessed. `hint` says how to choose another bucket.

    Raises:
        UserError: the bucket belongs to another project, it does not exist and `project` is empty,
            permission is denied, there are no credentials, or there is no response.

    """
    taken = UserError(f"the bucket gs://{name} belongs to another project", hint)
    with storage_errors(f"gs://{name}"):
        if own_project_only:
            for found in client.list_buckets(prefix=name, project=project or None):
                if found.name == name:
                    return found
        else:
            with contextlib.suppress(NotFound):
                return client.get_bucket(name, timeout=TIMEOUT_S)
        if not project:
            raise UserError(
                f"the bucket gs://{name} does not exist, and no project is set to create it in",
                "add PROJECT=my-project: the bucket is then created there",
            )
        bucket = client.bucket(name)
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        try:
            created: Bucket = client.create_bucket(
                bucket, project=project, location=region, timeout=TIMEOUT_S
            )
        except Conflict:
            raise taken from None
    report(f"created gs://{name} in {region}, without public access")
    return created


@contextlib.contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Raise Cloud Storage's errors as UserError; `uri` is the gs:// URI that is read or written."""
    try:
        yield
    except GoogleAuthError as error:
        reason = f"not authenticated to Google Cloud: {error}".partition("\n")[0]
        raise UserError(reason, "gcloud auth application-default login") from None
    except Forbidden as error:
        bucket = "/".join(uri.split("/")[:3])
        hint = f"gcloud storage buckets add-iam-policy-binding {bucket} --role=roles/storage.admin --member=user:…"
        raise UserError(f"{uri}: permission denied: {error.message}", hint) from None
    except (GoogleAPIError, RequestException) as error:
        raise UserError(f"{uri}: {error}", "run the same command again") from None
