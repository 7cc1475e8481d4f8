"""A bare Debian 13 under QEMU: made from Debian's packages, switched on, and its plug pulled."""

import contextlib
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.stack import StackError, run, wait_until

PACKAGES = (
    "ca-certificates,dbus,initramfs-tools,iproute2,kmod,linux-image-cloud-amd64,openssh-server,procps,python3,"
    "python3-apt,sudo,systemd-resolved,systemd-sysv,udev"
)
USER = "admin"
PORTS = {22: "ssh", 4242: "dicom", 8443: "https"}
DISK_GB, STORAGE_GB, MEMORY_MB = 12, 8, 6144
STORAGE = "/dev/disk/by-id/virtio-storage"
"""The second disk, empty, as the machine names it."""
BOOT_SECONDS = {"kvm": 60.0, "tcg": 300.0}
"""Until SSH answers. A virtual machine in which KVM begins and hangs is not rare."""

_SETUP = f"""
set -eu
root="$1"
chroot "$root" useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/{USER}"
install -d -m 0700 "$root/home/{USER}/.ssh"
cp "$2" "$root/home/{USER}/.ssh/authorized_keys"
chroot "$root" chown -R {USER}:{USER} /home/{USER}/.ssh
echo standby > "$root/etc/hostname"
echo '127.0.1.1 standby' >> "$root/etc/hosts"
echo '/dev/vda / ext4 errors=remount-ro 0 1' > "$root/etc/fstab"
printf '[Match]\\nName=en*\\n[Network]\\nDHCP=yes\\n' > "$root/etc/systemd/network/wired.network"
chroot "$root" systemctl enable systemd-networkd systemd-resolved ssh
"""


class Machine:
    """One virtual machine with its disk in a folder; `start` and `kill` are its power switch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "id_ed25519"
        self.accelerator = ""
        self.ports = {inside: _free_port() for inside in PORTS}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> Path:
        """What the machine wrote to its serial console."""
        return self.folder / "console.log"

    def install(self) -> None:
        """Make the disk again: Debian with SSH, sudo and one user, and nothing of ours."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)])
        root = self.folder / "root"
        options = ["--variant=minbase", f"--include={PACKAGES}", "--aptopt=Acquire::Languages none"]
        run(["mmdebstrap", *options, "trixie", str(root)], timeout=1800)
        run(["sh", "-c", _SETUP, "setup", str(root), str(self.key.with_suffix(".pub"))])
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, self.folder / name)
        disk = self.folder / "disk.raw"
        run(["truncate", "--size", f"{DISK_GB}G", str(disk)])
        run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(disk)], timeout=600)
        shutil.rmtree(root)
        run(["truncate", "--size", f"{STORAGE_GB}G", str(self.folder / "storage.raw")])

    def start(self) -> None:
        """Switch it on and wait until SSH answers; which accelerator works the first start finds out."""
        for accelerator in [self.accelerator] if self.accelerator else ["kvm", "tcg"]:
            self._switch_on(accelerator)
            with contextlib.suppress(StackError):
                wait_until(
                    self._ssh_answers, bool, deadline=BOOT_SECONDS[accelerator], what="SSH of the machine"
                )
                self.accelerator = accelerator
                return
            self.kill()
        raise StackError(f"the machine does not start, see {self.console}")

    def kill(self) -> None:
        """End it at once, as if its plug were pulled; what the guest had not written is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def execute(self, command: str, *, timeout: float = 600) -> str:
        """Run a shell command in the machine as root, and return what it printed."""
        options = [option for text in SSH_OPTIONS for option in ("-o", text)]
        address = ["-p", str(self.ports[22]), f"{USER}@127.0.0.1"]
        return run(
            ["ssh", *options, "-i", str(self.key), *address, "sudo", "sh", "-s"],
            stdin=command.encode(),
            timeout=timeout,
        ).decode()

    def _switch_on(self, accelerator: str) -> None:
        forwarded = ",".join(
            f"hostfwd=tcp:127.0.0.1:{outside}-:{inside}" for inside, outside in self.ports.items()
        )
        command = [
            *("qemu-system-x86_64", "-machine", "q35", "-display", "none", "-no-reboot"),
            *("-accel", accelerator, "-cpu", "max" if accelerator == "tcg" else "host"),
            *("-smp", "2", "-m", str(MEMORY_MB)),
            *("-kernel", str(self.folder / "vmlinuz"), "-initrd", str(self.folder / "initrd.img")),
            *("-append", "root=/dev/vda rw console=ttyS0"),
            *_disk(self.folder / "disk.raw", "system"),
            *_disk(self.folder / "storage.raw", "storage"),
            *("-nic", f"user,model=virtio-net-pci,{forwarded}"),
            *("-serial", f"file:{self.console}"),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _ssh_answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise StackError(f"QEMU ended, see {self.console}")
        try:
            with socket.create_connection(("127.0.0.1", self.ports[22]), 2) as connection:
                connection.settimeout(5)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


SSH_OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
"""The machine was made a moment ago: there is no key of it to know."""


def _disk(path: Path, name: str) -> list[str]:
    """Return the options of a disk of which nothing is kept in this machine's memory."""
    drive = f"file={path},format=raw,if=none,id={name},cache=none"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
