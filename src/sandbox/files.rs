//! Which files may be opened, and which TCP ports connected to: Landlock (Documentation/userspace-api/landlock.rst
//! of the kernel).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};

use super::Needs;

/// Newest version of Landlock whose limits are asked for (Linux 6.10); older kernels have fewer.
const NEWEST: ABI = ABI::V5;
/// Why there are no rules.
const NO_LANDLOCK: &str = "this kernel has none (Linux 5.13, CONFIG_SECURITY_LANDLOCK), or a filter of the service or container \
                           keeps landlock_create_ruleset(2) from this process";
/// What every run reads: counters, interfaces, the terminal it was started from.
const ALWAYS_READ: [&str; 4] = ["/proc", "/sys", "/dev/tty", "/dev/null"];
/// What looking up a name reads (nsswitch.conf(5), resolver(5)).
const NAMES_READ: [&str; 5] = ["/etc", "/lib", "/lib64", "/usr/lib", "/run/systemd/resolve"];
/// The port of DNS.
const DNS: u16 = 53;

/// The rules, ready.
pub struct Files {
    rules: RulesetCreated,
    write: Vec<PathBuf>,
}

impl Files {
    /// Prepares the rules for `needs`.
    ///
    /// # Errors
    ///
    /// When the kernel has no Landlock, in words.
    pub fn prepare(needs: &Needs) -> Result<Self, String> {
        let in_words = |error: landlock::RulesetError| error.to_string();
        // Without its first version there is nothing to enter; newer limits are taken as far as there are any.
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V1))
            .map_err(|_| NO_LANDLOCK.to_owned())?;
        let rules = rules
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|rules| rules.handle_access(AccessNet::ConnectTcp))
            .and_then(Ruleset::create)
            .map_err(in_words)?;
        let mut write = needs.write.clone();
        write.sort();
        write.dedup();
        let reads = ALWAYS_READ.iter().map(Path::new);
        let names = NAMES_READ.iter().filter(|_| needs.names).map(Path::new);
        let reads = reads
            .chain(names)
            .chain(needs.read.iter().map(PathBuf::as_path));
        let reads = reads.map(|path| (path, reading()));
        let writes = write.iter().map(|path| (path.as_path(), writing()));
        let deleting = BitFlags::from(AccessFs::RemoveFile);
        let deletes = needs.delete.iter();
        let deletes = deletes.map(|path| (path.as_path(), deleting));
        let mut rules = rules;
        for (path, access) in reads.chain(writes).chain(deletes) {
            // What is not there need not be opened.
            let Ok(fd) = PathFd::new(path) else { continue };
            let access = match path.is_dir() {
                true => access,
                false => access & AccessFs::from_file(NEWEST),
            };
            rules = rules
                .add_rule(PathBeneath::new(fd, access))
                .map_err(in_words)?;
        }
        let dns = (needs.names && (needs.udp || !needs.tcp_ports.is_empty())).then_some(DNS);
        for port in needs.tcp_ports.iter().copied().chain(dns) {
            rules = rules
                .add_rule(NetPort::new(port, AccessNet::ConnectTcp))
                .map_err(in_words)?;
        }
        Ok(Self { rules, write })
    }

    /// From now on the rules hold for this thread and those that it starts.
    ///
    /// # Errors
    ///
    /// When they do not, in words.
    pub fn enter(&self) -> Result<(), String> {
        let rules = self.rules.try_clone();
        let rules = rules.map_err(|error| format!("Landlock: {error}"))?;
        match rules.restrict_self() {
            Err(error) => Err(format!("Landlock: {error}")),
            Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
                Err(format!("no Landlock: {NO_LANDLOCK}"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// What may be written, in words.
    pub fn in_words(&self) -> String {
        match self.write.as_slice() {
            [] => "no files are written".to_owned(),
            write => {
                let names: Vec<String> = write
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                format!("files are written in {} only", names.join(", "))
            }
        }
    }
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// All but programs and devices.
fn writing() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    AccessFs::from_all(NEWEST) & !never
}
