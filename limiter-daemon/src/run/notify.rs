// SPDX-License-Identifier: MIT OR Apache-2.0

//! Messages to the service manager, for example that limits are in force (sd_notify(3)).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Sends `state`, for example `READY=1`, to the socket that `NOTIFY_SOCKET` names, if the variable
/// is set.
pub fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(name.as_encoded_bytes(), state) {
        log::warn!("cannot notify the service manager: {error}");
    }
}

fn send(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name {
        // In `NOTIFY_SOCKET`, an address in the abstract namespace begins with an at sign.
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        path => {
            use std::os::unix::ffi::OsStrExt as _;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?
        }
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
