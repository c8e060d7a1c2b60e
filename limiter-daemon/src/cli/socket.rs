// SPDX-License-Identifier: MIT OR Apache-2.0

//! Selects the control socket of a command.

use std::path::{Path, PathBuf};

use super::args::default_socket;
use crate::run::SOCKET_NAME;

/// The settings for the control socket.
#[derive(Debug, Clone, Default)]
pub(super) struct SocketSettings {
    /// The value of `--socket`.
    pub(super) socket: Option<PathBuf>,
    /// The value of `--runtime-dir`.
    pub(super) runtime: Option<PathBuf>,
    /// The value of `LIMITER_SOCKET`, unless it is empty.
    pub(super) environment: Option<PathBuf>,
}

impl SocketSettings {
    fn in_runtime(&self) -> Option<PathBuf> {
        self.runtime.as_ref().map(|path| path.join(SOCKET_NAME))
    }

    /// Returns the path of the socket to which a command connects. The options on the command line
    /// take precedence over the environment variable.
    pub(super) fn to_ask(&self) -> PathBuf {
        self.socket
            .clone()
            .or_else(|| self.in_runtime())
            .or_else(|| self.environment.clone())
            .unwrap_or_else(default_socket)
    }

    /// Returns whether the command line determines the socket.
    pub(super) fn is_typed(&self) -> bool {
        self.socket.is_some() || self.runtime.is_some()
    }

    /// Returns the path of the socket on which a daemon should listen, or `None` for the socket in
    /// the daemon's runtime directory. `LIMITER_SOCKET` may name the socket of another daemon. The
    /// variable is therefore ignored if this daemon has its own runtime directory and `answers`
    /// reports that a daemon answers on the socket that the variable names.
    pub(super) fn to_listen(&self, answers: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let environment = || {
            let path = self.environment.as_ref()?;
            (self.runtime.is_none() || !answers(path)).then(|| path.clone())
        };
        self.socket.clone().or_else(environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(socket: &str, runtime: &str, environment: &str) -> SocketSettings {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        SocketSettings {
            socket: path(socket),
            runtime: path(runtime),
            environment: path(environment),
        }
    }

    #[test]
    fn the_command_line_takes_precedence_over_the_environment() {
        for (settings, wanted) in [
            (settings("/s", "/r", "/e"), "/s"),
            (settings("", "/r", "/e"), "/r/limiter.sock"),
            (settings("", "", "/e"), "/e"),
            (settings("", "", ""), "/run/limiter/limiter.sock"),
        ] {
            assert_eq!(settings.to_ask(), Path::new(wanted), "{settings:?}");
        }
    }

    #[test]
    fn a_daemon_with_its_own_directory_does_not_take_the_socket_of_another() {
        for (settings, live, wanted) in [
            (settings("/s", "/r", "/e"), true, Some("/s")),
            (settings("", "/r", "/e"), true, None),
            (settings("", "/r", "/e"), false, Some("/e")),
            (settings("", "", "/e"), true, Some("/e")),
            (settings("", "/r", ""), false, None),
        ] {
            let found = settings.to_listen(|_| live);
            assert_eq!(
                found.as_deref(),
                wanted.map(Path::new),
                "{settings:?} {live}"
            );
        }
    }
}
