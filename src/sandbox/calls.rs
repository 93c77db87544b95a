//! The system calls of a run that goes on: a list for seccomp(2). Any other gives EPERM.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::Needs;

/// Calls on every architecture: files, memory, threads, time, sockets that are open, signals of our own.
const CALLS: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_kill,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_prlimit64,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setpriority,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older forms of these, which only this architecture has, and which C libraries still use.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Commands of bpf(2) that go to maps which are open already: look up, update, delete, and these in batches.
const MAP_COMMANDS: [u64; 6] = [1, 2, 3, 24, 26, 27];
/// Types of socket(2) without its flags.
const TYPE_MASK: u64 = 0xf;

/// The programs, ready.
pub struct Calls {
    list: BpfProgram,
    no_clone3: BpfProgram,
}

impl Calls {
    /// Prepares the list for `needs`.
    ///
    /// # Errors
    ///
    /// On an architecture that is not known, in words.
    pub fn prepare(needs: &Needs) -> Result<Self, String> {
        let in_words = |error: seccompiler::BackendError| error.to_string();
        let errno = |number: libc::c_int| SeccompAction::Errno(number.unsigned_abs());
        let list = program(
            rules(needs).map_err(in_words)?,
            errno(libc::EPERM),
            SeccompAction::Allow,
        );
        // Its arguments lie in memory, where a filter cannot see that a name space is wanted. C libraries use clone(2)
        // where it is not known.
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let no_clone3 = program(clone3, SeccompAction::Allow, errno(libc::ENOSYS));
        Ok(Self {
            list: list.map_err(in_words)?,
            no_clone3: no_clone3.map_err(in_words)?,
        })
    }

    /// From now on the list holds for this thread and those that it starts.
    ///
    /// # Errors
    ///
    /// When the kernel has no seccomp, in words.
    pub fn enter(&self) -> Result<(), String> {
        for program in [&self.no_clone3, &self.list] {
            apply_with(program)?;
        }
        Ok(())
    }
}

fn apply_with(program: &BpfProgram) -> Result<(), String> {
    apply_filter(program).map_err(|error| format!("seccomp: {error}"))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()
}

fn rules(needs: &Needs) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = CALLS
        .iter()
        .chain(OLDER)
        .map(|call| (*call, Vec::new()))
        .collect();
    let mut sockets = vec![
        rule(&[equal(0, libc::AF_UNIX)?])?,
        rule(&[equal(0, libc::AF_NETLINK)?])?,
    ];
    let streams = needs.listens || !needs.tcp_ports.is_empty();
    let streams = streams.then_some(libc::SOCK_STREAM);
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [Some(libc::SOCK_DGRAM), streams].into_iter().flatten() {
            let kind = masked(1, TYPE_MASK, number(kind))?;
            sockets.push(rule(&[equal(0, family)?, kind])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(
        libc::SYS_socketpair,
        vec![rule(&[equal(0, libc::AF_UNIX)?])?],
    );
    if needs.udp || needs.names || !needs.tcp_ports.is_empty() {
        rules.insert(libc::SYS_connect, Vec::new());
    }
    // Nothing may be typed into the terminal. The type of these numbers is that of the C library.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX];
    let typing = typing.map(|command| {
        SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Ne,
            u64::from(command as u32),
        )
    });
    let typing: Result<Vec<_>, _> = typing.into_iter().collect();
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(typing?)?]);
    // A name space of one's own would give capabilities back, in there.
    let no_user_ns = masked(0, number(libc::CLONE_NEWUSER), 0)?;
    rules.insert(libc::SYS_clone, vec![rule(&[no_user_ns])?]);
    let commands = MAP_COMMANDS.iter().map(|command| {
        let command =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *command)?;
        rule(&[command])
    });
    rules.insert(libc::SYS_bpf, commands.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn number(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn equal(argument: u8, value: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = number(value);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(
    argument: u8,
    mask: u64,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.to_vec())
}
