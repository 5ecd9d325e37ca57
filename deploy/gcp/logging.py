"""Cloud Logging: the logs of builds."""

from collections.abc import Iterator

from deploy.gcp.client import Client, Json

PAGE_SIZE = 1000


class BuildLog:
    """Reads a build's log, each line once."""

    def __init__(self, client: Client, build_id: str) -> None:
        self._client = client
        self._filter = f'resource.type="build" AND resource.labels.build_id="{build_id}"'
        self._url = f"{client.url('logging', 'v2')}/entries:list"
        self._seen: set[str] = set()
        self._newest = ""

    @property
    def command(self) -> list[str]:
        """The arguments of the gcloud command that prints the log."""
        project = f"--project={self._client.settings.project}"
        options = (project, "--order=asc", "--format=value(textPayload)")
        return ["gcloud", "logging", "read", self._filter, *options]

    def read_new_lines(self) -> Iterator[str]:
        """Yield the lines that were not read yet."""
        since = f' AND timestamp>="{self._newest}"' if self._newest else ""
        body: Json = {
            "resourceNames": [f"projects/{self._client.settings.project}"],
            "filter": self._filter + since,
            "orderBy": "timestamp asc",
            "pageSize": PAGE_SIZE,
        }
        while True:
            page = self._client.query(self._url, body)
            for entry in page.get("entries", ()):
                self._newest = max(self._newest, entry.get("timestamp", ""))
                if entry["insertId"] not in self._seen:
                    self._seen.add(entry["insertId"])
                    yield entry.get("textPayload", "")
            if not page.get("nextPageToken"):
                return
            body["pageToken"] = page["nextPageToken"]
