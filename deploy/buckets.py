"""Buckets of Cloud Storage: created where they are missing, closed to the public."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from google.api_core.exceptions import Conflict, Forbidden, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from requests import RequestException

from deploy.errors import UserError

if TYPE_CHECKING:  # it takes a second to import, and the caller has a client of it anyway
    from google.cloud.storage import Bucket, Client

TIMEOUT_S = 60


def get_or_create(  # noqa: PLR0913  a bucket is all of these
    client: "Client",
    name: str,
    region: str,
    say: Callable[[str], None] = print,
    *,
    project: str = "",
    own: bool = False,
    other: str = "use another bucket",
) -> "Bucket":
    """Return the bucket `name`; create it in `project` and `region` if it does not exist.

    A new bucket has uniform access and is closed to the public. With `own`, a bucket of another project
    is refused although it can be read: a name that can be guessed may have been taken by somebody else.
    `other` tells the user how to choose another bucket.

    Raises:
        Stop: the bucket belongs to somebody else, no project is given to create it in, permission is
            denied, there are no credentials, or Google does not answer.

    """
    taken = UserError(f"the bucket gs://{name} belongs to somebody else", other)
    with storage_errors(f"gs://{name}"):
        if own:
            for each in client.list_buckets(prefix=name, project=project or None):
                if each.name == name:
                    return each
        else:
            with contextlib.suppress(NotFound):
                return client.get_bucket(name, timeout=TIMEOUT_S)
        if not project:
            raise UserError(
                f"there is no bucket gs://{name}, and no project is named to create it in",
                "PROJECT=my-project as well: the bucket is then created there",
            )
        bucket = client.bucket(name)
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        try:
            made: Bucket = client.create_bucket(
                bucket, project=project, location=region, timeout=TIMEOUT_S
            )
        except Conflict:
            raise taken from None
    say(f"made gs://{name} in {region}, closed to the public")
    return made


@contextlib.contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Raise Cloud Storage's errors as Stop; `where` is the gs:// address that is read or written."""
    try:
        yield
    except GoogleAuthError as error:
        first = str(error).partition("\n")[0]
        raise UserError(
            f"no credentials: {first}", "gcloud auth application-default login"
        ) from None
    except Forbidden as error:
        bucket = "/".join(where.split("/")[:3])
        raise UserError(
            f"{where}: permission denied: {error.message}",
            f"grant roles/storage.admin on it: gcloud storage buckets add-iam-policy-binding "
            f"{bucket} --role=roles/storage.admin --member=user:…",
        ) from None
    except (GoogleAPIError, RequestException) as error:
        raise UserError(f"{where}: {error}", "run the same command again") from None
