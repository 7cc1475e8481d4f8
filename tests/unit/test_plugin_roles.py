"""The table of roles: every role against what it may do, what it may not, and what nobody may."""

import itertools

import pytest
from understudy.plugin.roles import CallerRole, Method, allowed, stores

PEOPLE = (CallerRole.READER, CallerRole.OPERATOR, CallerRole.ADMIN)

READS = [
    (Method.GET, "/studies"),
    (Method.GET, "/studies/"),
    (Method.GET, "/instances/6f-1/frames/0/preview"),
    (Method.GET, "/dicom-web/studies"),
    (Method.GET, "/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/1"),
    (Method.GET, "/wado"),
    (Method.GET, "/ohif/index.html"),
    (Method.GET, "/system"),
    (Method.GET, "/tools/metrics-prometheus"),
    (Method.POST, "/tools/find"),
    (Method.POST, "/tools/count-resources"),
    (Method.POST, "/understudy/failback"),
    (Method.GET, "/understudy/status"),
]
STORES = [
    (Method.POST, "/instances"),
    (Method.POST, "/dicom-web/studies"),
    (Method.POST, "/dicom-web/studies/1.2.3"),
]
ADMINISTRATION = [
    (Method.DELETE, "/studies/6f-1/metadata/1024"),
    (Method.PUT, "/studies/6f-1/metadata/1024"),
    (Method.POST, "/instances/6f-1/anonymize"),
    (Method.POST, "/modalities/ct1/store"),
    (Method.POST, "/jobs/1/cancel"),
    (Method.GET, "/modalities"),
    (Method.GET, "/plugins"),
    (Method.POST, "/dicom-web/servers/x/stow"),
    (Method.GET, "/something-new"),
    (Method.GET, "/"),
]
STOPPING = ("/tools/reset", "/tools/shutdown", "/tools/execute-script")
NEVER = [
    *((method, path) for method in Method for path in STOPPING),
    *((method, path) for method in Method for path in ("/tools/log-level", "/tools/log-level-dicom")),
    (Method.PUT, "/tools/metrics"),
    (Method.PUT, "/tools/accepted-transfer-syntaxes"),
    (Method.PUT, "/modalities/evil"),
    (Method.DELETE, "/modalities/ct1"),
    (Method.PUT, "/peers/evil"),
    (Method.PUT, "/dicom-web/servers/evil"),
    (Method.DELETE, "/changes"),
    *((Method.DELETE, f"/{level}/6f-1") for level in ("patients", "studies", "series", "instances")),
    (Method.DELETE, "/dicom-web/studies/1.2"),
    (Method.POST, "/tools/bulk-delete"),
    *(
        (Method.POST, f"/studies/6f-1/{act}")
        for act in ("modify", "anonymize", "split", "merge", "reconstruct")
    ),
    *((Method.POST, f"/patients/6f-1/{act}") for act in ("modify", "anonymize", "reconstruct")),
    *((Method.POST, f"/series/6f-1/{act}") for act in ("modify", "anonymize", "reconstruct")),
    *((Method.POST, f"/tools/{act}") for act in ("bulk-modify", "bulk-anonymize", "reconstruct")),
    *((Method.POST, f"/instances/6f-1/attachments/dicom/{act}") for act in ("compress", "uncompress")),
    (Method.POST, "/tools/reset/"),
]


@pytest.mark.parametrize(("role", "call"), list(itertools.product(PEOPLE, READS)))
def test_everybody_known_reads(role: CallerRole, call: tuple[Method, str]) -> None:
    assert allowed(role, *call)


@pytest.mark.parametrize("call", STORES)
def test_operators_store_and_readers_do_not(call: tuple[Method, str]) -> None:
    assert allowed(CallerRole.OPERATOR, *call)
    assert allowed(CallerRole.ADMIN, *call)
    assert not allowed(CallerRole.READER, *call)


@pytest.mark.parametrize("call", ADMINISTRATION)
def test_only_administrators_change(call: tuple[Method, str]) -> None:
    assert allowed(CallerRole.ADMIN, *call)
    assert not allowed(CallerRole.OPERATOR, *call)
    assert not allowed(CallerRole.READER, *call)


@pytest.mark.parametrize(("role", "call"), list(itertools.product(PEOPLE, NEVER)))
def test_nobody_stops_orthanc_or_changes_its_configuration(
    role: CallerRole, call: tuple[Method, str]
) -> None:
    assert not allowed(role, *call)


AGENT = [
    (Method.GET, "/system"),
    (Method.GET, "/changes"),
    (Method.GET, "/statistics"),
    (Method.GET, "/tools/metrics-prometheus"),
    (Method.GET, "/instances"),
    (Method.GET, "/instances/6f-1/file"),
    (Method.GET, "/instances/6f-1/attachments/dicom/info"),
    (Method.GET, "/series/6f-1"),
    (Method.GET, "/studies/6f-1"),
    (Method.GET, "/storage-commitment/1.2.3"),
    (Method.POST, "/tools/bulk-content"),
    (Method.POST, "/tools/lookup"),
    (Method.POST, "/tools/bulk-delete"),
    (Method.POST, "/instances"),
    (Method.DELETE, "/instances/6f-1"),
    (Method.DELETE, "/series/6f-1"),
    (Method.DELETE, "/studies/6f-1"),
    (Method.DELETE, "/patients/6f-1"),
]
NOT_FOR_THE_AGENT = [
    (method, path)
    for method, path in READS + STORES + ADMINISTRATION + NEVER
    if (method, path.rstrip("/")) not in AGENT
    and not (method is Method.GET and path.startswith(("/studies", "/instances")))
]


@pytest.mark.parametrize("call", AGENT)
def test_agent_makes_its_calls(call: tuple[Method, str]) -> None:
    assert allowed(CallerRole.AGENT, *call)


@pytest.mark.parametrize(
    "call",
    [
        *NOT_FOR_THE_AGENT,
        (Method.DELETE, "/instances"),
        (Method.DELETE, "/instances/6f-1/metadata/1024"),
        (Method.PUT, "/instances/6f-1/attachments/dicom"),
        (Method.POST, "/instances/6f-1/modify"),
        (Method.POST, "/modalities/ct1/echo"),
        (Method.POST, "/tools/dicom-echo"),
        (Method.POST, "/tools/create-dicom"),
        (Method.GET, "/storage-commitment"),
    ],
)
def test_agent_makes_no_other_call(call: tuple[Method, str]) -> None:
    assert not allowed(CallerRole.AGENT, *call)


@pytest.mark.parametrize(
    "path",
    [
        "/ohif/../tools/reset",
        "/ohif/..",
        "//studies",
        "studies",
        "",
        "/./studies",
        "/studies\n",
        "/understudy/../tools/reset",
    ],
)
@pytest.mark.parametrize("role", list(CallerRole))
def test_ambiguous_path_is_refused_to_everybody(role: CallerRole, path: str) -> None:
    assert not allowed(role, Method.GET, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (Method.DELETE, "/studies/6f-1"),
        (Method.PUT, "/studies/6f-1"),
        (Method.POST, "/studies"),
        (Method.POST, "/studiesX"),
    ],
)
def test_reader_with_another_effective_method_is_refused(method: Method, path: str) -> None:
    assert not allowed(CallerRole.READER, method, path)


def test_path_that_only_begins_like_an_allowed_one_is_refused() -> None:
    assert not allowed(CallerRole.READER, Method.GET, "/systematic")
    assert not allowed(CallerRole.READER, Method.GET, "/dicom-web/servers")
    assert not allowed(CallerRole.READER, Method.GET, "/tools/generate-uid")


def test_stores_are_told_from_searches() -> None:
    assert all(stores(*call) for call in STORES)
    assert not any(stores(*call) for call in READS)


def test_methods_have_the_numbers_of_orthancs_sdk() -> None:
    # OrthancPluginHttpMethod, OrthancCPlugin.h
    assert [method.value for method in (Method.GET, Method.POST, Method.PUT, Method.DELETE)] == [1, 2, 3, 4]
