// SPDX-License-Identifier: MIT OR Apache-2.0

//! The rights with which files are opened.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid, setgroups};

/// The user and the group whose rights are used to open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

/// The rights with which files are opened. Usually these are the rights of this process. If root
/// has to open a file of another user, these are the rights of that user. Links that the user has
/// put into the path then lead only to files that the user could open anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(Option<Owner>);

impl Rights {
    /// The rights of this process.
    pub const OWN: Self = Self(None);

    /// Returns the rights of the owner of `directory` if this process runs as root and the owner is
    /// another user. Otherwise this returns [`Rights::OWN`].
    ///
    /// If this returns the rights of the owner, it has also dropped root's supplementary groups for
    /// the whole process, because they would apply in addition to the group of the owner.
    ///
    /// # Errors
    /// Returns the error of the system call.
    pub fn of_owner(directory: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(directory)?;
        if !Uid::effective().is_root() || metadata.uid() == 0 {
            return Ok(Self::OWN);
        }
        setgroups(&[])?;
        Ok(Self(Some(Owner {
            uid: Uid::from_raw(metadata.uid()),
            gid: Gid::from_raw(metadata.gid()),
        })))
    }

    /// Returns the id of the user who has these rights.
    pub fn uid(&self) -> u32 {
        self.0.map_or(Uid::effective(), |owner| owner.uid).as_raw()
    }

    /// Assumes these rights in this thread, until the returned value is dropped.
    ///
    /// # Errors
    /// Returns an error if this process is not permitted to assume these rights.
    pub fn assume(&self) -> io::Result<AssumedRights> {
        let Some(Owner { uid, gid }) = self.0 else {
            return Ok(AssumedRights(None));
        };
        // The group is changed first, so that this does not depend on the capabilities that root
        // loses when the user is changed (capabilities(7)).
        let assumed = AssumedRights(Some(Owner {
            gid: setfsgid(gid),
            uid: setfsuid(uid),
        }));
        // Neither call reports an error. Each call returns the id that was in force before it
        // (setfsuid(2)), so a second call shows whether the first one succeeded.
        if (setfsuid(uid), setfsgid(gid)) == (uid, gid) {
            Ok(assumed)
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("cannot assume the rights of the user with uid {uid}"),
            ))
        }
    }
}

/// A guard that keeps rights in force in this thread until it is dropped.
#[derive(Debug)]
#[must_use = "the rights are given back when this is dropped"]
pub struct AssumedRights(Option<Owner>);

impl Drop for AssumedRights {
    fn drop(&mut self) {
        if let Some(Owner { uid, gid }) = self.0 {
            setfsuid(uid);
            setfsgid(gid);
        }
    }
}
