"""A virtual machine with Debian's own kernel, in which the real V4L2 drivers meet cameras that are not there. Needs neither root nor KVM.

`prepare` fetches kernel, busybox and QEMU with apt and unpacks them into a folder; `Guest.run` boots, runs one command of this environment's Python and
brings back what it wrote. The guest sees this machine's files, read-only; it is the kernel that differs.
"""

import lzma
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["virtio_pci", "9p", "9pnet_virtio", "vivid", "uvcvideo", "vhci_hcd"]
VIVID = "n_devs=1 node_types=0x1 num_inputs=1 input_types=0"  # one webcam, which offers Bayer formats
BOOT = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"
INIT = f"""#!/bin/busybox sh
mount() {{ /bin/busybox mount "$@"; }}
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do
  options=; [ $module = vivid ] && options="{VIVID}"
  /bin/busybox insmod /modules/$module.ko $options || echo "cannot insert $module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 files /files || echo "cannot mount the files"
for folder in dev proc sys; do mount --bind /$folder /files/$folder; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 results /files/media || echo "cannot mount the results"
mount -t tmpfs memory /files/mnt
/bin/busybox chroot /files /bin/sh /media/job; echo $? > /files/media/code
/bin/busybox sync; /bin/busybox poweroff -f
"""


class Unavailable(Exception):
    "The packages cannot be had here; says why."


def run(*command, cwd=None):
    "What a program prints; `Unavailable` when it is missing or fails."
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=150)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def fetch(folder):
    "Kernel and busybox into `kernel/`, QEMU and the libraries that this machine lacks into `qemu/`."
    if platform.machine() != "x86_64":
        raise Unavailable(f"this is {platform.machine()}: the recipe knows x86_64 only")
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Unavailable("there is no apt here")
    names = re.findall(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", "linux-image-amd64"))
    if not names:
        raise Unavailable("apt knows no linux-image-amd64: apt-get update, on a Debian")
    (folder / "debs/partial").mkdir(parents=True)
    run("apt-get", "download", "-q", names[0], "busybox-static", cwd=folder)
    run(
        "apt-get",
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        "--download-only",
        "-o",
        f"Dir::Cache::archives={folder}/debs",
        "-o",
        "Debug::NoLocking=1",
        "qemu-system-x86",
        "seabios",
    )
    for deb in folder.glob("linux-image*.deb"):
        run("dpkg", "-x", str(deb), str(folder / "kernel"))
    for deb in [*folder.glob("busybox*.deb"), *(folder / "debs").glob("*.deb")]:
        run("dpkg", "-x", str(deb), str(folder / "qemu"))
    for deb in [*folder.glob("*.deb"), folder / "debs"]:
        shutil.rmtree(deb) if deb.is_dir() else deb.unlink()


def kernel_modules(folder):
    "Names and contents of MODULES and of what they need, in the order in which they can be inserted."
    (base,) = (folder / "kernel/lib/modules").iterdir()
    files = {path.name.split(".")[0].replace("-", "_"): path for path in base.rglob("*.ko*")}
    builtin = {Path(line).stem.replace("-", "_") for line in (base / "modules.builtin").read_text().split()}
    found = {}

    def add(name):
        if name in found or name in builtin:
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        needs = re.search(rb"(?:^|\0)depends=([^\0]*)\0", data)[1].decode()
        for other in filter(None, needs.split(",")):
            add(other.replace("-", "_"))
        found[name] = data

    for name in MODULES:
        add(name.replace("-", "_"))
    return found


def archive(entries):
    "A cpio archive (format newc) of (name, mode, contents, device) entries."
    out = b""
    for number, (name, mode, data, device) in enumerate([*entries, ("TRAILER!!!", 0, b"", (0, 0))], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return out


def ram_disk(folder):
    "The first file system: busybox, INIT and the modules."
    modules = kernel_modules(folder)
    entries = [
        (name, stat.S_IFDIR | 0o755, b"", (0, 0))
        for name in ("bin", "dev", "proc", "sys", "files", "modules")
    ]
    entries += [
        ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
        ("order", stat.S_IFREG | 0o644, "\n".join(modules).encode(), (0, 0)),
        ("init", stat.S_IFREG | 0o755, INIT.encode(), (0, 0)),
        ("bin/busybox", stat.S_IFREG | 0o755, (folder / "qemu/bin/busybox").read_bytes(), (0, 0)),
    ]
    return archive(
        entries
        + [(f"modules/{name}.ko", stat.S_IFREG | 0o644, data, (0, 0)) for name, data in modules.items()]
    )


def prepare(folder=ROOT / ".cache/camera-guest"):
    "The guest, ready to boot, made on the first call; `Unavailable` where that cannot be."
    if not (folder / "ramdisk").exists():
        begun = folder.with_name(folder.name + ".begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        fetch(begun)
        (begun / "ramdisk").write_bytes(ram_disk(begun))
        shutil.rmtree(folder, ignore_errors=True)
        begun.rename(folder)
    return Guest(folder)


@dataclass
class Guest:
    "An unpacked kernel, QEMU and ram disk."

    folder: Path

    def run(self, *arguments, results, timeout):
        """Boot, run this Python with `arguments` in the project's root; (exit code, console). What the job
        writes to /media lies in `results` afterwards.
        """
        script = (
            f"cd {shlex.quote(str(ROOT))}\nexec {shlex.join([sys.executable, *arguments])} > /media/output"
            " 2>&1\n"
        )
        environment = (
            "export PATH=/usr/bin:/bin HOME=/mnt TMPDIR=/mnt PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1"
            " LC_ALL=C.UTF-8\n"
        )
        (results / "job").write_text(environment + script)
        libraries = ":".join(
            str(self.folder / "qemu" / place)
            for place in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
        )
        (kernel,) = (self.folder / "kernel/boot").glob("vmlinuz-*")
        command = [
            self.folder / "qemu/usr/bin/qemu-system-x86_64",
            "-L",
            self.folder / "qemu/usr/share/qemu",
            "-L",
            self.folder / "qemu/usr/share/seabios",
            "-machine",
            "q35,accel=tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
            "-nic",
            "none",
            "-kernel",
            kernel,
            "-initrd",
            self.folder / "ramdisk",
            "-append",
            BOOT,
            "-fsdev",
            "local,id=f,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device",
            "virtio-9p-pci,fsdev=f,mount_tag=files",
            "-fsdev",
            f"local,id=r,path={results},security_model=none",
            "-device",
            "virtio-9p-pci,fsdev=r,mount_tag=results",
        ]
        try:
            done = subprocess.run(
                [str(word) for word in command],
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
            console = done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            console = f"{error.stdout}\nno end after {timeout} s"
        code = int((results / "code").read_text()) if (results / "code").exists() else None
        return code, console
