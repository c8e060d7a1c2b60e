// SPDX-License-Identifier: MIT OR Apache-2.0

//! The user at the other end of the control socket, as reported by the kernel.

use std::{io, os::fd::AsRawFd as _};

use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

/// The maximum number of groups of a process (`NGROUPS_MAX`, credentials(7)).
const MAX_GROUPS: usize = 65_536;
/// The number of groups for which the buffer has room at first. Most processes have fewer groups.
const INITIAL_GROUPS: usize = 32;

/// The credentials that the client process had when it called connect(2). Later changes of its user
/// or its groups have no effect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Peer {
    /// The user id, or `None` if the kernel does not report it. Such a user has no rights.
    pub(super) uid: Option<u32>,
    /// The group of the process and its supplementary groups.
    pub(super) groups: Vec<u32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else {
            return Self::default();
        };
        let supplementary = groups(stream).unwrap_or_else(|error| {
            log::warn!("cannot read the groups of a client of the control socket: {error}");
            Vec::new()
        });
        Self {
            uid: Some(credentials.uid()),
            groups: [vec![credentials.gid()], supplementary].concat(),
        }
    }

    /// Returns the user for the audit trail: the name, if there is one, and the id. The id is
    /// included because the name can later belong to another user.
    pub(super) fn name(&self) -> String {
        self.uid.map_or_else(|| "unknown".to_owned(), user_name)
    }
}

/// Returns a user in the form that the audit trail uses.
pub fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// Returns the supplementary groups of the client (`SO_PEERGROUPS`, `sk_getsockopt` in
/// `net/core/sock.c`).
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; INITIAL_GROUPS];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: `groups` has `bytes` bytes of room, and `groups` and `bytes` outlive the call.
        // The descriptor stays open during the call, because `stream` is borrowed. The kernel
        // writes at most `bytes` bytes, and any bytes are a valid `gid_t`.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        // On success, `bytes` is the number of bytes that the kernel has written. On ERANGE, it is
        // the number of bytes that the kernel needs.
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ERANGE) if count > groups.len() && count <= MAX_GROUPS => {
                groups.resize(count, 0);
            }
            // The process has no supplementary groups.
            Some(libc::ENODATA) => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_its_user_and_groups() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one);
        assert_eq!(peer.uid, Some(Uid::effective().as_raw()));
        assert_eq!(
            peer.groups.first(),
            Some(&nix::unistd::Gid::effective().as_raw())
        );
        assert_eq!(Peer::default().name(), "unknown");
    }
}
