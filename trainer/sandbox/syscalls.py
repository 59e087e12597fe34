"""Which system calls a program may make: a deny-list, as data, and the BPF program that the kernel runs for each call.

A deny-list and not an allow-list, because what PyTorch, its compiler and its data loaders call changes with every
release. What keeps it tight is its end: every call that is newer than the last one reviewed here does not exist for
the program (`FIRST_UNREVIEWED`), so a new kernel brings nothing new into reach.

Two answers. EPERM where a program that tries gets its refusal. ENOSYS where libraries have a fallback for old kernels:
glibc takes clone for clone3, and so on. A call made for a foreign architecture (32-bit, x32), whose numbers would mean
other calls, kills the process.

Arguments that the kernel reads as 32 bits are compared as 32 bits: a comparison of all 64 is passed by setting a high
one (CVE-2019-10063). Pointers cannot be looked at, which is why clone3 goes as a whole.

libseccomp assembles the program, through pyseccomp. Source: seccomp(2), syscalls(2), seccomp_rule_add(3).
"""

import errno
import functools
import os
import tempfile
from typing import NamedTuple

from trainer.sandbox.command import SandboxUnavailable

FIRST_UNREVIEWED = 447  # from 424 on, a number means the same call on every architecture
LAST_UNREVIEWED = 1023

_INT_MASK = 0xFFFF_FFFF
_AF_UNIX = 1
_SOCKET_BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and their FORCE forms: include/uapi/asm-generic/socket.h
_TIOCSTI = 0x5412  # include/uapi/asm-generic/ioctls.h
_TIOCLINUX = 0x541C
_CLONE_NEW = (  # include/uapi/linux/sched.h; CLONE_NEWTIME exists for unshare and clone3 only
    0x00020000,  # NEWNS
    0x02000000,  # NEWCGROUP
    0x04000000,  # NEWUTS
    0x08000000,  # NEWIPC
    0x10000000,  # NEWUSER
    0x20000000,  # NEWPID
    0x40000000,  # NEWNET
)
_BINARY_TREE = 2  # seccomp_attr_set(3), SCMP_FLTATR_CTL_OPTIMIZE: few comparisons for each call
_UNKNOWN_CALL = -1  # seccomp_syscall_resolve_name(3), __NR_SCMP_ERROR


class Rule(NamedTuple):
    """System calls that are answered with an error, and why."""

    reason: str
    answer: int  # errno
    calls: str  # names, separated by spaces


class Where(NamedTuple):
    """The rule holds only where `argument & mask` equals `value`; without a mask, where `argument` is not `value`."""

    rule: Rule
    argument: int
    mask: int | None
    value: int


RULES = (
    Rule(
        "reaches into another process",
        errno.EPERM,
        "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp move_pages migrate_pages",
    ),
    Rule("loads programs into the kernel or counts its events", errno.EPERM, "bpf perf_event_open"),
    Rule("lets user code stall the kernel in the middle of a copy", errno.EPERM, "userfaultfd"),
    Rule(
        "keeps secrets in the kernel, shared by user id and not by namespace", errno.EPERM, "add_key request_key keyctl"
    ),
    Rule(
        "changes what is mounted where",
        errno.EPERM,
        "mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr "
        "swapon swapoff",
    ),
    Rule("makes or enters namespaces, in which the kernel's root-only code is in reach", errno.EPERM, "unshare setns"),
    Rule(
        "shared memory and queues that no process has to map, so that the watcher does not see them",
        errno.EPERM,
        "shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl "
        "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    ),
    Rule("pins memory that no process maps any more", errno.EPERM, "vmsplice"),
    Rule("makes device nodes", errno.EPERM, "mknod mknodat"),
    Rule(
        "opens files by handle, past the mounts, or watches the whole file system",
        errno.EPERM,
        "name_to_handle_at open_by_handle_at fanotify_init fanotify_mark lookup_dcookie quotactl quotactl_fd acct",
    ),
    Rule(
        "for the machine's owner only",
        errno.EPERM,
        "init_module finit_module delete_module create_module query_module get_kernel_syms kexec_load kexec_file_load "
        "reboot settimeofday stime clock_settime adjtimex clock_adjtime sethostname setdomainname syslog vhangup "
        "nfsservctl _sysctl",
    ),
    Rule(
        "remains of old processors and executable formats",
        errno.EPERM,
        "iopl ioperm modify_ldt vm86 vm86old uselib ustat sysfs personality remap_file_pages",
    ),
    Rule("hides its arguments from this filter; glibc takes clone", errno.ENOSYS, "clone3"),
    Rule(
        "makes calls that pass this filter by; libraries take the plain calls",
        errno.ENOSYS,
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    Rule(
        "files without a place, which the watcher does not see; libraries take /dev/shm", errno.ENOSYS, "memfd_create"
    ),
)

_NETWORK = Rule("sockets but AF_UNIX reach the kernel, the hypervisor or devices", errno.EPERM, "socket socketpair")
_BUFFERS = Rule("lets a socket keep more memory in the kernel than the default", errno.EPERM, "setsockopt")
_TYPING = Rule("types into the terminal that the node runs in", errno.EPERM, "ioctl")
_CLONE = Rule("makes namespaces", errno.EPERM, "clone")

CONDITIONAL_RULES = (
    Where(_NETWORK, 0, None, _AF_UNIX),
    *(Where(_BUFFERS, 2, _INT_MASK, option) for option in _SOCKET_BUFFERS),
    Where(_TYPING, 1, _INT_MASK, _TIOCSTI),
    Where(_TYPING, 1, _INT_MASK, _TIOCLINUX),
    *(Where(_CLONE, 0, flag, flag) for flag in _CLONE_NEW),
)


@functools.cache
def filter_program() -> bytes:
    """The BPF program (struct sock_filter[], for this machine) that `bwrap --seccomp` reads.

    Raises `SandboxUnavailable` if libseccomp is missing or too old to know a call.
    """
    try:
        import pyseccomp  # type: ignore[import-untyped]  # raises where the library is missing, so not at the top
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxUnavailable(
            f"libseccomp cannot be loaded ({error}), and without it a program could make any system call: "
            "install the package libseccomp2 (apt install libseccomp2)"
        ) from error
    assembly = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    assembly.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    assembly.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)

    def number(call: str) -> int | None:
        found: int = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call)
        if found == _UNKNOWN_CALL:
            raise SandboxUnavailable(f"this libseccomp does not know the system call {call}: upgrade libseccomp2")
        return found if found >= 0 else None  # other negative numbers: this architecture has no such call

    for rule in RULES:
        for call in rule.calls.split():
            if (found := number(call)) is not None:
                assembly.add_rule(pyseccomp.ERRNO(rule.answer), found)
    for where in CONDITIONAL_RULES:
        condition = (
            pyseccomp.Arg(where.argument, pyseccomp.NE, where.value)
            if where.mask is None
            else pyseccomp.Arg(where.argument, pyseccomp.MASKED_EQ, where.mask, where.value)
        )
        for call in where.rule.calls.split():
            if (found := number(call)) is not None:
                assembly.add_rule(pyseccomp.ERRNO(where.rule.answer), found, condition)
    for newer in range(FIRST_UNREVIEWED, LAST_UNREVIEWED + 1):
        assembly.add_rule(pyseccomp.ERRNO(errno.ENOSYS), newer)
    with tempfile.TemporaryFile() as file:
        assembly.export_bpf(file)
        file.seek(0)
        return file.read()


def filter_descriptor() -> int:
    """A descriptor with the program, at its start; bubblewrap reads it to its end and closes it. To be closed here."""
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, filter_program())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
