"""The seccomp profile: which system calls a container may make; data and a pure function.

Design: an allow-list. What is not named fails with EPERM. It is held to be no weaker than Docker's default profile (which
users know, and which images are tested with), on purpose stricter than that of Debian's containers-common, which lets
`unshare -U` and keyctl through.

* `ALWAYS` is safe without any capability. Not in it, though common: keyctl, add_key, request_key (keyrings have no
  namespace), userfaultfd and io_uring (a history of holes in the kernel; Docker took io_uring out in 25.0),
  clock_settime, kexec, swapon, mount.
* `WITH_CAPABILITY` opens calls for containers that hold the capability: the kernel checks it anyway, the profile only
  keeps the code behind it out of reach of everybody else.
* `clone` is allowed unless its flags ask for a namespace (argument 0; argument 1 on s390x). `clone3` takes its flags in
  memory, where a filter cannot look: it fails with ENOSYS, upon which every libc falls back to clone. `unshare` and
  `setns` need SYS_ADMIN.
* `socket` is closed for AF_VSOCK (it has no namespace: it reaches the hypervisor), as in Docker.
* `personality` takes only the five values that programs use (Linux, UNAME26, 32-bit, both, query); switching address
  randomisation off is not among them.

Foreign architectures of the same machine (i386 and x32 on amd64, arm on arm64) are in the filter, since without them it
would refuse their programs.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

Comparison: TypeAlias = Literal["!=", "==", "masked=="]

EPERM, ENOSYS = 1, 38
_AF_VSOCK = 40
_CLONE_NEWCGROUP, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x02000000, 0x04000000, 0x08000000
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_NAMESPACE_FLAGS = (
    _CLONE_NEWCGROUP | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNS | _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNET
)  # fmt: skip
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALWAYS = _names("""
    accept accept4 access alarm bind brk capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres
    clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 adjtimex close close_range
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
    epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64
    fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd
    getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername
    getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage
    getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
    mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
    ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx
    symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
""")

WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": ["open_by_handle_at"],
    "CAP_SYS_ADMIN": _names("""
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
    """),
    "CAP_SYS_BOOT": ["reboot"],
    "CAP_SYS_CHROOT": ["chroot"],
    "CAP_SYS_MODULE": ["delete_module", "init_module", "finit_module"],
    "CAP_SYS_PACCT": ["acct"],
    "CAP_SYS_PTRACE": ["kcmp", "pidfd_getfd", "process_madvise"],
    "CAP_SYS_RAWIO": ["iopl", "ioperm"],
    "CAP_SYS_TIME": ["settimeofday", "stime", "clock_settime", "clock_settime64"],
    "CAP_SYS_TTY_CONFIG": ["vhangup"],
    "CAP_SYS_NICE": ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    "CAP_SYSLOG": ["syslog"],
    "CAP_BPF": ["bpf"],
    "CAP_PERFMON": ["perf_event_open"],
}

_X86 = ["arch_prctl", "modify_ldt"]
_ARM = ["arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"]
ON_MACHINE = {
    "x86_64": _X86,
    "aarch64": _ARM,
    "armv7l": _ARM,
    "ppc64le": ["sync_file_range2", "swapcontext"],
    "s390x": ["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"],
    "riscv64": ["riscv_flush_icache"],
}

ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "armv7l": ("SCMP_ARCH_ARM",),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
}


class Condition(NamedTuple):
    """A comparison of one argument; for `masked==` the argument is first masked with `value`, then compared with `expected`."""

    argument: int
    comparison: Comparison
    value: int
    expected: int = 0


class Rule(NamedTuple):
    """Calls that are allowed (`errno` 0), or fail with `errno`, when the condition holds."""

    names: tuple[str, ...]
    condition: Condition | None = None
    errno: int = 0


def profile_rules(capabilities: Iterable[str], machine: str) -> tuple[Rule, ...]:
    """Return the rules for a container with these capabilities on a machine (`x86_64`, …); whatever they leave out gets EPERM."""
    held = set(capabilities)
    allowed = {*ALWAYS, *ON_MACHINE.get(machine, ())}
    for capability, names in WITH_CAPABILITY.items():
        if capability in held:
            allowed.update(names)
    rules = [
        Rule(tuple(sorted(allowed))),
        Rule(("socket",), Condition(0, "!=", _AF_VSOCK)),
        *(Rule(("personality",), Condition(0, "==", value)) for value in _PERSONALITIES),
    ]
    if "CAP_SYS_ADMIN" not in held:
        flags_argument = 1 if machine == "s390x" else 0
        rules.append(Rule(("clone",), Condition(flags_argument, "masked==", _NAMESPACE_FLAGS, 0)))
        rules.append(Rule(("clone3",), errno=ENOSYS))
    return tuple(rules)


_OCI_OPERATORS: dict[Comparison, str] = {"!=": "SCMP_CMP_NE", "==": "SCMP_CMP_EQ", "masked==": "SCMP_CMP_MASKED_EQ"}


def oci_seccomp(rules: Iterable[Rule], machine: str) -> dict[str, Any]:
    """Return the rules as an OCI bundle's `linux.seccomp`, for runtimes that compile it themselves (runc)."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": list(ARCHITECTURES.get(machine, ())),
        "syscalls": [_oci_rule(rule) for rule in rules],
    }


def _oci_rule(rule: Rule) -> dict[str, Any]:
    action: dict[str, Any] = {"action": "SCMP_ACT_ERRNO", "errnoRet": rule.errno} if rule.errno else {"action": "SCMP_ACT_ALLOW"}
    result: dict[str, Any] = {"names": list(rule.names), **action}
    if rule.condition:
        condition = rule.condition
        argument = {"index": condition.argument, "value": condition.value, "op": _OCI_OPERATORS[condition.comparison]}
        result["args"] = [{**argument, "valueTwo": condition.expected}]
    return result
