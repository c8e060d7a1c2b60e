//! Who is at the other end of the control socket, by the kernel's word.

use std::{io, os::fd::AsRawFd as _};

use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

/// Most groups that a process can be in (`NGROUPS_MAX`, credentials(7)).
const MAX_GROUPS: usize = 65_536;
/// Groups that most processes are in at most.
const SOME_GROUPS: usize = 32;

/// Who connected, as of connect(2); a process that has changed its user or groups since is still
/// the one that connected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Peer {
    /// `None` when the kernel does not say: then nothing is allowed.
    pub(super) uid: Option<u32>,
    /// Its group and its supplementary groups.
    pub(super) groups: Vec<u32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else {
            return Self::default();
        };
        let supplementary = groups(stream).unwrap_or_else(|error| {
            log::warn!("the groups of who uses the control socket: {error}");
            Vec::new()
        });
        Self {
            uid: Some(credentials.uid()),
            groups: [vec![credentials.gid()], supplementary].concat(),
        }
    }

    /// For the audit trail: by name, as far as there is one, and number, since names change hands.
    pub(super) fn name(&self) -> String {
        self.uid.map_or_else(|| "unknown".to_owned(), user_name)
    }
}

/// A user as the audit trail has it.
pub fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// The supplementary groups of the other end (`SO_PEERGROUPS`, `sk_getsockopt` in
/// `net/core/sock.c`).
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; SOME_GROUPS];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the buffer has the room that `bytes` says, and both outlive the call; the
        // descriptor is open as long as `stream`.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        // On success the bytes that were written, on ERANGE those that it takes.
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
            // It has none.
            Some(libc::ENODATA) => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_known_by_user_and_groups() {
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
