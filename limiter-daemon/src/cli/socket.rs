//! Which control socket is meant.

use std::path::{Path, PathBuf};

use super::{SOCKET_NAME, args::default_socket};

/// What was said about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    /// `--socket`.
    pub(super) socket: Option<PathBuf>,
    /// `--runtime-dir`.
    pub(super) runtime: Option<PathBuf>,
    /// `LIMITER_SOCKET`; empty is as good as not there.
    pub(super) environment: Option<PathBuf>,
}

impl Said {
    fn in_runtime(&self) -> Option<PathBuf> {
        self.runtime.as_ref().map(|path| path.join(SOCKET_NAME))
    }

    /// The socket that a command asks: what was typed goes before the environment.
    pub(super) fn to_ask(&self) -> PathBuf {
        self.socket
            .clone()
            .or_else(|| self.in_runtime())
            .or_else(|| self.environment.clone())
            .unwrap_or_else(default_socket)
    }

    /// The socket that a daemon listens on, if not the one in its runtime directory. The
    /// environment's may be there to reach another daemon: where one answers, and this one was
    /// given a runtime directory of its own, that is not meant.
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

    fn said(socket: &str, runtime: &str, environment: &str) -> Said {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        Said {
            socket: path(socket),
            runtime: path(runtime),
            environment: path(environment),
        }
    }

    #[test]
    fn commands_take_what_was_typed_before_the_environment() {
        for (said, wanted) in [
            (said("/s", "/r", "/e"), "/s"),
            (said("", "/r", "/e"), "/r/limiter.sock"),
            (said("", "", "/e"), "/e"),
            (said("", "", ""), "/run/limiter/limiter.sock"),
        ] {
            assert_eq!(said.to_ask(), Path::new(wanted), "{said:?}");
        }
    }

    #[test]
    fn a_daemon_of_its_own_directory_leaves_the_socket_of_a_live_one() {
        for (said, live, wanted) in [
            (said("/s", "/r", "/e"), true, Some("/s")),
            (said("", "/r", "/e"), true, None),
            (said("", "/r", "/e"), false, Some("/e")),
            (said("", "", "/e"), true, Some("/e")),
            (said("", "/r", ""), false, None),
        ] {
            let found = said.to_listen(|_| live);
            assert_eq!(found.as_deref(), wanted.map(Path::new), "{said:?} {live}");
        }
    }
}
