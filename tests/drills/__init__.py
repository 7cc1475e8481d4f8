"""The drills: real faults against real servers, and the set of what was acknowledged is compared afterwards.

Modality, standby, primary and cloud are containers, each of which has a network namespace of its own, and the
lab's networks join them; the host's network is not touched. A disk is an ext4 image on a loop device
(`disks`), a server is Orthanc in a container on such disks (`servers`) or the whole appliance
(`tests.stack`), a modality is `sender`, which writes down what it was told, and `checker` compares. What is
done when is data with a seed (`faults`); what came out is printed and kept (`results`).

Rule 1: an instance is acknowledged when its sender got a success before the fault; then it has to be there
with the same bytes. No answer means unknown: it may be there or not.
Rule 2: a drill fails where its fault did not take place: no load, no silence, nobody at the gates.
Rule 3: mounts, loop devices, containers and processes go when a drill ends, however it ends.
"""
