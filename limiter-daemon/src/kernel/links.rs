// SPDX-License-Identifier: MIT OR Apache-2.0

//! Names the pins of TCX links, and reads and detaches pinned links.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    KernelError,
    directory::list,
    error::io_error,
    pins::PinDirectory,
    sys::{self, TcxLink},
};
use crate::domain::hook::Hook;

/// Returns the path of the pin of a link. The name of the interface is escaped, because bpffs
/// rejects names with dots (`bpf_lookup` in `kernel/bpf/inode.c`), and interfaces often have names
/// such as `eth0.100`.
pub(super) fn link_pin(pins: &PinDirectory, interface: &str, hook: Hook) -> PathBuf {
    let mut name = String::new();
    for byte in interface.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    pins.links().join(format!("{name}-{}", hook.as_str()))
}

/// Returns the path of the pin of a link that will replace the link at [`link_pin`]. The pin is
/// named after an interface that cannot exist, because no interface name contains a slash. If the
/// daemon dies during the replacement, the next daemon detaches this link, or moves its pin to the
/// path that [`link_pin`] returns.
pub(super) fn next_link_pin(pins: &PinDirectory, interface: &str, hook: Hook) -> PathBuf {
    link_pin(pins, &format!("/{interface}"), hook)
}

/// Returns the interface and the hook from which [`link_pin`] makes the name `name`, or `None` if
/// our pins never have such a name.
pub(super) fn read_link_pin(name: &str) -> Option<(String, Hook)> {
    let (interface, hook) = name.rsplit_once('-')?;
    let hook = [Hook::Ingress, Hook::Egress]
        .into_iter()
        .find(|known| known.as_str() == hook)?;
    let mut bytes = Vec::new();
    let mut rest = interface.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some((String::from_utf8(bytes).ok()?, hook))
}

/// Returns the interface, the hook and the path of each link that is pinned under `pins`.
pub(super) fn pinned_links(
    pins: &PinDirectory,
) -> Result<Vec<(String, Hook, PathBuf)>, KernelError> {
    let directory = pins.links();
    let mut links = Vec::new();
    for path in list(&directory)? {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((interface, hook)) = name.and_then(read_link_pin) {
            links.push((interface, hook, path));
        }
    }
    links.sort();
    Ok(links)
}

/// Returns the names of the interfaces that have pinned links.
pub(super) fn linked_interfaces(pins: &PinDirectory) -> Result<Vec<String>, KernelError> {
    let links = pinned_links(pins)?;
    Ok(links.into_iter().map(|(interface, ..)| interface).collect())
}

/// Returns the interface and the program of a pinned link, or `None` if there is no such pin.
pub(super) fn read_link(pin: &Path) -> Result<Option<TcxLink>, KernelError> {
    let link = match sys::open_pin(pin) {
        Ok(link) => sys::tcx_link(link).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    link.map_err(io_error("open", pin))
}

/// Returns the index of a pinned link's interface, or `None` if there is no such pin. The index is
/// 0 if the interface is gone.
pub(super) fn interface_of(pin: &Path) -> Result<Option<u32>, KernelError> {
    Ok(read_link(pin)?.map(|link| link.interface))
}

/// Detaches a pinned link from its hook, and removes the pin.
pub(super) fn unpin_link(pin: &Path) -> Result<(), KernelError> {
    let failed = io_error("detach", pin);
    match sys::open_pin(pin) {
        // ENOLINK means that the interface is gone, so the link is detached already.
        Ok(link) => match sys::detach_link(link) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    fs::remove_file(pin).map_err(io_error("remove", pin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_pins_encode_any_interface_name() {
        let pins = PinDirectory::new(Path::new("/pins"));
        for name in ["eth0", "eth0.100", "wg-a_b", "br%1", "é"] {
            for hook in [Hook::Ingress, Hook::Egress] {
                let pin = link_pin(&pins, name, hook);
                let file = pin.file_name().and_then(|file| file.to_str()).unwrap();
                assert!(!file.contains('.'), "{file}");
                assert_eq!(read_link_pin(file), Some((name.to_owned(), hook)));
            }
        }
        assert_eq!(read_link_pin("something"), None);
    }
}
