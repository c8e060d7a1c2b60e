// SPDX-License-Identifier: MIT OR Apache-2.0

//! The rights of users on the control socket.

use std::{fmt, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, Method, header::CONNECTION},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use nix::unistd::{Group, Uid};

use super::{body::Pieces, peer::Peer};
use crate::{config::Control, http::Bounds, protocol::error::ApiError};

/// The path of `limiter key check`. The request changes nothing, but carries the key in a body,
/// because a path must not contain a key.
const READS_WITH_BODY: &str = "/v1/keys/check";

/// A group that the configuration names, with the id of the group if this host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AccessGroup {
    name: String,
    id: Option<u32>,
}

impl AccessGroup {
    fn look_up(name: &str) -> Self {
        let id = match Group::from_name(name) {
            Ok(group) => group.map(|group| group.gid.as_raw()),
            Err(error) => {
                log::warn!("cannot look up the group {name}: {error}");
                None
            }
        };
        Self {
            name: name.to_owned(),
            id,
        }
    }

    fn has(&self, peer: &Peer) -> bool {
        self.id.is_some_and(|id| peer.groups.contains(&id))
    }
}

impl fmt::Display for AccessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the group {}", self.name)?;
        match self.id {
            Some(_) => Ok(()),
            None => f.write_str(" (which did not exist when the daemon started)"),
        }
    }
}

/// The rights of users. Root and the daemon's own user may read and make changes, and so may
/// members of the admins' group. Members of the readers' group may only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    own_uid: u32,
    readers: AccessGroup,
    admins: AccessGroup,
}

impl Access {
    /// Looks up the current ids of the groups that the configuration names.
    pub fn new(control: &Control) -> Self {
        Self {
            own_uid: Uid::effective().as_raw(),
            readers: AccessGroup::look_up(&control.group),
            admins: AccessGroup::look_up(&control.admin_group),
        }
    }

    /// Returns the id of the group that may connect. It is the readers' group if that group exists,
    /// and otherwise the admins' group.
    pub fn socket_group(&self) -> Option<u32> {
        self.readers.id.or(self.admins.id)
    }

    fn is_trusted(&self, peer: &Peer) -> bool {
        peer.uid.is_some_and(|uid| uid == 0 || uid == self.own_uid)
    }

    fn check(&self, peer: &Peer, changes: bool) -> Result<(), ApiError> {
        if self.is_trusted(peer) || self.admins.has(peer) {
            return Ok(());
        }
        if changes {
            return Err(ApiError::forbidden(format!(
                "{} may not make changes: use root, or a member of {}",
                peer.name(),
                self.admins
            )));
        }
        if self.readers.has(peer) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!(
            "{} may not use the control socket: use root, a member of {} to read, or a member of {} to make changes",
            peer.name(),
            self.readers,
            self.admins
        )))
    }
}

/// Returns whether a request only reads. Requests with a method other than GET and HEAD count as
/// changes, except requests to [`READS_WITH_BODY`].
pub(super) fn reads(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || path == READS_WITH_BODY
}

/// Passes a request on if its user has the right to make it, and otherwise refuses it with status
/// 403.
pub(super) async fn check(
    State((access, bounds)): State<(Arc<Access>, Bounds)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let reads = reads(request.method(), request.uri().path());
    if let Err(error) = access.check(&peer, !reads) {
        log::warn!("{} {}: {error}", request.method(), request.uri().path());
        Pieces::new(request.into_body(), bounds).drain().await;
        return error.into_response();
    }
    let may_contain_key = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = next.run(request).await;
    if may_contain_key {
        // The request may have contained a key. The connection is closed, because otherwise the key
        // could stay in the buffers of an idle connection.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(readers: Option<u32>, admins: Option<u32>) -> Access {
        let named = |name: &str, id| AccessGroup {
            name: name.to_owned(),
            id,
        };
        Access {
            own_uid: 500,
            readers: named("limiter", readers),
            admins: named("limiter-admin", admins),
        }
    }

    #[test]
    fn readers_read_and_admins_change() {
        let both = access(Some(10), Some(20));
        let none = access(None, None);
        for (access, uid, groups, reads, changes) in [
            (&both, Some(0), vec![0], true, true),
            (&both, Some(500), vec![], true, true),
            (&both, Some(1000), vec![1000], false, false),
            (&both, Some(1000), vec![10], true, false),
            (&both, Some(1000), vec![1000, 20], true, true),
            (&both, Some(1000), vec![10, 20], true, true),
            // The kernel does not report the id of this user, so the user has no rights.
            (&both, None, vec![], false, false),
            (&none, Some(0), vec![0], true, true),
            (&none, Some(1000), vec![10, 20], false, false),
        ] {
            let peer = Peer { uid, groups };
            assert_eq!(access.check(&peer, false).is_ok(), reads, "{peer:?} reads");
            assert_eq!(
                access.check(&peer, true).is_ok(),
                changes,
                "{peer:?} changes"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_group_that_has_the_right() {
        let peer = Peer {
            uid: Some(4_000_000),
            groups: vec![10],
        };
        let message = |access: Access| access.check(&peer, true).unwrap_err().message;
        assert_eq!(
            message(access(Some(10), Some(20))),
            "uid 4000000 may not make changes: use root, or a member of the group limiter-admin"
        );
        assert!(message(access(Some(10), None)).contains("did not exist"));
    }

    #[test]
    fn the_socket_belongs_to_a_group_that_exists() {
        assert_eq!(access(Some(10), Some(20)).socket_group(), Some(10));
        assert_eq!(access(None, Some(20)).socket_group(), Some(20));
        assert_eq!(access(None, None).socket_group(), None);
    }
}
