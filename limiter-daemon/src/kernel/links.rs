//! Pinned TCX links: what they are called, and taking them off.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Hook, KernelError, pins::PinDirectory, sys};

/// A link's pin: bpffs refuses names with dots (`bpf_lookup` in `kernel/bpf/inode.c`), and
/// interfaces are often called `eth0.100`.
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

/// The interface and hook that a link's pin is for; `None` for a name that is not one of ours.
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

/// Links pinned under `pins`: interface, hook and path.
pub(super) fn pinned_links(
    pins: &PinDirectory,
) -> Result<Vec<(String, Hook, PathBuf)>, KernelError> {
    let directory = pins.links();
    let io_error = |source| KernelError::Io {
        path: directory.clone(),
        source,
    };
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(error)),
    };
    let mut links = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error)?;
        if let Some((interface, hook)) = entry.file_name().to_str().and_then(read_link_pin) {
            links.push((interface, hook, entry.path()));
        }
    }
    links.sort();
    Ok(links)
}

/// The index of the interface that a pinned link is on; 0 when that has gone, `None` without such a pin.
pub(super) fn interface_of(pin: &Path) -> Result<Option<u32>, KernelError> {
    let index = match sys::open_pin(pin) {
        Ok(link) => sys::link_interface(link).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    index.map_err(|source| KernelError::Io {
        path: pin.to_path_buf(),
        source,
    })
}

/// Takes a pinned link off its hook and removes the pin.
pub(super) fn unpin_link(pin: &Path) -> Result<(), KernelError> {
    let io_error = |source| KernelError::Io {
        path: pin.to_path_buf(),
        source,
    };
    match sys::open_pin(pin) {
        // A link whose interface has gone has nothing to be taken off from.
        Ok(link) => match sys::detach_link(link) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(io_error(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
    }
    fs::remove_file(pin).map_err(io_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_pins_carry_any_interface_name() {
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
