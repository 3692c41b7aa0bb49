//! System calls that no agent needs, denied for this process and all that it starts.
//!
//! The filter comes on top of the engine's, whichever engine that is: the kernel takes the stricter answer of the two.
//! What it denies is the part of the kernel in which most ways out of a container were found, and what an engine may
//! leave open: Docker 20.10 lets `io_uring` and `AF_VSOCK` through.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Calls that are denied whatever their arguments are.
const DENIED: &[c_long] = &[
    // A second way into half of the kernel's calls, past every filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Keyrings know no containers.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Means of exploits, and of who watches others.
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // New namespaces, in which a process may do what it may not here; `clone` is below.
    libc::SYS_unshare,
    libc::SYS_setns,
    // The file system.
    libc::SYS_open_by_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    // The kernel itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
];

/// `open_tree_attr`, of Linux 6.15: the same number everywhere.
const OPEN_TREE_ATTR: c_long = 467;

/// The families of sockets that tools use. The others (of virtual machines, clusters, radio) lead past the network of a
/// container, or to drivers that hardly anybody looks after.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Kinds of namespaces that `clone` makes. A new clock (`CLONE_NEWTIME`) only `clone3` makes.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The first number of the calls of x32 (64-bit programs with short pointers), which are the same calls once more.
const X32: u32 = 0x4000_0000;

/// Denies the calls from now on. For the beginning of `main`: what runs already on another thread is left out.
///
/// A program of another architecture (32 bits) is ended at its first call (SIGSYS), since its calls have other numbers.
///
/// # Errors
///
/// Why the kernel, or the engine, does not take the filter.
pub(crate) fn install() -> Result<(), String> {
    let programs = programs().map_err(|error| format!("BUG: the filter is none: {error}"))?;
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program)).map_err(|error| {
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    })
}

fn programs() -> Result<[BpfProgram; 3], seccompiler::BackendError> {
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|&call| (call, Vec::new())).collect();
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let others = FAMILIES.map(|family| (SeccompCmpOp::Ne, family));
        denied.insert(call, vec![rule(others)?]);
    }
    let mut namespaces = Vec::new();
    for kind in NAMESPACES {
        namespaces.push(rule([(SeccompCmpOp::MaskedEq(bits(kind)), kind)])?);
    }
    denied.insert(libc::SYS_clone, namespaces);
    // The kernel lets the same user change the limits and the priority of process 1, dumpable or not, by the number of
    // any of its threads and by the group that it is in. So a program may change its own only, which 0 stands for.
    denied.insert(libc::SYS_prlimit64, vec![rule([(SeccompCmpOp::Ne, 0)])?]);
    let other_number = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?;
    let kinds = rule([(SeccompCmpOp::Ne, libc::PRIO_PROCESS.cast_signed())])?;
    denied.insert(libc::SYS_setpriority, vec![kinds, SeccompRule::new(vec![other_number])?]);
    // C libraries name a program's own threads by number here. So only the main thread of process 1 is guarded.
    for call in [
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
    ] {
        denied.insert(call, vec![rule([(SeccompCmpOp::Eq, 1)])?]);
    }
    // What `clone3` is to do lies in memory, where no filter looks. Where it is missing, libraries use `clone`.
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([filter(denied, libc::EPERM)?, filter(missing, libc::ENOSYS)?, without_x32()])
}

/// Returns the rule that holds where the first argument passes all comparisons. It is an `int` for all of these calls:
/// the kernel does not look at its upper half, nor do we.
fn rule<const N: usize>(
    comparisons: [(SeccompCmpOp, i32); N],
) -> Result<SeccompRule, seccompiler::BackendError> {
    let mut conditions = Vec::new();
    for (operator, value) in comparisons {
        let value = bits(value);
        conditions.push(SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)?);
    }
    SeccompRule::new(conditions)
}

fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

fn filter(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let denied = SeccompAction::Errno(errno.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(calls, SeccompAction::Allow, denied, arch)?.try_into()
}

/// Returns the program that has no call of x32: kernels can be built without them, so that nobody misses them.
fn without_x32() -> BpfProgram {
    let statement = |code: u32, k| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let answer = |k| statement(libc::BPF_RET | libc::BPF_K, k);
    // The number is the first thing in `struct seccomp_data`.
    let load = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let compare = statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32);
    let nosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    vec![load, sock_filter { jf: 1, ..compare }, answer(nosys), answer(libc::SECCOMP_RET_ALLOW)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_ones_that_a_kernel_takes() {
        for program in programs().unwrap() {
            assert!(!program.is_empty() && program.len() < 4096);
        }
    }
}
