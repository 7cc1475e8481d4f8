"""Delivers the files below /bench to a DICOM receiver by the appliance's own lane, with proof."""

from tests.bench.inside.common import DATA, answer, arguments, delivered, files_of, note, stored, wired


def main() -> None:
    """Deliver and tell the seconds from the first look at the ledger to the last proof."""
    asked = arguments()
    receiver = {"Name": "receiver", "AeTitle": "PRIMARY", "Host": asked["host"], "Port": 4242}
    # The AE title that the lab's Orthanc lets query: without an answer to C-FIND there is no proof.
    appliance = wired({"AeTitle": "STANDBY", "Destinations": [receiver], "Vaults": []}, "deliver")
    instances = stored(files_of(DATA))
    note(appliance, instances, ["receiver"], cursor=1)
    seconds = delivered(appliance, "receiver", len(instances), deadline=300)
    answer({"seconds": seconds, "instances": len(instances)})


if __name__ == "__main__":
    main()
