"""The configuration: what is taken, and that every fault is told at once with its path."""

import json
from pathlib import Path

import pytest
from understudy.adapters import dictionary
from understudy.adapters.in_force import present
from understudy.config import (
    ConfigurationError,
    DirectoryVault,
    S3Vault,
    parse,
    read_sections,
    schema_json,
    substitute,
)
from understudy.core import rules

PRIMARY = {"AeTitle": "PACS", "Host": "192.0.2.10"}
S3 = {
    "Name": "cloud",
    "Endpoint": "https://s3.example.org",
    "Bucket": "vault",
    "CredentialsFile": "/run/s3.json",
    "RetentionDays": 30,
}


def problems(document: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(document)
    assert caught.value.hint
    return caught.value.problems


def test_empty_section_is_a_whole_configuration() -> None:
    found = parse({})
    assert (found.site, found.ae_title, found.primary, found.routes, found.vaults) == (
        "clinic",
        "UNDERSTUDY",
        None,
        [],
        [],
    )


def test_section_is_read_with_every_part() -> None:
    found = parse(
        {
            "Site": "north",
            "AeTitle": "STANDBY",
            "Primary": PRIMARY,
            "Routes": [
                {
                    "Name": "ct",
                    "When": [{"Of": "Modality", "Equals": "CT"}],
                    "To": ["archive"],
                }
            ],
            "Destinations": [{"Name": "archive", "AeTitle": "ARCHIVE", "Host": "a"}],
            "RouteMatching": "first",
            "TimeZone": "Europe/Vienna",
            "Vaults": [S3, {"Name": "nas", "Directory": "/mnt/nas"}],
            "Modalities": [{"Name": "ct-1", "AeTitle": "CT1", "Host": "192.0.2.20", "Reads": True}],
            "Policy": {"PackLinger": 1.5},
        }
    )
    assert found.primary is not None
    assert found.primary.port == 104
    assert found.routes[0].when[0].compiled().holds(["CT"])
    assert not found.routes[0].when[0].compiled().holds(["MR"])
    assert found.routes[0].to == [found.destinations[0].name]
    assert [type(vault) for vault in found.vaults] == [S3Vault, DirectoryVault]
    assert found.policy.pack_linger == 1.5


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"Sight": "x"}, "Understudy.Sight"),
        ({"Primary": {"AeTitle": "PACS"}}, "Understudy.Primary.Host"),
        ({"Primary": PRIMARY | {"Port": 0}}, "Understudy.Primary.Port"),
        ({"AeTitle": "SEVENTEEN_LETTERS"}, "Understudy.AeTitle"),
        ({"AeTitle": " X"}, "Understudy.AeTitle"),
        ({"AeTitle": "A\\B"}, "Understudy.AeTitle"),
        ({"AeTitle": "Ä"}, "Understudy.AeTitle"),
        ({"Site": "North Wing"}, "Understudy.Site"),
        ({"Vaults": [{"Name": "nas", "Directory": "nas"}]}, "Understudy.Vaults[0]"),
        ({"Vaults": [S3 | {"Endpoint": "s3.example.org"}]}, "Understudy.Vaults[0].Endpoint"),
        ({"Vaults": [S3 | {"RetentionDays": 0}]}, "Understudy.Vaults[0].RetentionDays"),
        ({"Policy": {"ProbeInterval": 0}}, "Understudy.Policy.ProbeInterval"),
        ({"Policy": {"ProbeInterval": -1}}, "Understudy.Policy.ProbeInterval"),
        ([], "Understudy"),
    ],
)
def test_fault_is_told_with_its_path(document: object, path: str) -> None:
    (problem,) = problems(document)
    assert problem.startswith(f"{path}: ")


def route(**keys: object) -> dict[str, object]:
    """Return a section with one route, whose one condition has these keys."""
    return {
        "Destinations": [{"Name": "archive", "AeTitle": "ARCHIVE", "Host": "a"}],
        "Routes": [{"Name": "rule", "When": [keys], "To": ["archive"]}],
    }


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ({"Of": "Modality"}, "exactly one of Equals, In and Regex"),
        ({"Of": "Modality", "Equals": "CT", "Regex": "C"}, "exactly one of Equals, In and Regex"),
        ({"Of": "Modalty", "Equals": "CT"}, "neither a keyword of DICOM"),
        ({"Of": "ReferencedImageSequence", "Equals": "1"}, "its values are no text"),
        ({"Of": "MediaStorageSOPClassUID", "Equals": "1"}, "belongs to the file"),
        ({"Of": "Weekday", "In": ["Monday"]}, "no weekday"),
        ({"Of": "TimeOfDay", "In": ["18-7"]}, "no part of a day"),
        ({"Of": "TimeOfDay", "Equals": "07:00-07:00"}, "is empty"),
        ({"Of": "SourceAddress", "In": ["192.0.2.300"]}, "does not appear to be an IPv4 or IPv6 network"),
        ({"Of": "Modality", "Regex": "C("}, "unclosed group"),
        ({"Of": "Modality", "Regex": r"(.)\1"}, "backreferences are not supported"),
        ({"Of": "Modality", "Regex": "(?=C)"}, "look-around"),
        ({"Of": "Modality", "Regex": "((a{200}){200}){200}"}, "size limit"),
        ({"Of": "Modality", "Equal": "CT"}, "unknown key; is Equals meant?"),
    ],
)
def test_condition_that_cannot_be_meant_is_refused(condition: dict[str, object], told: str) -> None:
    (first, *_) = problems(route(**condition))
    assert first.startswith("Understudy.Routes[0].When[0]")
    assert told in first


def test_pattern_that_would_never_end_elsewhere_is_matched_in_linear_time() -> None:
    condition = parse(route(Of="StationName", Regex="^(a+)+$")).routes[0].when[0].compiled()
    assert condition.holds(["a" * 1024])
    # With back-tracking this takes 2 to the power of 1024 steps.
    assert not condition.holds(["a" * 1023 + "b"])


def test_pattern_is_found_anywhere_and_can_ignore_case() -> None:
    condition = parse(route(Of="StationName", Regex="(?i)er")).routes[0].when[0].compiled()
    assert condition.holds(["CT-ER-1"])
    assert condition.holds(["er"])
    assert not condition.holds(["CT1"])


def test_words_of_ours_are_no_keywords_of_dicom() -> None:
    for word in (*rules.KNOWN - rules.NOTED.keys(), "CallingAeTitle", "CalledAeTitle"):
        assert dictionary.problem_of(word), word


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"Routes": [{"Name": "rule", "To": ["archive"]}]}, "leads to 'archive', which is no destination"),
        ({"Routes": [{"Name": "rule", "To": []}]}, "at least 1 item"),
        (
            {"Routes": [{"Name": "rule", "To": ["a"], "Priority": "high", "Send": "when_stable"}]},
            "has no Priority",
        ),
        ({"Routes": [{"Name": "rule", "To": ["a"], "Priority": "urgent"}]}, "'high', 'medium' or 'low'"),
        ({"TimeZone": "Europe/Wien"}, "no time zone"),
        ({"TimeZone": "../../etc/passwd"}, "no time zone"),
        (
            {"Destinations": [{"Name": "a", "AeTitle": "A", "Host": "a", "Windows": ["24:00-06:00"]}]},
            "no part of a day",
        ),
        ({"RouteMatching": "last"}, "'all' or 'first'"),
    ],
)
def test_route_that_leads_nowhere_is_refused(section: dict[str, object], told: str) -> None:
    (problem,) = problems(section)
    assert told in problem


def test_owed_limit_is_the_destinations_own_and_leaves_out_the_hours_in_which_it_is_closed() -> None:
    target = {"Name": "a", "AeTitle": "A", "Host": "a"}
    for keys, expected in (
        ({}, 900),
        ({"OwedLimit": 60}, 60),
        ({"Windows": ["20:00-08:00"]}, 900 + 12 * 3600),
        ({"Windows": ["20:00-08:00"], "OwedLimit": 60}, 60 + 12 * 3600),
    ):
        assert parse({"Destinations": [target | keys]}).owed_limit("a") == expected
    assert parse({"Policy": {"OwedLimit": 30}}).owed_limit("primary") == 30


def test_all_faults_are_told_at_once() -> None:
    found = problems({"Site": "", "Primary": {"Host": ""}, "Policy": {"ProbeFailures": 0}, "Extra": 1})
    assert len(found) == 5


def test_holder_name_used_twice_is_refused() -> None:
    twice = {"Name": "archive", "AeTitle": "A", "Host": "a"}
    (problem,) = problems({"Destinations": [twice], "Vaults": [{"Name": "archive", "Directory": "/a"}]})
    assert "'archive' is used twice" in problem


def test_destination_named_primary_is_refused_where_there_is_a_primary() -> None:
    route = {"Name": "primary", "AeTitle": "A", "Host": "a"}
    assert parse({"Destinations": [route]}).destinations
    (problem,) = problems({"Destinations": [route], "Primary": PRIMARY})
    assert "'primary' is used twice" in problem


def test_own_ae_title_and_the_primarys_have_to_differ() -> None:
    (problem,) = problems({"AeTitle": "PACS", "Primary": PRIMARY})
    assert "AeTitle and an AE title of Primary are the same" in problem
    (problem,) = problems({"AeTitle": "ROUTER", "Primary": PRIMARY | {"CallingAeTitles": ["ROUTER"]}})
    assert "AeTitle and an AE title of Primary are the same" in problem


def test_primary_may_call_with_several_titles() -> None:
    found = parse({"Primary": PRIMARY | {"CallingAeTitles": ["ROUTER"]}}).primary
    assert found is not None
    assert found.titles == {"PACS", "ROUTER"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "1"),
        ("${A:-2}", "1"),
        ("${B:-2}", "2"),
        ("${B:-}", ""),
        ("${B}", ""),
        ("${EMPTY:-2}", "2"),
        ("x${A}y${B:-z}", "x1yz"),
        ("$A", "$A"),
    ],
)
def test_variables_are_replaced_as_orthanc_does_it(text: str, expected: str) -> None:
    assert substitute(text, {"A": "1", "EMPTY": ""}) == expected


def test_folder_is_read_with_comments_and_variables(tmp_path: Path) -> None:
    (tmp_path / "understudy.json").write_text('{"Understudy": { /* ours */ "Site": "${SITE:-south}" }}')
    (tmp_path / "orthanc.json").write_text('{"Name": "x" // theirs\n}')
    assert present(tmp_path, {}).configuration.site == "south"
    assert present(tmp_path, {"SITE": "north"}).configuration.site == "north"


def test_folder_without_our_section_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text('{"Name": "x"}')
    assert present(tmp_path, {}).configuration.site == "clinic"


def test_folder_tells_every_broken_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text('{"Same": 1}')
    (tmp_path / "d.json").write_text('{"Same": 2}')
    with pytest.raises(ConfigurationError) as caught:
        read_sections(tmp_path, {})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["a.json", "b.json", "d.json"]


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is there"):
        read_sections(tmp_path, {})


def test_schema_describes_every_key() -> None:
    schema = json.loads(schema_json())
    sections = [schema, *schema["$defs"].values()]
    undescribed = [
        f"{section['title']}.{name}"
        for section in sections
        for name, key in section.get("properties", {}).items()
        if "description" not in key and "$ref" not in key and "anyOf" not in key
    ]
    assert undescribed == []


def test_tls_with_a_certificate_and_no_key_is_refused() -> None:
    tls = {"Authorities": "clinic.pem", "Certificate": "ours.pem"}
    destination = {"Name": "archive", "AeTitle": "ARCHIVE", "Host": "192.0.2.20", "Tls": tls}
    with pytest.raises(ConfigurationError, match="Certificate and Key belong together"):
        parse({"Destinations": [destination]})
    whole = {**destination, "Tls": {**tls, "Key": "ours.key"}}
    assert parse({"Destinations": [whole]}).destinations[0].tls is not None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "exactly one of Host and Url"),
        ({"Host": "192.0.2.20", "Url": "https://archive.example.org"}, "exactly one of Host and Url"),
        ({"Host": "192.0.2.20"}, "AeTitle is needed with Host"),
        ({"Host": "192.0.2.20", "AeTitle": "A", "CredentialsFile": "a.json"}, "for Url alone"),
        ({"Url": "archive.example.org"}, "pattern"),
        ({"Url": "https://archive.example.org", "TransferSyntax": "accepted"}, "for Host alone"),
        ({"Url": "https://archive.example.org", "Proof": "commitment"}, "for Host alone"),
        (
            {"AeTitle": "A", "Host": "a", "TransferSyntax": "accepted", "Proof": "readback"},
            "for TransferSyntax keep",
        ),
    ],
)
def test_destination_is_reached_one_way(keys: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse({"Destinations": [{"Name": "archive", **keys}]})


def test_destination_over_dicomweb_needs_no_ae_title() -> None:
    url = {"Name": "cloud", "Url": "https://archive.example.org/dicom-web", "CredentialsFile": "a.json"}
    assert parse({"Destinations": [url]}).destinations[0].ae_title is None
