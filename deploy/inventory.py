"""Everything that a name has at Google: in one project and region, and in every place where it was deployed."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from deploy import places
from deploy.clients import CloudClients
from deploy.cloud_build import source_folder
from deploy.errors import ApiDisabledError, UserError
from deploy.places import Place
from deploy.plan import EndpointState

if TYPE_CHECKING:
    from deploy.gcp.jobs import Job

MAX_PARALLEL = 16
MAX_NAMED = 6
"""Of the regions in which something could not be listed."""
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The resources of a name in one project and region."""

    endpoint: EndpointState | None
    versions: list[Any]
    """The versions of the model, the newest first."""
    uploads: tuple[str, ...]
    """Operations that upload a version."""
    jobs: list["Job"]
    schedules: list[str]
    function: bool
    images: bool
    sources: int
    """The number of build sources in Cloud Storage."""
    unchecked: list[str]
    """What could not be listed, and why."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        lists = self.versions, self.uploads, self.jobs, self.schedules
        return self.endpoint is None and not any((*lists, self.function, self.images, self.sources))


def take_inventory(cloud: CloudClients, *, images: bool = True, sources: bool = True) -> Inventory:
    """Return what the name of the settings has in their project and region.

    `images` and `sources`: list the images, and the build sources, which all regions of a project share.
    An API that is not enabled has nothing. What cannot be listed beside the endpoint and the model, such as what the
    caller may not list, is named in `unchecked`.
    """
    s, vertex, jobs = cloud.settings, cloud.vertex, cloud.jobs
    unchecked: list[str] = []

    def check(what: str, call: Callable[[], Result], nothing: Result) -> Result:
        try:
            return call()
        except ApiDisabledError:
            return nothing
        except UserError as error:
            unchecked.append(f"{what} are not checked: {error.message}; {error.hint}")
            return nothing

    running: list[Job] = []
    for kind in ("build", "pipeline job", "batch prediction job"):
        running += check(f"{kind}s", partial(jobs.list_running, kind), [])
    objects: list[str] = []
    if sources:
        list_objects = partial(cloud.storage.list_objects, source_folder(s))
        objects = check("build sources", list_objects, [])
    return Inventory(
        endpoint=vertex.endpoint_state(),
        versions=vertex.versions(),
        uploads=vertex.pending_operations(s.model),
        jobs=running,
        schedules=check("schedules", jobs.list_schedules, []),
        function=check("functions", jobs.has_function, False),
        images=images and check("images", cloud.artifacts.has_images, False),
        sources=len(objects),
        unchecked=unchecked,
    )


def take_inventories(
    cloud: CloudClients, *, all_regions: bool, images: bool
) -> Iterator[tuple[CloudClients, Inventory]]:
    """Yield the clients and the inventory of the current place, and of each in which the name was or is deployed.

    With `all_regions`, Google is asked in every region of these projects. The build sources of a project are those of
    its first place. A place that cannot be read is reported, unless it is the current one: then UserError is raised.
    """
    s = cloud.settings
    known = dict.fromkeys([s.place, *places.list_places(s.name, s.api_endpoint)])
    if all_regions:
        known |= dict.fromkeys(_search(cloud, {place.project for place in known}))
    projects: set[str] = set()
    for place in known:
        clients = cloud if place == s.place else cloud.at(place)
        try:
            found = take_inventory(
                clients, images=images, sources=images and place.project not in projects
            )
        except UserError as error:
            if place == s.place:
                raise
            cloud.report(f"{place}: not checked: {error.message}; {error.hint}")
            continue
        projects.add(place.project)
        yield clients, found


def _search(cloud: CloudClients, projects: set[str]) -> list[Place]:
    """Return the places in any region of these projects that have something of the name."""
    from deploy.gcp.regions import list_regions  # noqa: PLC0415  slow: Google's libraries

    candidates = [
        Place(project, region) for project in sorted(projects) for region in list_regions()
    ]
    cloud.report(f"→ searching {len(candidates)} regions")

    unchecked: dict[str, list[Place]] = {}

    def search(place: Place) -> bool:
        try:
            found = take_inventory(cloud.at(place), sources=False)
        except UserError as error:
            unchecked.setdefault(f"not checked: {error.message}", []).append(place)
            return False
        for line in found.unchecked:
            unchecked.setdefault(line, []).append(place)
        return not found.is_empty

    with ThreadPoolExecutor(MAX_PARALLEL) as executor:
        is_found = list(executor.map(search, candidates))
    for line, skipped in unchecked.items():
        regions = ", ".join(place.region for place in skipped)
        named = regions if len(skipped) < MAX_NAMED else f"{len(skipped)} regions"
        cloud.report(f"  {line} (in {named})")
    return list(itertools.compress(candidates, is_found))
