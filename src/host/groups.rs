//! Groups of this machine: the one that files are given to.

use nix::errno::Errno;
use nix::unistd::{Gid, Group, User, getegid, geteuid, getgroups};

/// The number that means "no group" to chown(2).
const NONE: u32 = u32::MAX;

/// The number of a group that this process can give files to, by its name or number. Root becomes a member of it: then no
/// capability is needed any more.
///
/// # Errors
///
/// In words: there is no such group, or this process is no member, and what to do.
pub fn to_give(text: &str) -> Result<u32, String> {
    let group = find(text)?;
    let gid = group.gid;
    match getegid() == gid || getgroups().is_ok_and(|all| all.contains(&gid)) {
        true => Ok(gid.as_raw()),
        false => join(gid).map_err(|error| {
            let user = User::from_uid(geteuid()).ok().flatten();
            not_a_member(&group, user.as_ref().map(|user| user.name.as_str()), error)
        }),
    }
}

/// A group that was asked for.
struct Found {
    gid: Gid,
    /// `None` for a number without a name.
    known: Option<Group>,
}

fn find(text: &str) -> Result<Found, String> {
    // No group can have such a name, and a NUL ends it early.
    let is_strange = |byte: u8| byte.is_ascii_control() || byte == b':';
    if text.is_empty() || text.bytes().any(is_strange) {
        return Err("the name or the number of a group is needed".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let gid = text.parse().ok().filter(|gid| *gid != NONE);
        let gid = gid.ok_or_else(|| format!("the number of a group is at most {}", NONE - 1))?;
        let gid = Gid::from_raw(gid);
        // Where it has no name here, its number will do.
        let known = Group::from_gid(gid).unwrap_or_default();
        return Ok(Found { gid, known });
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(Found {
            gid: group.gid,
            known: Some(group),
        }),
        Ok(None) => Err(format!(
            "this machine has no such group: 'getent group' lists those it has, 'groupadd {text}' adds this one"
        )),
        Err(error) => Err(format!(
            "the groups of this machine cannot be read: {error}; a number needs no look-up"
        )),
    }
}

/// Why a process did not become a member of a group.
enum NoMember {
    NotAllowed,
    Failed(Errno),
}

/// Adds the group to those of this process, where it may: setgroups(2).
#[cfg(target_os = "linux")]
fn join(gid: Gid) -> Result<u32, NoMember> {
    use caps::{CapSet, Capability};
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETGID).unwrap_or(false) {
        return Err(NoMember::NotAllowed);
    }
    let mut all = getgroups().map_err(NoMember::Failed)?;
    all.push(gid);
    nix::unistd::setgroups(&all).map_err(NoMember::Failed)?;
    Ok(gid.as_raw())
}

#[cfg(not(target_os = "linux"))]
fn join(_: Gid) -> Result<u32, NoMember> {
    Err(NoMember::NotAllowed)
}

/// What is wrong, and what to do. `user` runs this process; a user without a name is told by its number.
fn not_a_member(group: &Found, user: Option<&str>, error: NoMember) -> String {
    let Found { gid, known } = group;
    let named = user.map_or_else(
        || format!("uid {}", geteuid()),
        |user| format!("user {user}"),
    );
    let name = known.as_ref().map(|group| group.name.as_str());
    let shown = name.map_or_else(|| gid.to_string(), |name| format!("{name} ({gid})"));
    if let NoMember::Failed(error) = error {
        return format!("{named} cannot become a member of the group {shown}: {error}");
    }
    let members = known.iter().flat_map(|group| &group.mem);
    let is_listed = user.is_some_and(|user| members.into_iter().any(|member| member == user));
    if is_listed {
        // A process has the groups of its login.
        return format!(
            "{named} is a member of the group {shown}, but this process began before that: log in again, or restart the \
             service"
        );
    }
    let add = match name {
        Some(_) => String::new(),
        None => format!("groupadd -g {gid} NAME; "),
    };
    let (name, user) = (name.unwrap_or("NAME"), user.unwrap_or("USER"));
    format!(
        "{named} is not a member of the group {shown}, so it cannot give files to it: '{add}usermod -aG {name} {user}', then \
         log in again or restart the service (in a unit SupplementaryGroups={gid}, for a container --group-add {gid})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_group_is_told() {
        for (text, words) in [
            ("", "the name or the number of a group is needed"),
            ("a\0b", "the name or the number of a group is needed"),
            ("a:b", "the name or the number of a group is needed"),
            ("4294967295", "is at most 4294967294"),
            ("4294967296", "is at most 4294967294"),
            ("99999999999999999999", "is at most 4294967294"),
            ("no-such-group-here", "'groupadd no-such-group-here'"),
            ("-1", "no such group"),
            ("+1", "no such group"),
        ] {
            let error = to_give(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn one_is_a_member_of_ones_own_group() {
        let own = getegid().as_raw();
        assert_eq!(to_give(&own.to_string()), Ok(own));
        if let Some(group) = Group::from_gid(getegid()).unwrap() {
            assert_eq!(to_give(&group.name), Ok(own));
        }
    }

    #[test]
    fn who_is_no_member_is_told_what_to_do() {
        let of = |known: Option<Group>, user| {
            let gid = Gid::from_raw(1500);
            not_a_member(&Found { gid, known }, user, NoMember::NotAllowed)
        };
        let group = |mem| Group {
            name: "captures".to_owned(),
            passwd: c"x".to_owned(),
            gid: Gid::from_raw(1500),
            mem,
        };
        let told = of(Some(group(vec!["ann".to_owned()])), Some("bob"));
        assert!(told.starts_with("user bob is not a member of the group captures (1500)"));
        assert!(told.contains("'usermod -aG captures bob', then"), "{told}");
        let told = of(Some(group(vec!["ann".to_owned()])), Some("ann"));
        assert!(
            told.contains("this process began before that: log in again"),
            "{told}"
        );
        let told = of(None, None);
        assert!(
            told.contains("is not a member of the group 1500,"),
            "{told}"
        );
        assert!(
            told.contains("'groupadd -g 1500 NAME; usermod -aG NAME USER'"),
            "{told}"
        );
    }
}
